//! io_urings.

use ebpf_common::ring;

use crate::Refusal;

const CLOSE: &str = "have the program close the io_uring (io_uring_queue_exit) before the dump";

/// Without eBPF: neither what the kernel counts nor what is in flight can be read.
pub const UNSEEN: Refusal = Refusal::fixed(
    "only eBPF programs see what the kernel keeps of an io_uring",
    "dump with CAP_BPF and CAP_PERFMON (`stasis programs` says what is loaded), or have the program close the \
     io_uring before the dump",
);

/// With eBPF, on a kernel whose structures are others.
pub const UNKNOWN: Refusal = Refusal::fixed(
    "this kernel does not tell what it keeps of an io_uring (Linux 6.13 and later do)",
    CLOSE,
);

/// Mappings of a ring that no process of the tree has open.
pub const RING_WITHOUT_FILE: Refusal = Refusal::fixed(
    "the rings of an io_uring that the process has not open (IORING_SETUP_REGISTERED_FD_ONLY, or it has closed it)",
    "have the program unmap them (munmap; io_uring_queue_exit does) before the dump",
);

/// A mapping that does not begin where a part of the ring does.
pub const MAPPED_IN_PARTS: Refusal = Refusal::fixed(
    "a part of the rings of an io_uring: they can only be mapped from their beginning",
    "have the program unmap it (munmap), and map all of it again if need be, before the dump",
);

/// A ring whose memory does not say what the kernel knows.
pub const WRITTEN_OVER: Refusal = Refusal::fixed(
    "its rings do not say what the kernel knows of them: they have been written over",
    CLOSE,
);

/// A ring that has been used for longer than a restore can make up for.
pub const TOO_FAR: Refusal = Refusal::fixed(
    "it has been used for more than 200 million requests, which a restore would have to make up for one by one",
    "have the program close the io_uring and make another one before the dump",
);

/// A ring to which one thread alone may submit that a restore could not have do so.
pub const ISSUER: Refusal = Refusal::fixed(
    "one thread alone may submit to it (IORING_SETUP_SINGLE_ISSUER), and has ended, has not all of it mapped, or others have \
     sent it completions",
    CLOSE,
);

/// A restore makes it with rights that a user has not: what it has registered would not count against his limit of locked memory,
/// nor `kernel.io_uring_disabled` for him.
pub const OF_USER: Refusal = Refusal::fixed(
    "it is an io_uring, and a restore would make it with rights that a user has not",
    "have it dumped and restored by root",
);

/// More registered files than the eBPF programs tell.
pub const MANY_FILES: Refusal = Refusal::fixed(
    "it has room for more than 128 registered files",
    "have the program unregister its files (io_uring_unregister_files) before the dump",
);

/// A registered file that is nowhere else in the process.
#[must_use]
pub fn file_elsewhere(place: usize) -> Refusal {
    Refusal::new(
        format!("the file registered in place {place} is not open as a descriptor of the process"),
        "have the program unregister it (io_uring_register_files_update with -1), or keep it open, before the dump",
    )
}

/// An eventfd that no process of the tree has open.
pub const EVENTFD_ELSEWHERE: Refusal = Refusal::fixed(
    "the eventfd that is told of its completions is not open as a descriptor of the process",
    "have the program unregister it (io_uring_unregister_eventfd) before the dump",
);

/// Rings that a thread calls by the number of a place, and not by a descriptor.
pub const REGISTERED_RINGS: Refusal = Refusal::fixed(
    "it has registered the descriptors of io_urings (IORING_REGISTER_RING_FDS)",
    "have the thread unregister them (io_uring_unregister_ring_fd) before the dump",
);

/// A request that waits for something to happen.
#[must_use]
pub fn waiting(operation: &str) -> Refusal {
    Refusal::new(
        format!("a request of it waits for something to happen ({operation})"),
        "have the program cancel it (io_uring_prep_cancel), or close the io_uring, before the dump",
    )
}

/// Requests that have not been completed in the time that they were waited for.
#[must_use]
pub fn in_flight(requests: u32) -> Refusal {
    Refusal::new(
        format!(
            "{requests} requests of io_urings are in flight, and were not completed while it was waited for them"
        ),
        "dump again when they are completed; requests that wait for something to happen must be cancelled \
         (io_uring_prep_cancel) before the dump",
    )
}

/// `IORING_SETUP_*` flags that are carried (include/uapi/linux/io_uring.h): `CQSIZE`, `CLAMP`, `ATTACH_WQ`, `R_DISABLED`,
/// `SUBMIT_ALL`, `COOP_TASKRUN`, `TASKRUN_FLAG`, `SQE128`, `CQE32`, `SINGLE_ISSUER`, `DEFER_TASKRUN`, `NO_SQARRAY`.
const CARRIED: u32 = 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | 1 << 10
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 16;

