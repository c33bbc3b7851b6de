//! Message queues.

use std::io;

use super::{Kind, Owner, done, make_with_id};

/// What the kernel says of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its id.
    pub id: i32,
    /// Whose it is.
    pub owner: Owner,
    /// Most bytes in it.
    pub most: u64,
    /// Messages in it.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type, above 0.
    pub kind: i64,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// Bytes of the type that precedes a message.
const HEAD: usize = size_of::<libc::c_long>();

impl Queue {
    /// All of the namespace.
    ///
    /// # Errors
    /// If one of them is another's (`CAP_IPC_OWNER`).
    pub fn all() -> io::Result<Vec<Self>> {
        // SAFETY: of integers all zeros are a value.
        let mut info: libc::msginfo = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes a `msginfo`.
        let last = done(unsafe { libc::msgctl(0, libc::MSG_INFO, (&raw mut info).cast()) })?;
        let mut found = Vec::new();
        for place in 0..=last {
            match stat(place, libc::MSG_STAT) {
                Ok((id, stat)) => found.push(Self::of(id, &stat)),
                Err(error) if super::is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn of(id: i32, stat: &libc::msqid_ds) -> Self {
        Self {
            id,
            owner: Owner::from(&stat.msg_perm),
            most: stat.msg_qbytes,
            messages: stat.msg_qnum,
            bytes: stat.__msg_cbytes,
        }
    }

    /// The messages that wait in it, which stay there.
    ///
    /// # Errors
    /// If one of them is longer than messages may be by now (`kernel.msgmax`), or the queue is another's.
    pub fn copy(&self) -> io::Result<Vec<Message>> {
        let room = usize::try_from(self.bytes).map_err(|_| io::ErrorKind::InvalidData)?;
        // Words, for the type is one.
        let mut buffer = vec![0u64; (HEAD + room).div_ceil(8)];
        let mut messages = Vec::new();
        for index in 0..self.messages {
            let index = libc::c_long::try_from(index).map_err(|_| io::ErrorKind::InvalidData)?;
            let flags = libc::MSG_COPY | libc::IPC_NOWAIT;
            // SAFETY: behind the type there are at least `room` bytes.
            let got =
                unsafe { libc::msgrcv(self.id, buffer.as_mut_ptr().cast(), room, index, flags) };
            let length = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
            // SAFETY: the kernel has written so many bytes behind the type.
            let bytes = unsafe {
                std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>().add(HEAD), length)
            };
            messages.push(Message { kind: buffer[0].cast_signed(), bytes: bytes.to_vec() });
        }
        Ok(messages)
    }

    /// Makes an empty queue, that takes as much as the namespace lets it; whether its id was to be had.
    ///
    /// # Errors
    /// If there is one with that key, the limits leave no room, or the rights are missing.
    pub fn make(&self) -> io::Result<bool> {
        let flags = self.owner.permissions().cast_signed() | libc::IPC_CREAT | libc::IPC_EXCL;
        // SAFETY: takes integers.
        let get = |key| done(unsafe { libc::msgget(key, flags) });
        make_with_id(Kind::Queue, self.id, (&self.owner, 0), get, remove)
    }

    /// Gives a queue that is filled its owner, and what it takes.
    ///
    /// # Errors
    /// If it has gone or is another's.
    pub fn finish(&self) -> io::Result<()> {
        let (_, mut stat) = stat(self.id, libc::IPC_STAT)?;
        (stat.msg_perm.uid, stat.msg_perm.gid) = (self.owner.uid, self.owner.gid);
        stat.msg_qbytes = self.most;
        // SAFETY: the kernel reads a `msqid_ds`.
        done(unsafe { libc::msgctl(self.id, libc::IPC_SET, &raw mut stat) }).map(drop)
    }
}

/// Sends a message to a queue that has room for it.
///
/// # Errors
/// If it has none, the message is too long or of no type, or the queue is another's.
pub fn send(id: i32, message: &Message) -> io::Result<()> {
    let mut buffer = vec![0u64; (HEAD + message.bytes.len()).div_ceil(8)];
    buffer[0] = message.kind.cast_unsigned();
    // SAFETY: the buffer has room for the type and the bytes, and the kernel reads no more.
    done(unsafe {
        let to = buffer.as_mut_ptr().cast::<u8>().add(HEAD);
        to.copy_from_nonoverlapping(message.bytes.as_ptr(), message.bytes.len());
        libc::msgsnd(id, buffer.as_ptr().cast(), message.bytes.len(), libc::IPC_NOWAIT)
    })
    .map(drop)
}

fn remove(id: i32) -> io::Result<()> {
    // SAFETY: takes integers.
    done(unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
}

fn stat(id: i32, command: i32) -> io::Result<(i32, libc::msqid_ds)> {
    // SAFETY: of integers all zeros are a value.
    let mut stat: libc::msqid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the two commands that it is called with write a `msqid_ds`.
    let answer = done(unsafe { libc::msgctl(id, command, &raw mut stat) })?;
    Ok((answer, stat))
}
