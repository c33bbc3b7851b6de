use super::*;
use crate::holds::References;
use crate::{OpenFile, Process};

fn pid(number: i32) -> HostPid {
    HostPid::new(number).unwrap()
}

fn judge(inventory: &Inventory, holders: &[Held], own: HostPid) -> Judged {
    super::judge(&Tree::of(inventory, &[], own, |pid| pid == PASSING), holders)
}

fn file(fd: i32, mode: u32, target: &str) -> OpenFile {
    OpenFile {
        fd,
        close_on_exec: false,
        description: 0,
        position: 0,
        flags: 0,
        mode,
        device: 1,
        inode: 1,
        target: target.into(),
        owned: None,
        locked: None,
        linkable: None,
        uncorked: false,
        terminal: None,
        mark: None,
    }
}

fn tree(files: Vec<OpenFile>) -> Inventory {
    let process = Process::with_files(pid(10), files);
    Inventory { processes: BTreeMap::from([(pid(10), process)]), ..Inventory::default() }
}

fn held(pid: HostPid, fd: i32, class: Class, description: u64, references: References) -> Held {
    let hold = Hold::Descriptor(fd);
    let ends = Ends::of(libc::O_RDONLY.cast_unsigned());
    let references = Some(references);
    Held {
        pid,
        hold,
        class,
        ends,
        description,
        inode: (0, 7),
        references,
        peculiar: 0,
        is_program: false,
        hidden: Hidden::default(),
    }
}

const ALONE: References =
    References { description: 1, descriptions: 2, by_name: 1, names: 1, context: 1 };

const OWN: HostPid = HostPid::new(99).expect("a number");
/// It looks, too.
const PASSING: HostPid = HostPid::new(98).expect("a number");

#[test]
fn a_pipe_of_the_tree_alone_is_nobody_elses() {
    let tree = tree(vec![file(3, libc::S_IFIFO, "pipe:[7]"), file(4, libc::S_IFIFO, "pipe:[7]")]);
    let both = [held(pid(10), 3, Class::Pipe, 1, ALONE), held(pid(10), 4, Class::Pipe, 2, ALONE)];
    assert_eq!(judge(&tree, &both, OWN), Judged::default());
    // The other end may be closed.
    let alone = References { descriptions: 1, ..ALONE };
    let one = [held(pid(10), 3, Class::Pipe, 1, alone)];
    assert_eq!(judge(&tree, &one, OWN), Judged::default());
}

#[test]
fn the_other_end_of_a_pipe_is_found_by_the_pipe() {
    let tree = tree(vec![file(3, libc::S_IFIFO, "pipe:[7]")]);
    let one = held(pid(10), 3, Class::Pipe, 1, ALONE);
    let judged = judge(&tree, &[one], OWN);
    assert!(judged.has_unknown && judged.shared.is_empty() && judged.unaccounted.len() == 1);
    assert!(judged.unaccounted[0].others > 0 && judged.unaccounted[0].descriptions.is_empty());
    let judged = judge(&tree, &[one, held(pid(20), 0, Class::Pipe, 2, ALONE)], OWN);
    assert!(!judged.has_unknown);
    let [shared] = &judged.shared[..] else { panic!("{judged:?}") };
    assert_eq!((shared.pid, shared.hold, shared.kind), (pid(10), Hold::Descriptor(3), Kind::Pipe));
    assert_eq!(shared.outside, BTreeMap::from([(pid(20), Hold::Descriptor(0))]));
    // It is joined again if it lives on without the tree.
    assert!(!shared.outlives);
    let writer = Held {
        ends: Ends::of(libc::O_WRONLY.cast_unsigned()),
        ..held(pid(20), 1, Class::Pipe, 3, ALONE)
    };
    let judged = judge(&tree, &[one, held(pid(20), 0, Class::Pipe, 2, ALONE), writer], OWN);
    assert!(judged.shared[0].outlives);
    // Whoever looks has got at it to look.
    let judged = judge(&tree, &[one, held(OWN, 5, Class::Pipe, 2, ALONE)], OWN);
    assert_eq!(judged, Judged::default());
    // So has another who looks; who holds both ends by that alone does not keep the pipe.
    let looks = |fd, ends| Held { ends, ..held(PASSING, fd, Class::Pipe, 4, ALONE) };
    let (reads, writes) =
        (Ends::of(libc::O_RDONLY.cast_unsigned()), Ends::of(libc::O_WRONLY.cast_unsigned()));
    assert_eq!(judge(&tree, &[one, looks(0, reads), looks(1, writes)], OWN), Judged::default());
    let judged = judge(&tree, &[one, looks(0, reads), writer], OWN);
    assert!(!judged.shared[0].outlives);
}

