//! POSIX message queues.

use crate::unsupported::Refusal;

/// Somebody is to be told of a message.
pub const NOTIFIES: Refusal = Refusal::fixed(
    "a process is to be notified of the next message in it (mq_notify), and how is not to be read",
    "have the program withdraw that before the dump (mq_notify with a null pointer)",
);

/// A queue without a name that is not empty.
pub const UNLINKED_WITH_MESSAGES: Refusal = Refusal::fixed(
    "messages wait in it, its name is gone, and they can only be read by taking them away",
    "have the program receive them before the dump",
);

/// A queue that is not in the dumper's namespace.
pub const ELSEWHERE: Refusal = Refusal::fixed(
    "it is in another IPC namespace than stasis, where its messages cannot be carried yet",
    "have it close the queue (mq_close) before the dump, or run the program in the IPC namespace of stasis",
);

/// A queue that is gone by now.
pub const GONE: Refusal = Refusal::fixed(
    "it has been removed since, with what was in it: the images do not have its messages",
    "restore in the boot of the machine that it was dumped in, before it is removed",
);

/// A queue that has its name by now.
pub const ANOTHER: Refusal = Refusal::fixed(
    "another queue has its name by now",
    "restore in the boot of the machine that it was dumped in, before the queue is removed",
);

/// A queue that is open in another way than by mq_open: as a path alone, or as a directory's file.
pub const BY_PATH: Refusal = Refusal::fixed(
    "it is a POSIX message queue that is open by a path of its file system",
    "have the program close it before the dump, or have the program open it by mq_open",
);
