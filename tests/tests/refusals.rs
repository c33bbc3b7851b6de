//! What cannot be checkpointed is refused by name, before the target is stopped.

use serde_json::Value;
use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Program, Scratch, Snapshot, Workload, children_of,
    wait_until,
};

/// The message must name the process and each of the words; the target must not have noticed.
fn refused(family: &str, words: &[&str]) {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(family, scratch.path("work"));
    let pid = workload.pid();
    let before = Snapshot::of(pid);
    let images = scratch.path("images");
    let outcome = Engine::Stasis.dump(pid, &images, Dump::default());
    assert!(!outcome.success, "{family} was dumped");
    for word in words.iter().copied().chain([pid.to_string().as_str()]) {
        let said = outcome.stderr.to_lowercase();
        assert!(said.contains(word), "{word:?} is not in: {}", outcome.stderr);
    }
    assert!(!images.exists(), "a refused dump leaves no directory");
    // It sleeps and looks for work, so where it is in its sleep may differ.
    let ignored = ["syscall", "wchan", "stat:", "status: - State", "status: + State"];
    let differences = before.differences(&Snapshot::of(pid));
    let told: Vec<_> =
        differences.iter().filter(|line| !ignored.iter().any(|i| line.contains(i))).collect();
    assert!(told.is_empty(), "{told:#?}");
    // `stasis ps` says it beforehand.
    let listed = Outcome::of(Engine::Stasis.command("ps").arg("--json")).must_succeed("stasis ps");
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let processes = listed["processes"].as_array().expect("processes");
    let this = processes.iter().find(|process| process["pid"] == pid).expect("the process");
    assert_eq!(this["dumpable"], false, "{this}");
    let refusals = this["refusals"].as_array().expect("refusals");
    assert!(!refusals.is_empty(), "{this}");
    for refusal in refusals {
        for said in ["object", "reason", "remedy"] {
            let said = refusal[said].as_str().expect("text");
            assert!(outcome.stderr.contains(said), "{refusal} is not in: {}", outcome.stderr);
        }
    }
    workload.check().expect("the program's own check");
}

/// `stasis ps` says yes of what is dumped, and does not list itself.
#[test]
fn what_is_not_refused() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let families = ["files", "ghosts", "inet", "pipes", "still", "threads", "tree", "unix_sockets"];
    let workloads: Vec<_> = families
        .into_iter()
        .map(|family| (family, Workload::start(family, scratch.path(&format!("{family}.work")))))
        .collect();
    let mut command = Engine::Stasis.command("ps");
    let listed = Outcome::of(command.arg("--json")).must_succeed("stasis ps");
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let processes = listed["processes"].as_array().expect("processes");
    let own = std::process::id();
    let is_ps = |row: &&Value| {
        row["ppid"] == own && row["command"].as_str().is_some_and(|c| c.ends_with("ps --json"))
    };
    assert_eq!(processes.iter().find(is_ps), None, "it lists itself");
    for (family, workload) in &workloads {
        let this = processes.iter().find(|process| process["pid"] == workload.pid());
        let this = this.expect("the process");
        assert_eq!((&this["dumpable"], &this["refusals"]), (&true.into(), &Value::Array(vec![])));
        let images = scratch.path(family);
        Engine::Stasis.dump(workload.pid(), &images, Dump::RUNNING_ON).must_succeed("dump");
    }
    drop(machine);
}

/// A job of another session is refused, with a remedy that works, and `stasis ps` knows.
#[test]
fn a_job_of_another_session() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let null = std::process::Stdio::null;
    let mut job = std::process::Command::new("sleep");
    let job = job.arg("600").stdin(null()).stdout(null()).stderr(null());
    let mut job = job.spawn().expect("start sleep");
    let pid = i32::try_from(job.id()).expect("a pid");
    let refused = Engine::Stasis.dump(pid, &scratch.path("images"), Dump::RUNNING_ON);
    assert!(!refused.success && refused.stderr.contains("--shell-job"), "{}", refused.stderr);
    let listed = Outcome::of(Engine::Stasis.command("ps").arg("--json")).must_succeed("stasis ps");
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let processes = listed["processes"].as_array().expect("processes");
    let this = processes.iter().find(|process| process["pid"] == pid).expect("the process");
    assert_eq!(this["dumpable"], false);
    let remedy = this["refusals"][0]["remedy"].as_str().expect("a remedy");
    assert!(refused.stderr.contains(remedy), "{remedy}, not in: {}", refused.stderr);
    let how = Dump { shell_job: true, ..Dump::RUNNING_ON };
    Engine::Stasis.dump(pid, &scratch.path("images"), how).must_succeed("dump");
    job.kill().expect("kill");
    job.wait().expect("wait");
}