#[test]
fn an_event_file_is_told_by_its_description() {
    let tree = tree(vec![file(3, 0, "anon_inode:[eventfd]"), file(4, 0, "anon_inode:[signalfd]")]);
    let two = References { description: 2, ..ALONE };
    let mine = [
        held(pid(10), 3, Class::Anonymous, 1, two),
        held(pid(10), 4, Class::Anonymous, 2, two),
        held(pid(20), 4, Class::Anonymous, 2, two),
    ];
    let judged = judge(&tree, &mine, OWN);
    assert!(judged.has_unknown && judged.shared.is_empty());
    let other = held(pid(30), 8, Class::Anonymous, 1, two);
    let judged = judge(&tree, &[mine[0], mine[1], mine[2], other], OWN);
    assert_eq!(judged.shared.len(), 1);
    assert_eq!(judged.shared[0].outside, BTreeMap::from([(pid(30), Hold::Descriptor(8))]));
    // The kernel can hold what it counts with.
    let by_kernel = held(pid(10), 3, Class::Anonymous, 1, References { context: 3, ..ALONE });
    let judged = judge(&tree, &[by_kernel], OWN);
    assert_eq!((judged.shared.len(), judged.unaccounted.len()), (0, 1));
    assert_eq!((judged.unaccounted[0].contexts, judged.unaccounted[0].others), (2, 0));
    let registered = References { description: 4, ..ALONE };
    let both = [3, 5].map(|fd| held(pid(10), fd, Class::Anonymous, 1, registered));
    let judged = judge(&tree, &both, OWN);
    assert_eq!(judged.unaccounted[0].descriptions, [(pid(10), Hold::Descriptor(3), 2)]);
}

#[test]
fn a_deleted_file_that_nobody_writes_may_be_held_by_all() {
    let tree = tree(vec![file(3, libc::S_IFREG, "/lib/old (deleted)")]);
    for is_written in [false, true] {
        let class = Class::File { is_written };
        let holders = [held(pid(10), 3, class, 1, ALONE), held(pid(20), 3, class, 2, ALONE)];
        assert_eq!(judge(&tree, &holders, OWN).shared.len(), usize::from(is_written));
    }
}

#[test]
fn who_runs_a_program_holds_it_once_more() {
    let mut tree = tree(Vec::new());
    let mapping = |start| crate::Mapping {
        start,
        end: start + 4096,
        flags: crate::VmFlags(0),
        offset: 0,
        device: 1,
        inode: 7,
        protection_key: 0,
        policy: None,
        locked: None,
        name: "/memfd:program (deleted)".into(),
        kind: images::MappingKind::File { shared: false },
    };
    let process = tree.processes.get_mut(&pid(10)).unwrap();
    process.mappings = vec![mapping(0x1000), mapping(0x2000)];
    let references = References { description: 3, ..ALONE };
    let class = Class::File { is_written: false };
    let map = |start, is_program| Held {
        hold: Hold::Mapping(start),
        is_program,
        ..held(pid(10), 0, class, 1, references)
    };
    let program = [map(0x1000, true), map(0x2000, true)];
    assert_eq!(judge(&tree, &program, OWN), Judged::default());
    let other = [map(0x1000, false), map(0x2000, false)];
    assert_eq!(judge(&tree, &other, OWN).unaccounted.len(), 1);
}

/// What is on its way is held by the message and, for the moment, by who looks.
#[test]
fn what_is_on_its_way_is_the_trees() {
    let tree = tree(vec![file(3, libc::S_IFIFO, "pipe:[7]")]);
    let sent = [file(5, libc::S_IFIFO, "pipe:[7]")];
    let twice = References { description: 3, descriptions: 1, ..ALONE };
    let one = held(pid(10), 3, Class::Pipe, 1, twice);
    let peeked = held(OWN, 5, Class::Pipe, 1, twice);
    let with = |sent: &[OpenFile], holders: &[Held]| {
        super::judge(&Tree::of(&tree, sent, OWN, |_| false), holders)
    };
    assert_eq!(with(&sent, &[one, peeked]), Judged::default());
    assert_eq!(with(&[], &[one, peeked]).unaccounted.len(), 1);
    let stranger = held(pid(20), 0, Class::Pipe, 1, twice);
    let judged = with(&sent, &[peeked, stranger]);
    assert_eq!((judged.shared.len(), judged.shared[0].pid), (1, OWN));
}
