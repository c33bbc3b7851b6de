//! The root of the tree: whose child it is, and how it is set going.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::RawFd;

use ids::{HostPid, ImagePid, ImagePids};
use kernel::descriptors::duplicate_from;
use kernel::passing::{await_sender, tell_sender};
use kernel::process::{
    Fork, exit_now, fork_as, fork_as_any, fork_beside, let_be_traced, reset_signal_actions,
    set_signal_mask, wait_status,
};
use kernel::ptrace::RseqConfiguration;

use crate::error::Error;
use crate::inherited_values;
use crate::options::Parent;
use crate::task::BuildContext;

/// The way between the root and the holder, before the one traces the other.
#[derive(Debug)]
pub(crate) struct Reins {
    /// The root is there, and may be traced. It is a socket, as that tells who writes to it: the root itself
    /// knows only its number in its own pid namespace.
    pub(crate) there: Pipe,
    /// It goes on.
    pub(crate) go: Pipe,
}

/// A pipe whose ends are out of the tasks' way.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: File,
    write: File,
}

impl Pipe {
    fn new(base: RawFd) -> Result<Self, Error> {
        let failed = || Error::kernel("make a pipe");
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
            .map_err(|errno| failed()(errno.into()))?;
        let keep = |end| duplicate_from(end, base).map(File::from).map_err(failed());
        Ok(Self { read: keep(&read)?, write: keep(&write)? })
    }

    /// One whose reader learns who writes.
    fn with_names(base: RawFd) -> Result<Self, Error> {
        let failed = || Error::kernel("make a pair of sockets");
        let (read, write) = kernel::passing::pair_with_senders().map_err(failed())?;
        let keep = |end| duplicate_from(end, base).map(File::from).map_err(failed());
        Ok(Self { read: keep(&read)?, write: keep(&write)? })
    }
}

impl Reins {
    pub(crate) fn new(base: RawFd) -> Result<Self, Error> {
        Ok(Self { there: Pipe::with_names(base)?, go: Pipe::new(base)? })
    }

    /// In the holder: waits until the root is there, which the images call `pid`; who that is, and the way to
    /// set it going.
    pub(crate) fn await_root(self, pid: ImagePid) -> Result<(HostPid, File), Error> {
        let Pipe { read, write } = self.there;
        drop(write);
        drop(self.go.read);
        let gone = |_| Error::Lost { pid: pid.get(), what: "it ended before it began".to_owned() };
        Ok((await_sender(&read).map_err(gone)?, self.go.write))
    }
}

/// Makes the root, which waits to be traced and told to go on. `spare` are numbers that the
/// tree does not want, and `ours` what nobody of it must have. Who it is here.
pub(crate) fn make(
    build_context: &BuildContext<'_>,
    reins: Reins,
    parent: Parent,
    spare: &mut impl Iterator<Item = HostPid>,
    ours: &File,
) -> Result<HostPid, Error> {
    build_context.pass_slack(0)?;
    let made = match parent {
        Parent::Caller if build_context.namespaces.has_users() => {
            pass(build_context, reins, ours, false)
        }
        Parent::CallersParent if build_context.namespaces.has_users() => {
            pass(build_context, reins, ours, true)
        }
        Parent::Caller => bear(build_context, reins, ours, false),
        Parent::CallersParent => bear(build_context, reins, ours, true),
        Parent::WhoRemains => orphan(build_context, reins, spare, ours),
    };
    made.map_err(Error::kernel(format!("create process {}", build_context.plan.tasks[0].pid)))
}

/// Makes the root a child of the caller, or of the caller's parent.
fn bear(
    build_context: &BuildContext<'_>,
    reins: Reins,
    ours: &File,
    sibling: bool,
) -> io::Result<HostPid> {
    let root = build_context.plan.tasks[0].pid;
    let known = build_context.stood_in.and_then(|known| ImagePid::new(known.get()));
    let known = known.and_then(|known| ImagePids::from_outermost([known, root]));
    let made = build_context.namespaces.born_with_root(|flags| {
        match known.map(|known| fork_as(&known, sibling, flags)) {
            Some(Ok(made)) => Ok(made),
            // Somebody has it by now, or nobody in the user namespace of the tree may choose it.
            None | Some(Err(_)) => fork_as(&ImagePids::single(root), sibling, flags),
        }
    })?;
    made.map_or_else(|| run(build_context, reins, ours), Ok)
}

