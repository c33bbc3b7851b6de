//! Limits of an IPC namespace: files in /proc/sys, which are those of the calling thread's.

use std::io;

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Semaphores in a set, in all, operations in a call, sets.
    Semaphores,
    /// Bytes of a message.
    MessageBytes,
    /// Bytes in a queue.
    QueueBytes,
    /// Queues.
    Queues,
    /// Without effect today.
    AutoQueues,
    /// Bytes of a segment.
    SegmentBytes,
    /// Pages of all segments.
    SegmentPages,
    /// Segments.
    Segments,
    /// Whether a segment goes when nobody has it attached.
    RemovedForced,
    /// POSIX queues.
    PosixQueues,
    /// Messages in a POSIX queue.
    PosixMessages,
    /// Bytes of a message in one.
    PosixBytes,
    /// The first of these of a queue that does not say.
    PosixMessagesDefault,
    /// The second of a queue that does not say.
    PosixBytesDefault,
    /// The id that the next queue is to get.
    NextQueue,
    /// The id that the next set is to get.
    NextSet,
    /// The id that the next segment is to get.
    NextSegment,
}

impl Limit {
    const fn path(self) -> &'static str {
        match self {
            Self::Semaphores => "/proc/sys/kernel/sem",
            Self::MessageBytes => "/proc/sys/kernel/msgmax",
            Self::QueueBytes => "/proc/sys/kernel/msgmnb",
            Self::Queues => "/proc/sys/kernel/msgmni",
            Self::AutoQueues => "/proc/sys/kernel/auto_msgmni",
            Self::SegmentBytes => "/proc/sys/kernel/shmmax",
            Self::SegmentPages => "/proc/sys/kernel/shmall",
            Self::Segments => "/proc/sys/kernel/shmmni",
            Self::RemovedForced => "/proc/sys/kernel/shm_rmid_forced",
            Self::PosixQueues => "/proc/sys/fs/mqueue/queues_max",
            Self::PosixMessages => "/proc/sys/fs/mqueue/msg_max",
            Self::PosixBytes => "/proc/sys/fs/mqueue/msgsize_max",
            Self::PosixMessagesDefault => "/proc/sys/fs/mqueue/msg_default",
            Self::PosixBytesDefault => "/proc/sys/fs/mqueue/msgsize_default",
            Self::NextQueue => "/proc/sys/kernel/msg_next_id",
            Self::NextSet => "/proc/sys/kernel/sem_next_id",
            Self::NextSegment => "/proc/sys/kernel/shm_next_id",
        }
    }

    /// Its numbers; none where the kernel has no such limit.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(self) -> io::Result<Vec<i128>> {
        let text = match crate::sysctl::read(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let numbers = text.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>();
        numbers.map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Its first number; `None` where the kernel has no such limit.
    ///
    /// # Errors
    /// As [`Limit::read`].
    pub fn first(self) -> io::Result<Option<i128>> {
        Ok(self.read()?.first().copied())
    }

    /// Sets it, if it is not so already; nothing is done where the kernel has no such limit.
    ///
    /// # Errors
    /// If the kernel does not take the numbers, or the rights are missing.
    pub fn set(self, numbers: &[u64]) -> io::Result<()> {
        let there = self.read()?;
        if there.is_empty() || there.iter().copied().eq(numbers.iter().map(|it| i128::from(*it))) {
            return Ok(());
        }
        let text: Vec<_> = numbers.iter().map(u64::to_string).collect();
        let failed = |error: io::Error| {
            let text = format!("set {} to {}: {error}", self.path(), text.join(" "));
            io::Error::new(error.kind(), text)
        };
        std::fs::write(self.path(), text.join(" ")).map_err(failed)
    }
}
