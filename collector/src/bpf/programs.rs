//! The programs and maps by name: in the object, as pins, and what the kernel calls each by.

use kernel::bpf::Called;
use kernel::btf::Named;

/// A program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    /// In the object, and as a pin.
    pub(super) name: &'static str,
    pub(super) called: Called,
    /// What the kernel calls it by, in its type information.
    pub(super) target: (Named, &'static str),
}

const fn iterator(name: &'static str, target: &'static str) -> Program {
    Program { name, called: Called::Iterator, target: (Named::Function, target) }
}

const fn tracepoint(name: &'static str, target: &'static str) -> Program {
    Program { name, called: Called::Tracepoint, target: (Named::Alias, target) }
}

/// How many iterators there are, as many as `What` has names.
pub(super) const ITERATORS: usize = 15;

/// The iterators, then those that count; of these the first counts system calls.
pub(super) const PROGRAMS: [Program; 19] = [
    iterator("task", "bpf_iter_task"),
    iterator("task_file", "bpf_iter_task_file"),
    iterator("task_file_some", "bpf_iter_task_file"),
    iterator("task_vma", "bpf_iter_task_vma"),
    iterator("task_file_held", "bpf_iter_task_file"),
    iterator("task_vma_held", "bpf_iter_task_vma"),
    iterator("task_vma_aio", "bpf_iter_task_vma"),
    iterator("task_undo", "bpf_iter_task"),
    iterator("task_file_rings", "bpf_iter_task_file"),
    iterator("task_requests", "bpf_iter_task"),
    iterator("task_file_queue", "bpf_iter_task_file"),
    iterator("task_file_userfault", "bpf_iter_task_file"),
    iterator("task_vma_served", "bpf_iter_task_vma"),
    iterator("task_keys", "bpf_iter_task"),
    iterator("task_file_waiting", "bpf_iter_task_file"),
    tracepoint("sys_exit", "btf_trace_sys_exit"),
    tracepoint("track_fork", "btf_trace_sched_process_fork"),
    tracepoint("track_exec", "btf_trace_sched_process_exec"),
    tracepoint("track_exit", "btf_trace_sched_process_exit"),
];

/// Their places, by how long the verifier takes for them.
pub(super) const LONGEST_FIRST: [usize; PROGRAMS.len()] =
    [2, 1, 0, 4, 14, 10, 8, 7, 13, 5, 15, 3, 9, 6, 16, 18, 17, 11, 12];

/// The maps that the reader of the programs uses, too.
pub(super) const MAPS: [&str; 6] = ["TRACKED", "TRACKS", "NAMED", "ASKED", "CHANGED", "QUEUES"];

/// The one whose size is the number of processes that can be tracked.
pub(super) const TRACKED: &str = MAPS[0];

/// What an iterator is over: in the order of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    Threads,
    Files,
    /// What has been asked for.
    SomeFiles,
    Mappings,
    /// Descriptors of what has no name.
    HeldFiles,
    /// Mappings of what has no name.
    HeldMappings,
    /// Asynchronous I/O contexts, by the mappings of their rings.
    AioContexts,
    /// What is to be undone in System V semaphores.
    SemaphoreUndo,
    /// io_urings.
    Rings,
    /// What threads have in flight with them.
    Requests,
    /// Messages in a POSIX queue of this process.
    Messages,
    /// Userfaultfds.
    Userfaults,
    /// Mappings that they serve.
    ServedMappings,
    /// Keys of session keyrings.
    Keys,
    /// Connections that wait at a listening socket of this process.
    Waiting,
}

impl What {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Files | Self::SomeFiles | Self::HeldFiles => "files",
            Self::Mappings | Self::HeldMappings => "mappings",
            Self::AioContexts => "asynchronous I/O contexts",
            Self::SemaphoreUndo => "semaphore adjustments",
            Self::Rings => "io_urings",
            Self::Requests => "requests of io_urings",
            Self::Messages => "messages in queues",
            Self::Userfaults => "userfaultfds",
            Self::ServedMappings => "mappings with userfaultfds",
            Self::Keys => "keys",
            Self::Waiting => "connections that wait",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_is_loaded_once() {
        let mut places = LONGEST_FIRST;
        places.sort_unstable();
        assert!(places.into_iter().eq(0..PROGRAMS.len()));
    }
}
