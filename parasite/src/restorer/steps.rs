//! What a thread was doing when it could not go on.

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What a thread was doing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Step {
            $($(#[$doc])* $name = $number,)*
        }

        impl Step {
            /// The step with this number, as the words of an error.
            #[must_use]
            pub const fn describe(number: u32) -> &'static str {
                match number {
                    $($number => $text,)*
                    _ => "an unknown step",
                }
            }
        }
    };
}

steps! {
    /// Nothing yet.
    Start = 0, "start the restorer at";
    /// The vDSO is moved out of the way.
    ParkVdso = 1, "move the vdso away from";
    /// The old address space goes.
    Unmap = 2, "unmap the old address space at";
    /// A mapping is made.
    Map = 3, "map the memory at";
    /// Pages are put back.
    Fill = 4, "read the pages from file offset";
    /// A mapping gets its protection.
    Protect = 5, "protect the memory at";
    /// A mapping is advised on.
    Advise = 6, "give advice on the memory at";
    /// A mapping is locked.
    Lock = 7, "lock the memory at";
    /// The vDSO gets its place.
    MoveVdso = 8, "move the vdso to";
    /// The other fields of the address space.
    MmMap = 9, "set the fields of the address space, program break";
    /// Descriptors that were only for the restore go.
    Close = 10, "close the descriptors from";
    /// A signal gets its action.
    Action = 11, "set the action of signal";
    /// A thread is made.
    Clone = 12, "create thread";
    /// A POSIX timer is made.
    Timer = 13, "create timer";
    /// An interval timer is set.
    IntervalTimer = 14, "set interval timer";
    /// A limit is set.
    Limit = 15, "set resource limit";
    /// One of the process's attributes.
    Attribute = 16, "set the process attribute prctl";
    /// The robust list, the restartable sequence and the like.
    Thread = 17, "register what the thread had at";
    /// The thread's name.
    Name = 18, "name thread";
    /// Scheduling.
    Schedule = 19, "set the scheduling of thread";
    /// Users, groups, capabilities.
    Credentials = 20, "set the credentials of thread";
    /// The signal sent when the parent dies.
    ParentDeath = 21, "set the parent-death signal";
    /// Pending signals.
    Pending = 22, "make pending the signal";
    /// Personality.
    Personality = 23, "set personality";
    /// Memory barriers.
    Membarrier = 24, "register for memory barriers";
    /// The thread waits for its tracer.
    Park = 25, "park thread";
    /// Permission to use a component of the processor's extended state.
    Component = 26, "ask for the use of extended state component";
    /// An instruction becomes a fault.
    Fault = 27, "forbid an instruction by call";
    /// A NUMA policy of a mapping.
    Policy = 28, "set the NUMA policy of the memory at";
    /// I/O priority and the like.
    Setting = 29, "set what the thread has set for itself: value";
    /// What is in force for mappings to come.
    Future = 30, "set how memory to come is locked: MCL flags";
    /// A descriptor whose number was the restore's own is put into place.
    Late = 31, "put in place descriptor";
    /// Others who have the same descriptors are waited for, or told.
    Turn = 32, "wait for who shares the descriptors, by descriptor";
    /// A mapping is sealed.
    Seal = 33, "seal the memory at";
    /// Filters of system calls.
    Seccomp = 34, "filter the system calls, by filter";
    /// A System V segment is attached.
    Attach = 35, "attach the System V shared memory segment";
    /// A part of it gets its place.
    MoveAttached = 36, "move attached System V shared memory to";
    /// Memory that is built already gets its place.
    MoveBuilt = 37, "move what is built to";
    /// A memory protection key is taken, or given back.
    Key = 38, "take the memory protection key";
    /// A mapping gets its protection key.
    GiveKey = 39, "give a protection key to the memory at";
    /// An asynchronous I/O context is made.
    AioSetup = 40, "make the asynchronous I/O context at";
    /// Its ring comes to hold what it held.
    AioFill = 41, "bring back the events of the asynchronous I/O context at";
    /// Its ring gets its place.
    AioMove = 42, "move the ring of the asynchronous I/O context to";
    /// The rings of an io_uring get their place.
    RingMap = 43, "map the rings of the io_uring at";
    /// An io_uring comes to where it stood, by the thread that alone submits to it.
    RingIssue = 44, "count the requests of the io_uring, descriptor";
    /// Processes that have one memory wait for each other.
    Share = 45, "wait for who has the same memory, by its arguments at";
    /// A userfaultfd comes to serve what it served.
    Userfault = 46, "have memory served by the userfaultfd, descriptor";
    /// The vDSO of 32-bit code is made.
    MakeVdso = 47, "make the vdso of 32-bit code at";
}