/// A deleted file over the limit is refused with the option that raises it.
#[test]
fn a_large_deleted_file() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("ghosts", scratch.path("work"));
    let mut dump =
        Engine::Stasis.dump_command(workload.pid(), &scratch.path("1"), Dump::RUNNING_ON);
    let refused = Outcome::of(dump.args(["--ghost-limit", "1"]));
    assert!(!refused.success);
    let option = refused.stderr.split("give --ghost-limit ").nth(1).expect("the remedy");
    let size = option.split(',').next().expect("a size");
    let mut dump =
        Engine::Stasis.dump_command(workload.pid(), &scratch.path("2"), Dump::RUNNING_ON);
    Outcome::of(dump.args(["--ghost-limit", size])).must_succeed("dump");
    let mut dump =
        Engine::CriuFace.dump_command(workload.pid(), &scratch.path("3"), Dump::RUNNING_ON);
    assert!(!Outcome::of(dump.args(["--ghost-limit", "1"])).success);
    let mut dump =
        Engine::CriuFace.dump_command(workload.pid(), &scratch.path("4"), Dump::RUNNING_ON);
    Outcome::of(dump.args(["--ghost-limit", size])).must_succeed("criu dump");
    workload.check().expect("the program's own check");
}

#[test]
fn inotify() {
    refused("unsupported-inotify", &["inotify", "descriptor", "--irmap-scan-path"]);
}

/// The remedy is a command that works as it stands.
#[test]
fn a_deleted_name_of_a_file_with_others() {
    refused("unsupported-lost_name", &["hard links"]);
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("unsupported-lost_name", scratch.path("work"));
    let images = scratch.path("images");
    let outcome = Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING);
    let remedy = outcome.stderr.split("give it that name again: ").nth(1).expect("a remedy");
    let mut shell = std::process::Command::new("sh");
    Outcome::of(shell.arg("-c").arg(remedy.lines().next().expect("a line"))).must_succeed(remedy);
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    workload.check().expect("the program's own check");
}

/// A task of a frozen control group cannot stop: the message says which, and what thaws it.
#[test]
fn a_frozen_control_group() {
    let machine = Machine::prepare();
    let mounts = std::fs::read_to_string("/proc/mounts").expect("read the mounts");
    let freezer = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let point = words.nth(1)?;
        let options = words.nth(1)?;
        options.split(',').any(|option| option == "freezer").then(|| point.to_owned())
    });
    stasis_tests::require!(freezer.is_some(), "there is no freezer of the first version");
    let group = format!("{}/stasis-test-{}", freezer.expect("there"), std::process::id());
    std::fs::create_dir(&group).expect("make a control group");
    let scratch = Scratch::new();
    let workload = Workload::start("still", scratch.path("work"));
    let write = |file: &str, text: &str| std::fs::write(format!("{group}/{file}"), text);
    write("cgroup.procs", &workload.pid().to_string()).expect("move the program");
    write("freezer.state", "FROZEN").expect("freeze");
    let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), Dump::RUNNING_ON);
    let remedy = outcome.stderr.split("paused it do so: ").nth(1);
    let remedy = remedy.unwrap_or_else(|| panic!("no remedy in: {}", outcome.stderr));
    let mut shell = std::process::Command::new("sh");
    Outcome::of(shell.arg("-c").arg(remedy.lines().next().expect("a line"))).must_succeed(remedy);
    let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), Dump::RUNNING_ON);
    outcome.must_succeed("dump");
    let check = workload.check();
    drop(machine);
    std::fs::remove_dir(&group).expect("remove the control group");
    check.expect("the program's own check");
}

