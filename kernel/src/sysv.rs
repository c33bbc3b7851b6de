//! System V IPC: shared memory, semaphores and message queues of the calling thread's IPC namespace
//! (shmctl(2), semctl(2), msgctl(2)).
//!
//! An object has an id, by which programs use it, and mostly a key, by which they find it. The kernel chooses
//! ids; the next one can be asked for by a file in /proc/sys, which is how an object gets back the one that it had.

pub mod limits;
pub mod queues;
pub mod segments;
pub mod semaphores;

use std::io;

use crate::credentials::Credentials;

/// Whose an object is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Its key, 0 for an object without one (`IPC_PRIVATE`).
    pub key: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Who made it.
    pub cuid: u32,
    /// The group of who made it.
    pub cgid: u32,
    /// Permissions, and above them flags of the kernel's.
    pub mode: u32,
}

impl Owner {
    /// Its permissions alone.
    #[must_use]
    pub const fn permissions(&self) -> u32 {
        self.mode & 0o777
    }
}

impl From<&libc::ipc_perm> for Owner {
    fn from(perm: &libc::ipc_perm) -> Self {
        let libc::ipc_perm { __key, uid, gid, cuid, cgid, mode, .. } = *perm;
        Self { key: __key.cast_unsigned(), uid, gid, cuid, cgid, mode: mode.into() }
    }
}

/// The kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Shared memory.
    Segment,
    /// A set of semaphores.
    Set,
    /// A message queue.
    Queue,
}

/// How often an id is asked for: another process may make an object just then, and get it.
const ATTEMPTS: usize = 10;

/// Makes an object of a kind with the id that is `wanted`; whether that was to be had. `get` is the call that makes an
/// object with this key, made by a thread that has taken on the ids of its maker, and `remove` the one that removes it.
fn make_with_id(
    kind: Kind,
    wanted: i32,
    (owner, capabilities): (&Owner, u64),
    get: impl Fn(libc::key_t) -> io::Result<i32> + Send + Sync,
    remove: impl Fn(i32) -> io::Result<()>,
) -> io::Result<bool> {
    let file = match kind {
        Kind::Segment => "/proc/sys/kernel/shm_next_id",
        Kind::Set => "/proc/sys/kernel/sem_next_id",
        Kind::Queue => "/proc/sys/kernel/msg_next_id",
    };
    let maker = Credentials {
        users: [owner.cuid; 4],
        groups: [owner.cgid; 4],
        supplementary: Vec::new(),
        effective: capabilities,
    };
    for _ in 0..ATTEMPTS {
        std::fs::write(file, wanted.to_string())?;
        let made = maker.during(|| get(owner.key.cast_signed()))?;
        if made.is_err() {
            // The id waits for the next who makes an object, and is not to be somebody else's.
            let unused = get(libc::IPC_PRIVATE).and_then(&remove);
            drop(unused);
        }
        let made = made?;
        if made == wanted {
            return Ok(true);
        }
        remove(made)?;
    }
    Ok(false)
}

/// Whether this says that there is no such object.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIDRM))
}

fn done(answer: libc::c_int) -> io::Result<i32> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
