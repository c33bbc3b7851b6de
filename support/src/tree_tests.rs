use inventory::{InProcess, InTask, Mapping, OpenFile, Tables, VmFlags};

use super::*;
use crate::files::{of_file, process_behind};

fn pid(number: i32) -> HostPid {
    HostPid::new(number).unwrap()
}

fn process() -> Process {
    Process {
        pid: pid(40),
        ppid: HostPid::new(1),
        pgid: HostPid::new(40),
        sid: HostPid::new(40),
        terminal: 0,
        foreground: None,
        state: ProcessState::Alive,
        threads: BTreeMap::new(),
        mappings: Vec::new(),
        files: Vec::new(),
        namespaces: BTreeMap::from([("net", 7)]),
        kernel_thread: false,
        tables: Tables {
            memory: HostPid::new(40),
            files: HostPid::new(40),
            file_system: HostPid::new(40),
            signal_handlers: HostPid::new(40),
            others: [None; 4],
        },
        in_process: None,
    }
}

fn around() -> Surroundings {
    Surroundings {
        allow_uprobes: false,
        own: HostPid::new(1),
        namespaces: BTreeMap::from([("net", 7)]),
        shell_job: false,
        leaders: BTreeSet::new(),
    }
}

fn mapping(name: &str, flags: VmFlags) -> Mapping {
    Mapping {
        start: 0x1000,
        end: 0x2000,
        flags,
        offset: 0,
        device: 0,
        inode: 0,
        protection_key: 0,
        policy: None,
        locked: None,
        name: name.into(),
        kind: inventory::mapping_kind(name.as_bytes(), 0, flags),
    }
}

fn file(target: &str, mode: u32) -> OpenFile {
    OpenFile {
        fd: 5,
        close_on_exec: false,
        description: 0,
        position: 0,
        flags: 0,
        mode,
        device: 0,
        inode: 77,
        target: target.into(),
        owned: None,
        locked: None,
        linkable: None,
        uncorked: false,
        terminal: None,
        mark: None,
    }
}

/// The objects that are named for a process after a change.
fn objects(change: impl FnOnce(&mut Process)) -> Vec<String> {
    let mut process = process();
    change(&mut process);
    let mut found: Vec<_> =
        of_tree(pid(40), &[&process], &around()).into_iter().map(|found| found.object).collect();
    found.extend(process.files.iter().filter_map(of_file).map(|found| found.reason.into_owned()));
    found
}