/// Files that have changed since are all named at once, each with the command that helps.
#[test]
fn grown_files() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let dir = scratch.path("work");
    std::fs::create_dir(&dir).expect("make a directory");
    let script = "exec 5<>one 6<>'the other'; echo 1 >&5; echo 2 >&6; : >ready; exec sleep 1000";
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg(script).current_dir(&dir);
    let program = Program::start(&mut command, &scratch.path("log"));
    let command_line = || std::fs::read(format!("/proc/{}/cmdline", program.pid()));
    let runs = || command_line().is_ok_and(|line| line.starts_with(b"sleep"));
    assert!(wait_until(std::time::Duration::from_secs(30), runs), "it does not start");
    let images = scratch.path("images");
    Engine::Stasis.dump(program.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    for name in ["one", "the other"] {
        std::fs::write(dir.join(name), "1\nand more\n").expect("write");
    }
    let refused = Engine::Stasis.restore(&images, Dump::ENDING);
    assert!(!refused.success);
    let remedies: Vec<_> =
        refused.stderr.lines().filter_map(|line| line.split("since: ").nth(1)).collect();
    assert_eq!(remedies.len(), 2, "{}", refused.stderr);
    for remedy in remedies {
        let mut shell = std::process::Command::new("sh");
        Outcome::of(shell.arg("-c").arg(remedy)).must_succeed(remedy);
    }
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    assert!(program.is_alive());
}

/// What is seen in the kernel's structures alone: the message must have each of the words, and a dump
/// without eBPF must say that it could not see it.
fn refused_by_programs(family: &str, words: &[&str]) {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let workload = Workload::start(family, scratch.path("work"));
    let images = scratch.path("images");
    let how = Dump { collector: Some(&collector), ..Dump::RUNNING_ON };
    let outcome = Engine::Stasis.dump(workload.pid(), &images, how);
    assert!(!outcome.success, "{family} was dumped");
    for word in words.iter().copied().chain([workload.pid().to_string().as_str()]) {
        let said = outcome.stderr.to_lowercase();
        assert!(said.contains(word), "{word:?} is not in: {}", outcome.stderr);
    }
    assert!(!images.exists(), "a refused dump leaves no directory");
    workload.check().expect("the program's own check");
}

#[test]
fn threads_of_other_namespaces() {
    refused("unsupported-foreign_thread", &["thread", "other namespaces", "setns"]);
}

#[test]
fn files_that_signal_a_thread() {
    refused("unsupported-thread_owner", &["f_setown", "thread"]);
}

/// One of the two entries was lost.
#[test]
fn a_file_watched_by_a_closed_number_as_well() {
    refused_as("unsupported-watched_twice", &["watches one file twice", "EPOLL_CTL_DEL"]);
}

#[test]
fn the_path_of_a_socket() {
    refused("unsupported-socket_path", &["o_path", "socket"]);
}

/// By eBPF it is counted, and so not lost when it is not shown a second time.
#[test]
fn empty_messages() {
    refused_by_programs("unsupported-empty_message", &["empty message", "received"]);
}

#[test]
fn landlock_domains() {
    refused_by_programs("unsupported-landlock", &["landlock domain of thread", "sandbox"]);
}

#[test]
fn keys_of_a_session() {
    refused_by_programs("unsupported-keyring", &["session keyring", "keyctl"]);
    let others = [("apart", "another one"), ("ending", "ends"), ("linked", "type keyring")];
    for (which, says) in others.into_iter().chain([("long", "256")]) {
        refused_by_programs(&format!("unsupported-keys_{which}"), &["session keyring", says]);
    }
}

#[test]
fn keys_of_a_thread() {
    refused_by_programs("unsupported-thread_keyring", &["thread keyring"]);
}

#[test]
fn semaphores_that_several_processes_give_back() {
    refused_by_programs("unsupported-semaphores_shared", &["semaphores", "clone_sysvsem", "fork"]);
}

#[test]
fn semaphores_that_some_threads_give_back() {
    refused_by_programs(
        "unsupported-semaphores_apart",
        &["semaphores", "not all", "pthread_create"],
    );
}

#[test]
fn more_semaphores_to_be_given_back_than_are_told() {
    refused_by_programs("unsupported-semaphores_many", &["semaphores", "128", "ipcs"]);
}

#[test]
fn dispatched_system_calls() {
    refused_by_programs("unsupported-system_calls", &["pr_set_syscall_user_dispatch"]);
}

