//! POSIX message queues.

use crate::unsupported::Refusal;

/// Somebody is to be told of a message.
pub const NOTIFIES: Refusal = Refusal::fixed(
    "a process is to be notified of the next message in it (mq_notify), and how is not to be read",
    "have the program withdraw that before the dump (mq_notify with a null pointer)",
);

/// The most bytes of all messages that are carried, which are read while the tree stands still.
pub const LARGEST_TOGETHER: u64 = 64 << 20;

/// Messages that nobody can tell.
pub const UNREADABLE: Refusal = Refusal::fixed(
    "messages wait in it, which only eBPF shows without taking them away",
    "dump it as root with eBPF (`stasis check` says what is missing), or have the program receive them before the dump",
);

/// More messages than are carried.
pub const TOO_LARGE: Refusal = Refusal::fixed(
    "the messages in POSIX queues without a name, or in an IPC namespace of the tree's own, are more than 64 MiB together, \
     which would have to be read while the program stands still",
    "have the program receive some of them before the dump",
);

/// Messages that come and go while the tree stands still.
pub const CHANGES: Refusal = Refusal::fixed(
    "somebody outside of the tree sends to it or receives from it while the tree stands still",
    "stop who uses it from outside (a process that has entered the IPC namespace) before the dump",
);

/// Messages that the user who asks might not read.
pub const NOT_READ: Refusal = Refusal::fixed(
    "it has no name any more, and the processes have it open to send alone: its messages would be shown to a user who may not \
     read them",
    "dump it as root",
);

/// A queue of a namespace that is not looked into.
pub const ELSEWHERE: Refusal = Refusal::fixed(
    "it is in an IPC namespace that neither stasis nor a process of the tree is in",
    "have it close the queue (mq_close) before the dump",
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