#[test]
fn a_plain_process_has_none() {
    let found = objects(|process| {
        process.mappings = vec![mapping("[heap]", VmFlags::READ), mapping("[vvar]", VmFlags::IO)];
        process.files = vec![
            file("/tmp/x", libc::S_IFREG),
            file("pipe:[3]", libc::S_IFIFO),
            file("socket:[77]", libc::S_IFSOCK),
            file("anon_inode:[eventpoll]", 0),
            file("/dev/null", libc::S_IFCHR),
        ];
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn what_concerns_the_whole_process() {
    assert_eq!(objects(|process| process.kernel_thread = true), ["the process"]);
    let zombie = ProcessState::Zombie { exit_status: 0 };
    assert_eq!(objects(|process| process.state = zombie), ["the process"]);
    assert_eq!(objects(|process| process.tables.files = HostPid::new(39)), ["descriptor table"]);
    assert_eq!(
        objects(|process| {
            process.threads.insert(pid(40), thread('Z'));
        }),
        ["thread 40"]
    );
    assert_eq!(objects(|process| process.sid = HostPid::new(39)), ["session 39"]);
    let inside = objects(|process| {
        process.namespaces.insert("user", 8);
    });
    assert!(inside.is_empty(), "{inside:?}");
}

#[test]
fn what_the_processor_was_set_up_for() {
    let segments = InProcess { local_descriptors: true, ..InProcess::default() };
    let found = objects(|process| process.in_process = Some(Box::new(segments)));
    assert_eq!(found, ["local descriptor table"]);
    let ports = InTask { ports: true, ..InTask::default() };
    let found = objects(|process| {
        process.threads.insert(pid(40), Thread { in_task: Some(ports), ..thread('S') });
    });
    assert_eq!(found, ["I/O ports of thread 40"]);
}

fn thread(state: char) -> Thread {
    Thread {
        tid: pid(40),
        start_time: 0,
        comm: "x".into(),
        state,
        own_tables: false,
        own_namespaces: false,
        blocked: 0,
        pending: 0,
        shared_pending: 0,
        ignored: 0,
        caught: 0,
        in_task: None,
    }
}

/// A process that shares memory with 40, and with `handlers` those as well.
fn sharer(number: i32, parent: i32, handlers: i32) -> Process {
    let mut sharer = process();
    (sharer.pid, sharer.ppid) = (pid(number), HostPid::new(parent));
    let own = HostPid::new(number);
    let signal_handlers = HostPid::new(handlers);
    sharer.tables = Tables { files: own, file_system: own, signal_handlers, ..sharer.tables };
    sharer
}

/// What of a tree below process 40 is refused.
fn refused(tree: &[&Process]) -> Vec<(i32, String, String)> {
    let found = of_tree(pid(40), tree, &around());
    found.into_iter().map(|it| (it.task, it.object, it.reason)).collect()
}

#[test]
fn memory_is_shared_with_who_can_be_born_with_it() {
    let first = process();
    let [below, beside] = [sharer(41, 40, 41), sharer(42, 40, 40)];
    let farther = sharer(43, 41, 41);
    assert_eq!(refused(&[&first, &below, &beside, &farther]), []);

    // Children of one that has other memory.
    let own = HostPid::new(40);
    let alone = Tables {
        files: own,
        file_system: own,
        signal_handlers: own,
        memory: own,
        others: [None; 4],
    };
    let root = Process { tables: alone, ..process() };
    let with = |number: i32, parent: i32| {
        let shared = sharer(number, parent, number);
        let tables = Tables { memory: HostPid::new(41), ..shared.tables };
        Process { tables, ..shared }
    };
    let [one, other] = [with(41, 40), with(42, 40)];
    assert_eq!(refused(&[&root, &one, &other]), []);
    let memory = |found: Vec<(i32, String, String)>| {
        found.into_iter().map(|(task, object, _)| (task, object)).collect::<Vec<_>>()
    };
    let is_refused = |task, object: &str, tree: &[&Process]| {
        assert_eq!(memory(refused(tree)), [(task, object.to_owned())]);
    };
    // One of them has its tables together with others than the first.
    let mut tied = other.clone();
    tied.tables.files = own;
    is_refused(42, "memory", &[&root, &one, &tied]);
    // It is the child of a child that has other memory; it is in a session that its parent is not in.
    let between = sharer(44, 40, 44);
    let between =
        Process { tables: Tables { memory: HostPid::new(44), ..between.tables }, ..between };
    is_refused(45, "memory", &[&root, &one, &between, &with(45, 44)]);
    let mut late = other.clone();
    late.sid = HostPid::new(39);
    let early = refused(&[&root, &one, &late]);
    assert!(
        early.iter().any(|(task, object, _)| (*task, &**object) == (42, "memory")),
        "{early:?}"
    );
    // It is in another namespace.
    let mut apart = other.clone();
    apart.namespaces.insert("uts", 77);
    let found = refused(&[&root, &one, &apart]);
    assert!(found.iter().any(|(_, _, reason)| reason.contains("the uts namespace")), "{found:?}");
}

#[test]
fn handlers_are_shared_with_who_can_be_born_with_them() {
    let first = process();
    let [between, below] = [sharer(41, 40, 41), sharer(42, 41, 40)];
    let found = refused(&[&first, &between, &below]);
    assert!(matches!(&found[..], [(42, object, _)] if object == "signal handlers"), "{found:?}");
}

#[test]
fn a_vfork_passes() {
    let waits = |mut process: Process, number: i32| {
        process.threads.insert(pid(number), thread('D'));
        process
    };
    // Nobody could make this one.
    let mut child = sharer(41, 40, 40);
    child.namespaces.insert("uts", 77);
    assert_eq!(refused(&[&waits(process(), 40), &child]), []);
    // Who waits for a disk has nothing to do with it.
    assert_ne!(refused(&[&process(), &waits(child.clone(), 41)]), []);
    let other = waits(sharer(42, 40, 40), 42);
    assert_ne!(refused(&[&process(), &child, &other]), []);
}

#[test]
fn tables_that_others_use_are_named_with_them() {
    let mut parent = process();
    let mut child = process();
    (child.pid, child.ppid) = (pid(41), HostPid::new(40));
    parent.tables.others = [41, 39, 0, 0].map(HostPid::new);
    child.tables.others = [40, 39, 0, 40].map(HostPid::new);
    child.tables.file_system = HostPid::new(41);
    // What both have is theirs alone, but for the descriptors.
    parent.threads.insert(pid(40), thread('D'));
    let found = of_tree(pid(40), &[&parent, &child], &around());
    let outside: Vec<_> = found.iter().map(|found| (found.task, &*found.object)).collect();
    assert_eq!(outside, [(40, "descriptor table"), (41, "descriptor table")]);
    assert!(found[0].reason.contains("process 39 outside"), "{}", found[0].reason);
    assert!(found[0].remedy.contains("kill 39"), "{}", found[0].remedy);
    // The one alone, in an inventory that has the other, too.
    let objects = |tree: &[&Process]| -> Vec<String> {
        of_tree(tree[0].pid, tree, &around()).into_iter().map(|found| found.object).collect()
    };
    assert_eq!(objects(&[&parent]), ["memory", "descriptor table"]);
    assert_eq!(objects(&[&child])[1..], ["memory", "descriptor table", "signal handlers"]);
}

#[test]
fn sessions_lie_inside_the_tree() {
    let mut job = process();
    job.sid = HostPid::new(39);
    let mut child = process();
    (child.pid, child.ppid, child.sid) = (pid(41), HostPid::new(40), HostPid::new(39));
    let own = HostPid::new(41);
    child.tables = Tables {
        memory: own,
        files: own,
        file_system: own,
        signal_handlers: own,
        others: [None; 4],
    };
    let shell_job = Surroundings { shell_job: true, ..around() };
    assert_eq!(of_tree(pid(40), &[&job, &child], &around()).len(), 1);
    assert!(of_tree(pid(40), &[&job, &child], &shell_job).is_empty());
    // Its leader lives, or has ended.
    child.sid = HostPid::new(17);
    let outside = Surroundings { leaders: BTreeSet::from([pid(17)]), ..shell_job.clone() };
    assert_eq!(of_tree(pid(40), &[&job, &child], &outside).len(), 1);
    assert!(of_tree(pid(40), &[&job, &child], &shell_job).is_empty());
    let inside = Surroundings { own: HostPid::new(41), ..shell_job };
    child.sid = HostPid::new(41);
    assert_eq!(of_tree(pid(40), &[&job, &child], &inside)[0].object, "stasis itself");
}

#[test]
fn one_tracer_is_ours() {
    let found = |tracer, own| of_tracer(pid(40), HostPid::new(tracer), HostPid::new(own));
    assert!(found(9, 1).is_some() && found(9, 0).is_some());
    assert!(found(9, 9).is_none() && found(0, 1).is_none());
}

#[test]
fn mappings_and_files_are_named() {
    let found = objects(|process| {
        process.mappings = vec![
            mapping("/SYSV00000000 (deleted)", VmFlags::READ),
            mapping("", VmFlags::READ | VmFlags::HUGE_TLB),
            mapping("", VmFlags::UNKNOWN),
            mapping("/dev/zero (deleted)", VmFlags::READ | VmFlags::MAY_SHARE),
            mapping("/dev/zero (deleted)", VmFlags::READ),
        ];
        process.files = vec![file("anon_inode:whatever", 0), file("/dev/sda", libc::S_IFBLK)];
    });
    assert_eq!(found[0], "mapping 0x1000-0x2000 /SYSV00000000 (deleted)");
    assert_eq!(found[1], "mapping 0x1000-0x2000");
    assert_eq!(found[3], "an anonymous file whatever cannot be carried yet");
    assert_eq!(found.len(), 5);
}

#[test]
fn files_of_proc_are_about_a_process_or_not() {
    let cases: [(&[u8], _); 5] = [
        (b"/proc/17/stat", Some(17)),
        (b"/proc/17", Some(17)),
        (b"/proc/meminfo", None),
        (b"/proc/17x/stat", None),
        (b"/processes/17", None),
    ];
    for (path, process) in cases {
        assert_eq!(
            process_behind(path),
            process.and_then(HostPid::new),
            "{}",
            String::from_utf8_lossy(path)
        );
    }
}