#[test]
fn what_cannot_be_seen_without_programs_is_said() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("still", scratch.path("work"));
    let said = |collector: Option<&Collector>, images: &str| {
        let how = Dump { collector, ..Dump::RUNNING_ON };
        let done = Engine::Stasis.dump(workload.pid(), &scratch.path(images), how);
        done.must_succeed("dump").stderr.contains("landlock")
    };
    assert!(said(None, "blind"));
    let collector = Collector::start(&scratch.path("collector"));
    assert!(!said(Some(&collector), "seeing"));
}

#[test]
fn secret_memory() {
    refused_as("unsupported-secret_memory", &["memfd_secret"]);
}

#[test]
fn message_queues() {
    refused_as(
        "unsupported-message_queue",
        &["messages wait in it", "receive them before the dump"],
    );
}

/// Who reads its contents would break it.
#[test]
fn a_lease_on_a_deleted_file() {
    refused_as("locks_deleted_lease", &["lease", "F_UNLCK"]);
}

/// The lock would be lost, and nobody would be told.
#[test]
fn a_lock_of_ranges_that_a_mapping_alone_holds() {
    refused_as("locks_of_mapping_by_range", &["a lock is held on its file", "keep the descriptor"]);
}

/// What eBPF would tell, and `/proc` as well.
#[test]
fn what_is_seen_without_programs() {
    refused_as("unsupported-numa_policy", &["NUMA policy", "stasis check"]);
    refused_as("unsupported-tracing", &["of the tree traces it", "detach"]);
    refused_as("unsupported-exit_signal", &["SIGCHLD"]);
}

#[test]
fn a_flow_label() {
    refused_as("unsupported-flow_label", &["flow label", "sin6_flowinfo"]);
}

#[test]
fn an_error_that_was_not_received() {
    refused_as("unsupported-socket_error", &["SO_ERROR"]);
    refused_as("unsupported-error_before_message", &["SO_ERROR"]);
    // Which error it is programs alone tell.
    refused_as("tcp_reset", &["SO_ERROR"]);
}

#[test]
fn an_urgent_byte() {
    refused_as("unsupported-urgent_byte", &["MSG_OOB"]);
}

#[test]
fn packets_in_a_fifo() {
    refused_as("unsupported-packet_fifo", &["O_DIRECT"]);
}

/// As [`refused`], of what `stasis ps` does not look at.
fn refused_as(family: &str, words: &[&str]) {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(family, scratch.path("work"));
    let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), Dump::default());
    assert!(!outcome.success, "{family} was dumped");
    for word in words {
        assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("give the file its name back"), "{}", outcome.stderr);
    workload.check().expect("the program's own check");
}

#[test]
fn asynchronous_io_that_waits_for_something() {
    refused_by_programs("unsupported-aio_waiting", &["/[aio]", "iocb_cmd_poll", "io_cancel"]);
}

#[test]
fn rings_of_asynchronous_io_without_their_contexts() {
    refused_by_programs("unsupported-aio_inherited", &["/[aio]", "a parent had", "unmap it"]);
}

#[test]
fn rings_of_asynchronous_io_that_are_written_over() {
    refused_by_programs("unsupported-aio_overwritten", &["/[aio]", "written over", "io_destroy"]);
}

#[test]
fn io_urings_with_what_is_not_carried() {
    for (family, words) in [
        ("waiting", &["anon_inode:[io_uring]", "ioring_op_poll_add", "io_uring_prep_cancel"]),
        ("accepting", &["anon_inode:[io_uring]", "ioring_op_accept", "io_uring_prep_cancel"]),
        ("timeout", &["anon_inode:[io_uring]", "ioring_op_timeout", "timeout_remove"]),
        ("overflow", &["anon_inode:[io_uring]", "no room", "take its completions"]),
        ("buffers", &["anon_inode:[io_uring]", "buffers", "io_uring_unregister_buffers"]),
        ("polled", &["anon_inode:[io_uring]", "ioring_setup_sqpoll", "io_uring_queue_exit"]),
        ("numbered", &["io_urings of thread", "register_ring_fds", "unregister_ring_fd"]),
        ("closed_file", &["anon_inode:[io_uring]", "place 0", "register_files_update"]),
    ] {
        refused_by_programs(&format!("unsupported-io_uring_{family}"), words);
    }
}