/// Those that are not, by what they are called and what would have to be otherwise.
static FLAGS: [(u32, Refusal); 5] = [
    (1 << 0, Refusal::fixed("it polls devices for completions (IORING_SETUP_IOPOLL)", CLOSE)),
    (
        1 << 1,
        Refusal::fixed(
            "a thread of the kernel's submits for it (IORING_SETUP_SQPOLL)",
            "start the program without it, or have it close the io_uring (io_uring_queue_exit) before the dump",
        ),
    ),
    (
        1 << 14,
        Refusal::fixed("its rings are in memory of the program's (IORING_SETUP_NO_MMAP)", CLOSE),
    ),
    (
        1 << 15,
        Refusal::fixed(
            "it is known by a registered descriptor only (IORING_SETUP_REGISTERED_FD_ONLY)",
            CLOSE,
        ),
    ),
    (u32::MAX, Refusal::fixed("it was made with flags that this program does not know", CLOSE)),
];

/// Bits of [`ring`] that are refused.
static HAS: [(u32, Refusal); 11] = [
    (ring::UNKNOWN, UNKNOWN),
    (
        ring::TIMEOUTS,
        Refusal::fixed(
            "a request of it waits for a time (IORING_OP_TIMEOUT)",
            "have the program cancel it (io_uring_prep_timeout_remove), or close the io_uring, before the dump",
        ),
    ),
    (
        ring::OVERFLOW,
        Refusal::fixed(
            "there was no room for some of its completions, which the kernel keeps",
            "have the program take its completions (io_uring_peek_cqe, io_uring_get_events) before the dump",
        ),
    ),
    (
        ring::PERSONALITIES,
        Refusal::fixed(
            "it has credentials registered",
            "have the program unregister them (io_uring_unregister_personality) before the dump",
        ),
    ),
    (ring::RESTRICTIONS, Refusal::fixed("it is restricted to some operations", CLOSE)),
    (
        ring::BUFFER_GROUPS,
        Refusal::fixed(
            "it has buffers that the kernel chooses from (provided buffers)",
            "have the program take them back (io_uring_unregister_buf_ring, IORING_OP_REMOVE_BUFFERS) before the dump",
        ),
    ),
    (
        ring::POLLED_DEVICES,
        Refusal::fixed(
            "it polls network devices",
            "have the program unregister that (io_uring_unregister_napi) before the dump",
        ),
    ),
    (ring::WAIT_REGION, Refusal::fixed("it has a region of memory registered for waits", CLOSE)),
    (ring::RECEIVE_QUEUES, Refusal::fixed("it receives from queues of network devices", CLOSE)),
    (ring::WORKERS, Refusal::fixed("it has limits set on the kernel's threads", CLOSE)),
    (
        ring::CLOCK,
        Refusal::fixed(
            "its waits count by another clock than CLOCK_MONOTONIC",
            "have the program set that (io_uring_register_clock) before the dump",
        ),
    ),
];

const BUFFERS: Refusal = Refusal::fixed(
    "it has buffers registered",
    "have the program unregister them (io_uring_unregister_buffers) before the dump",
);

/// What a ring was made with, or has, that is not carried.
#[must_use]
pub fn of_ring(flags: u32, has: u32, buffers: u32) -> Option<Refusal> {
    let by_flag = FLAGS.iter().find(|(bits, _)| flags & !CARRIED & bits != 0);
    let by_bit = || HAS.iter().find(|(bit, _)| has & bit != 0);
    let found = HAS.iter().find(|(bit, _)| *bit == ring::UNKNOWN && has & bit != 0);
    found
        .or(by_flag)
        .or_else(by_bit)
        .map(|(_, refusal)| refusal.clone())
        .or_else(|| (buffers > 0).then_some(BUFFERS))
}

/// What an operation of a request is called.
#[must_use]
pub fn operation(number: u32) -> String {
    const NAMES: [(u32, &str); 14] = [
        (1, "READV"),
        (2, "WRITEV"),
        (6, "POLL_ADD"),
        (9, "SENDMSG"),
        (10, "RECVMSG"),
        (11, "TIMEOUT"),
        (13, "ACCEPT"),
        (16, "CONNECT"),
        (22, "READ"),
        (23, "WRITE"),
        (26, "SEND"),
        (27, "RECV"),
        (29, "EPOLL_CTL"),
        (49, "READ_MULTISHOT"),
    ];
    match NAMES.iter().find(|(known, _)| *known == number) {
        Some((_, name)) => format!("IORING_OP_{name}"),
        None => format!("operation {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_carried_is_named() {
        let said = |flags, has, buffers| {
            of_ring(flags, has, buffers)
                .map_or_else(String::new, |refusal| refusal.reason.to_string())
        };
        assert_eq!(said(CARRIED, ring::NO_DRAIN, 0), "");
        assert!(said(CARRIED | 2, 0, 0).contains("SQPOLL"));
        assert!(said(1 << 14, 0, 0).contains("NO_MMAP"));
        assert!(said(1 << 20, 0, 0).contains("does not know"));
        assert!(said(2, ring::UNKNOWN, 0).contains("this kernel"));
        assert!(said(0, ring::TIMEOUTS, 0).contains("TIMEOUT"));
        assert!(said(0, 0, 1).contains("buffers"));
        assert_eq!(
            (operation(13).as_str(), operation(200).as_str()),
            ("IORING_OP_ACCEPT", "operation 200")
        );
    }
}