/// Makes the root a child of the caller, or of the caller's parent, by a process that enters the user namespace of the tree and
/// ends at once. (As a sibling that one is left to the parent as well: it is told, and finds one more child that has ended.)
fn pass(
    build_context: &BuildContext<'_>,
    reins: Reins,
    ours: &File,
    sibling: bool,
) -> io::Result<HostPid> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let (mut read, mut write) = (File::from(read), File::from(write));
    let Some(passing) = fork_beside(sibling)? else {
        drop(read);
        let made = enter_users(build_context).and_then(|()| bear(build_context, reins, ours, true));
        let failed = |error: io::Error| -error.raw_os_error().unwrap_or(libc::EIO);
        let told = write.write_all(&made.map_or_else(failed, HostPid::get).to_ne_bytes());
        exit_now(i32::from(told.is_err()))
    };
    drop(write);
    drop(reins);
    let mut number = [0; 4];
    let told = read.read_exact(&mut number);
    if !sibling {
        wait_status(passing)?;
    }
    told?;
    let number = i32::from_ne_bytes(number);
    HostPid::new(number).ok_or_else(|| io::Error::from_raw_os_error(number.saturating_neg()))
}

fn enter_users(build_context: &BuildContext<'_>) -> io::Result<()> {
    if !build_context.namespaces.has_users() {
        return Ok(());
    }
    inherited_values::take_on(build_context.checkpoint).map_err(|error| {
        tracing::error!(
            "{error}: {}",
            std::error::Error::source(&error).map_or_else(String::new, ToString::to_string)
        );
        io::Error::from_raw_os_error(libc::EPERM)
    })?;
    let ids = build_context.namespaces.ids();
    let groups = crate::rights::groups_of_first(build_context.checkpoint, &ids);
    build_context.namespaces.enter_users(&groups)
}

/// Makes the root by a process that ends at once: the root is the child of whoever adopts orphans
/// here before it asks for a signal at its parent's end.
fn orphan(
    build_context: &BuildContext<'_>,
    reins: Reins,
    spare: &mut impl Iterator<Item = HostPid>,
    ours: &File,
) -> io::Result<HostPid> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let (mut read, mut write) = (File::from(read), File::from(write));
    let mut number = [0; 4];
    match fork_as_any(spare.take(10))?.ok_or(io::ErrorKind::AlreadyExists)? {
        (passing, Fork::Parent) => match wait_status(passing)? {
            0 => {
                read.read_exact(&mut number)?;
                HostPid::new(i32::from_ne_bytes(number)).ok_or(io::ErrorKind::InvalidData.into())
            }
            status => Err(io::Error::from_raw_os_error(libc::WEXITSTATUS(status))),
        },
        (_, Fork::Child) => {
            let made = enter_users(build_context)
                .and_then(|()| bear(build_context, reins, ours, false))
                .and_then(|root| write.write_all(&root.get().to_ne_bytes()));
            exit_now(made.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0))
        }
    }
}

fn run(build_context: &BuildContext<'_>, reins: Reins, ours: &File) -> ! {
    // Its copies of these must not keep the commander or the holder from seeing the other's end,
    // nor itself from seeing the holder's. It never gets back to who owns them.
    use std::os::fd::AsRawFd;
    let ours = ours.as_raw_fd();
    let closed = kernel::descriptors::close_range(ours, ours);
    let Reins { there, go } = reins;
    let Pipe { read: mut told, write } = go;
    drop(write);
    let_be_traced();
    let mut bytes = [0; MESSAGE];
    let ready = closed
        .and_then(|()| set_signal_mask(build_context.mask()))
        .and_then(|()| tell_sender(&there.write))
        .and_then(|()| {
            drop(there);
            told.read_exact(&mut bytes)
        });
    if ready.is_err() {
        exit_now(1);
    }
    drop(told);
    reset_signal_actions();
    build_context.run(0, &configuration(&bytes))
}

/// Bytes of the message that sets the root going: where the C library of this process, and so of
/// all its copies, has its restartable-sequence area.
const MESSAGE: usize = 16;

pub(crate) fn message(rseq: &RseqConfiguration) -> [u8; MESSAGE] {
    let mut bytes = [0; MESSAGE];
    bytes[..8].copy_from_slice(&rseq.pointer.to_ne_bytes());
    bytes[8..12].copy_from_slice(&rseq.size.to_ne_bytes());
    bytes[12..].copy_from_slice(&rseq.signature.to_ne_bytes());
    bytes
}

fn configuration(bytes: &[u8; MESSAGE]) -> RseqConfiguration {
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let mut pointer = [0; 8];
    pointer.copy_from_slice(&bytes[..8]);
    RseqConfiguration {
        pointer: u64::from_ne_bytes(pointer),
        size: word(8),
        signature: word(12),
        ..RseqConfiguration::default()
    }
}