#[test]
fn a_file_without_a_name_that_must_not_be_changed() {
    refused("unsupported-unchangeable", &["memfd:appended", "fs_append_fl", "fs_ioc_setflags"]);
}

#[test]
fn files_of_proc_about_threads() {
    refused("unsupported-proc_thread", &["/proc", "descriptor"]);
}

#[test]
fn messages_in_a_netlink_socket() {
    refused_as("unsupported-netlink", &["messages of the kernel"]);
}

#[test]
fn what_networks_do_with_packets_is_refused() {
    refused_as("unsupported-networks_groups", &["permanent", "bridge mdb del"]);
    refused_as("unsupported-networks_ipsec", &["IPsec", "ip xfrm policy flush"]);
    refused_as("unsupported-networks_queue", &["device v0", "pfifo", "tc qdisc del dev v0 root"]);
}

#[test]
fn a_filter_that_nobody_can_read() {
    refused("unsupported-ebpf_filter", &["ebpf filter", "so_detach_filter"]);
}

/// Each is told why. This needs a kernel with `CONFIG_MPTCP`, `CONFIG_VSOCKETS` and `CONFIG_XDP_SOCKETS`.
#[test]
fn sockets_of_other_families() {
    refused(
        "unsupported-other_sockets",
        &["mptcp", "multipathtcp=0", "vsock", "hypervisor", "xdp"],
    );
}

#[test]
fn a_part_of_a_datagram() {
    refused("unsupported-held_back", &["udp_cork"]);
}

#[test]
fn bpf_maps_that_others_use_or_of_other_kinds() {
    refused_by_programs(
        "unsupported-bpfmap_twice",
        &["bpf-map", "another descriptor of the same map"],
    );
    refused_by_programs("unsupported-bpfmap_large", &["more than 1 gib together"]);
    refused_by_programs("unsupported-bpfmap_mapped", &["mapping 0x"]);
    refused_by_programs("unsupported-bpfmap_other", &["another kind than arrays and hashes"]);
}

#[test]
fn packets_that_are_too_long_for_their_ring() {
    refused("unsupported-packet_copied", &["packet_copy_thresh", "too long"]);
}

#[test]
fn a_ring_that_packets_have_been_sent_by() {
    refused("unsupported-packet_ring", &["packet_tx_ring"]);
}

#[test]
fn connected_tcp_sockets() {
    refused("unsupported-tcp", &["tcp", "--tcp-established", "--tcp-close"]);
}

#[test]
fn an_urgent_byte_in_a_connection() {
    refused("unsupported-urgent_tcp", &["urgent byte", "msg_oob"]);
}

#[test]
fn a_process_that_is_not_there() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let outcome = Engine::Stasis.dump(i32::MAX, &images, Dump::default());
    assert!(!outcome.success);
    assert!(outcome.stderr.contains("2147483647"), "{}", outcome.stderr);
    assert!(!images.exists());
}

#[test]
fn a_directory_that_holds_a_checkpoint_already() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pipes", scratch.path("work"));
    let images = scratch.path("images");
    let how = Dump { leave_running: true, ..Dump::default() };
    Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("first dump");
    let listed = || {
        let mut names: Vec<_> =
            std::fs::read_dir(&images).expect("list").flatten().map(|e| e.file_name()).collect();
        names.sort();
        names
    };
    let before = listed();
    let again = Engine::Stasis.dump(workload.pid(), &images, how);
    assert!(!again.success, "a checkpoint was written over");
    assert_eq!(before, listed());
    workload.check().expect("the program's own check");
}

#[test]
fn pid_namespaces_below_the_root_that_cannot_be_made_again() {
    let words = [
        "its leader is outside of the pid namespace",
        "nobody can be born into it",
        "ended by a fault",
        "outside of the pid namespace of the process that holds it",
    ];
    refused("nested_pids_refused", &words);
}

#[test]
fn user_namespaces_below_the_root_that_cannot_be_made_again() {
    let words = [
        "it belongs to a user namespace below that of the tree's root",
        "it has other users or groups than the first thread of its process",
    ];
    refused("nested_users_refused", &words);
}

/// Who has entered a namespace whose first process is not in the tree, and who has entered one of the tree's.
#[test]
fn who_has_entered_a_pid_namespace_below_the_root() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("nested_pids", scratch.path("work"));
    let first = std::fs::read_to_string(workload.path("number")).expect("a number");
    let named = |name: &str| std::fs::read_to_string(workload.path(name)).expect("a number");
    let stays: i32 = named("stays").parse().expect("a number");
    let how = Dump { shell_job: true, ..Dump::ENDING };
    let outcome = Engine::Stasis.dump(stays, &scratch.path("part"), how);
    assert!(!outcome.success, "a part was dumped");
    for reason in ["whose first process is no part of the tree", "nobody can be born into it"] {
        assert!(outcome.stderr.contains(reason), "{reason}: {}", outcome.stderr);
    }
    let mut command = std::process::Command::new("nsenter");
    command.args(["--pid", "--target", &first, "sleep", "1000"]);
    let program = Program::start(&mut command, &scratch.path("log"));
    let inside = || children_of(program.pid()).first().copied();
    assert!(wait_until(std::time::Duration::from_secs(10), || inside().is_some()));
    let inside = inside().expect("it is there");
    let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), Dump::ENDING);
    assert!(!outcome.success, "it was dumped");
    for word in ["has entered the pid namespace of the tree from outside", &inside.to_string()] {
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
    // Where the tree runs on nobody is lost.
    let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), Dump::RUNNING_ON);
    let outcome = outcome.must_succeed("dump");
    let said =
        format!("process {inside} (sleep) has entered the pid namespace of the tree from outside");
    assert!(outcome.stderr.contains(&said), "{}", outcome.stderr);
    machine.end_tree(program.pid());
    workload.check().expect("it runs on");
}

/// It comes back with its number in its own namespace; what it has in the other one is another's by then.
#[test]
fn a_file_of_the_proc_of_another_pid_namespace() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let script = "exec 3</proc/self/status; exec sleep 1000";
    let mut command = std::process::Command::new("unshare");
    command.args(["--pid", "--fork", "setsid", "sh", "-c", script]);
    let program = Program::start(&mut command, &scratch.path("log"));
    let first = || children_of(program.pid()).first().copied();
    let sleeps = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"sleep")
    };
    assert!(wait_until(std::time::Duration::from_secs(10), || first().is_some_and(sleeps)));
    let pid = first().expect("it is there");
    let images = scratch.path("images");
    let outcome = Engine::Stasis.dump(pid, &images, Dump::ENDING);
    assert!(!outcome.success, "it was dumped");
    for word in ["/status", "other numbers", "--mount-proc", &pid.to_string()] {
        assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
    }
    assert!(!images.exists() && sleeps(pid));
    machine.end_tree(program.pid());
}

#[test]
fn a_lease_of_a_flow_label() {
    let words = ["leases of ipv6 flow labels", "ipv6_fl_a_put", "descriptor"];
    refused_by_programs("unsupported-flow_lease", &words);
}

/// A file system that has less room than it promises: its disk is a file on a smaller one.
struct Small {
    at: std::path::PathBuf,
}

const MAKE_SMALL: &str = "mkdir -p $0/small $0/disk && mount -t tmpfs -o size=3m none $0/disk && \
    truncate -s 20M $0/disk/image && mkfs.ext4 -q -E nodiscard $0/disk/image && \
    mount -o loop $0/disk/image $0/small";

impl Small {
    fn mount(at: std::path::PathBuf) -> Self {
        let mut shell = std::process::Command::new("sh");
        Outcome::of(shell.args(["-ec", MAKE_SMALL]).arg(&at))
            .must_succeed("mount a small file system (this needs loop devices and mkfs.ext4)");
        Self { at }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        for place in ["small", "disk"] {
            nix::mount::umount2(&self.at.join(place), nix::mount::MntFlags::MNT_DETACH).ok();
        }
    }
}

/// What a write has failed by is told by the next fsync, and by nothing after a restore.
#[test]
fn an_error_of_a_write_that_was_not_told() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let _small = Small::mount(scratch.path("work"));
    let collector = Collector::start(&scratch.path("collector"));
    let workload = Workload::start("unsupported-write_error", scratch.path("work"));
    let how = Dump { collector: Some(&collector), ..Dump::RUNNING_ON };
    let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), how);
    assert!(!outcome.success, "it was dumped");
    for word in ["small/file", "a write to it has failed", "fsync"] {
        assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
    }
    workload.check().expect("the program's own check");
}
