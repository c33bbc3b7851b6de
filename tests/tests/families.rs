//! Every family of state: natively, through a dump and a restore, with the target running on, and
//! to and from CRIU.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use stasis_tests::{Collector, Dump, Engine, Machine, Program, Scratch, Workload, wait_until};

/// How often a program that changes all the while is carried.
const ROUNDS: usize = 15;

/// The program's own check must hold when nothing was done to it.
fn natively(family: &str) {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(family, scratch.path("work"));
    if let Err(what) = workload.check() {
        panic!("{family} fails natively: {what}");
    }
}

/// Dumped by one engine and ended, restored by another: the program's own check must hold.
fn carried(family: &str, by: Engine, to: Engine) {
    carried_with(family, by, to, false);
}

/// As [`carried`]; with `programs`, the inventory is taken by eBPF, and every answer of it is compared
/// with the tasks' own.
fn carried_with(family: &str, by: Engine, to: Engine, programs: bool) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let workload = Workload::start(family, scratch.path("work"));
    let collector = programs.then(|| Collector::start(&scratch.path("collector")));
    let how = Dump { collector: collector.as_ref(), cross_check: programs, ..Dump::ENDING };
    by.dump(workload.pid(), &images, how).must_succeed("dump");
    drop(collector);
    machine.await_no_children();
    std::fs::write(workload.path("restored"), "").expect("say so");
    to.restore(&images, Dump::ENDING).must_succeed("restore");
    assert!(
        workload.program().is_alive(),
        "restored under another pid, or dead: {}",
        workload.log()
    );
    if let Err(what) = workload.check() {
        panic!("{family} is not what it was: {what}");
    }
}

/// Dumped twice while it runs on: the program's own check must hold.
fn running_on(family: &str, programs: bool) {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = programs.then(|| Collector::start(&scratch.path("collector")));
    let how = Dump { collector: collector.as_ref(), ..Dump::RUNNING_ON };
    let workload = Workload::start(family, scratch.path("work"));
    for images in ["first", "second"] {
        let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path(images), how);
        outcome.must_succeed("dump");
    }
    if let Err(what) = workload.check() {
        panic!("{family} noticed the checkpoint: {what}");
    }
}

macro_rules! families {
    ($($family:ident)*) => { $(mod $family { own_tests!($family); })* };
}

macro_rules! families_that_criu_carries {
    ($($family:ident)*) => { $(mod $family { own_tests!($family); peer_tests!($family); })* };
}

macro_rules! own_tests {
    ($family:ident) => {
        use super::*;

        #[test]
        fn natively() {
            super::natively(stringify!($family));
        }

        #[test]
        fn carried() {
            super::carried(stringify!($family), Engine::Stasis, Engine::Stasis);
        }

        #[test]
        fn running_on() {
            super::running_on(stringify!($family), false);
        }

        #[test]
        fn carried_by_programs() {
            super::carried_with(stringify!($family), Engine::Stasis, Engine::Stasis, true);
        }

        /// With the inventory by eBPF, and nothing asked that it tells.
        #[test]
        fn running_on_by_programs() {
            super::running_on(stringify!($family), true);
        }
    };
}

macro_rules! peer_tests {
    ($family:ident) => {
        #[test]
        fn restored_by_criu_peer() {
            super::carried(stringify!($family), Engine::Stasis, Engine::Criu);
        }

        #[test]
        fn dumped_by_criu_peer() {
            super::carried(stringify!($family), Engine::Criu, Engine::Stasis);
        }

        /// CRIU by itself: where this fails the two above may.
        #[test]
        fn carried_by_criu_peer_alone() {
            super::carried(stringify!($family), Engine::Criu, Engine::Criu);
        }
    };
}

families! {
    beyond_criu changing_files credentials fanotify faulting forked_deep in_flight in_flight_credentials inotify_lost locks locks_breaking locks_elsewhere locks_of_mapping mappings_keys mappings_rare mappings_rearranged memfd_attributes memfd_memory memfd_program memfd_sealed memfd_sealed_for_others mqueue mqueue_namespace_empty multicast nameless nameless_peers namespaces_apart nested_pids nested_users networks_beyond_criu networks_several networks_socket networks_untold names_beside never_linked pipes_packets proc_files_dead ptys sessions settings shared_memory shared_memory_beside shared_memory_inside shared_tables_apart
    settings_deadline socket_options sysv_memory sysv_namespace tcp tcp_deaf inet_addresses_alone unix_sockets_of_user waits woken
}

families_that_criu_carries! {
    busy churn dirty eventfds files forked ghosts guards identity in_flight_plain inet inotify jail locks_plain many_connections many_files many_mappings many_memfds many_processes
    many_terminals many_threads mappings memfd memfd_memory_plain memory namespaces networks pidfd pipes proc_files pulse registers shared_tables signals still sysv_namespace_plain tcp_plain threads timers tree
    unix_sockets
}

/// CRIU says how large shared memory is that it dumps as a memfd, and takes none of ours to be larger than what is
/// mapped of it.
#[test]
fn mappings_rearranged_dumped_by_criu_peer() {
    carried("mappings_rearranged", Engine::Criu, Engine::Stasis);
}

// Sockets that are not of TCP or Unix.

families! {
    tracked tun datagrams_bound datagrams_shared datagrams_waiting netlink_groups packet_beyond_criu packet_rings raw_sockets socket_filters_locked
}

families_that_criu_carries! { tun_plain netlink packet packet_old socket_filters udplite }

/// Has a range of groups that may have ping sockets, where nobody may.
fn allow_pings() {
    const GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";
    let text = std::fs::read_to_string(GROUPS).expect("read the groups of ping sockets");
    let bounds: Vec<u32> = text.split_whitespace().filter_map(|it| it.parse().ok()).collect();
    if !matches!(bounds[..], [0, _]) {
        std::fs::write(GROUPS, "0 0").expect("let root have ping sockets");
    }
}

#[test]
fn ping_natively() {
    allow_pings();
    natively("ping");
}

#[test]
fn ping_carried() {
    allow_pings();
    carried("ping", Engine::Stasis, Engine::Stasis);
}

#[test]
fn ping_carried_by_programs() {
    allow_pings();
    carried_with("ping", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn settings_unseen_natively() {
    natively("settings_unseen");
}

/// What nobody sees without eBPF.
#[test]
fn settings_unseen_carried_by_programs() {
    carried_with("settings_unseen", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn settings_unseen_running_on_by_programs() {
    running_on("settings_unseen", true);
}

#[path = "families/seccomp.rs"]
mod seccomp;

#[path = "families/tcp_waiting.rs"]
mod tcp_waiting;

/// Without eBPF nobody can tell who uses a map.
mod bpfmap {
    use super::*;

    #[test]
    fn natively() {
        super::natively("bpfmap");
    }

    #[test]
    fn carried_by_programs() {
        carried_with("bpfmap", Engine::Stasis, Engine::Stasis, true);
    }

    #[test]
    fn running_on_by_programs() {
        running_on("bpfmap", true);
    }
}

/// Dumped and restored over and over by a program whose requests are in flight nearly all the while, and each is
/// waited for. Somebody else locks and unlocks what is everybody's meanwhile.
fn in_the_middle(family: &str) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(family, scratch.path("work"));
    let shared = ["/dev/null", "/dev/zero"].map(|path| File::open(path).expect("open"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                shared.iter().for_each(|file| file.lock_shared().expect("lock"));
                shared.iter().for_each(|file| file.unlock().expect("unlock"));
            }
        });
        let _over = Over(&is_over);
        for round in 0..ROUNDS {
            let images = scratch.path(&format!("images-{round}"));
            let collector = Collector::start(&scratch.path(&format!("collector-{round}")));
            let how = Dump { collector: Some(&collector), cross_check: true, ..Dump::ENDING };
            Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
            drop(collector);
            machine.await_no_children();
            Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
            assert!(workload.program().is_alive(), "round {round}: {}", workload.log());
        }
    });
    if let Err(what) = workload.check() {
        panic!("it is not what it was: {what}");
    }
}

/// Says that it is over when it is dropped, by a failure too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[path = "families/aio.rs"]
mod aio;

#[path = "families/io_uring.rs"]
mod io_uring;

#[test]
fn unnamed_natively() {
    natively("unnamed");
}

/// Which file of `O_TMPFILE` may be given a name is told by the kernel's structures alone.
#[test]
fn unnamed_carried_by_programs() {
    carried_with("unnamed", Engine::Stasis, Engine::Stasis, true);
}

/// Without them it is not known, so that it may not be given one when it is restored, and this is told: where
/// there is such a file.
#[test]
fn unnamed_files_are_told_of_without_programs() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    for (family, is_told) in [("unnamed", true), ("nameless", false)] {
        let workload = Workload::start(family, scratch.path(&format!("work-{family}")));
        let images = scratch.path(family);
        let outcome = Engine::Stasis.dump(workload.pid(), &images, Dump::RUNNING_ON);
        let outcome = outcome.must_succeed("dump");
        let said = format!("of process {}, and others), which they may not be", workload.pid());
        assert_eq!(outcome.stderr.contains(&said), is_told, "{family}: {}", outcome.stderr);
        workload.check().expect("the program's own check");
    }
}

/// What a netlink socket has registered for by its port the kernel keeps elsewhere, and shows nobody.
#[test]
fn registrations_that_nobody_sees_are_told_of() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    for (protocol, is_told) in [("NETLINK_ROUTE", false), ("16", true)] {
        let ready = scratch.path(&format!("ready-{protocol}"));
        let script = format!(
            "import socket, sys, time\nheld = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, {})\n\
             held.bind((0, 0)); open(sys.argv[1], 'w').close(); time.sleep(1000)",
            protocol.replace("NETLINK", "socket.NETLINK")
        );
        let mut command = std::process::Command::new("/usr/bin/python3");
        command.args(["-c", &script]).arg(&ready);
        let program = Program::start(&mut command, &scratch.path("log"));
        assert!(wait_until(std::time::Duration::from_secs(20), || ready.exists()), "it is not up");
        let outcome = Engine::Stasis.dump(program.pid(), &scratch.path(protocol), Dump::RUNNING_ON);
        let outcome = outcome.must_succeed("dump");
        assert_eq!(outcome.stderr.contains("generic or audit"), is_told, "{}", outcome.stderr);
    }
    machine.end_all();
}

/// Keys are seen by programs alone.
#[test]
fn session_keys_carried_by_programs() {
    carried_with("session_keys", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn session_keys_running_on_by_programs() {
    running_on("session_keys", true);
}

#[test]
fn session_keys_natively() {
    natively("session_keys");
}

/// What no call reads back, by what the programs tell.
#[test]
fn socket_options_hidden_carried_by_programs() {
    carried_with("socket_options_hidden", Engine::Stasis, Engine::Stasis, true);
}

/// The error that waits is seen by programs alone.
#[test]
fn tcp_reset_carried_by_programs() {
    carried_with("tcp_reset", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn tcp_reset_running_on_by_programs() {
    running_on("tcp_reset", true);
}

#[test]
fn tcp_reset_natively() {
    natively("tcp_reset");
}

#[test]
fn socket_options_hidden_natively() {
    natively("socket_options_hidden");
}

/// The options of a socket that a second dump finds are those of the first.
#[test]
fn socket_options_hidden_are_found_again_by_programs() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("socket_options_hidden", scratch.path("work"));
    let collector = Collector::start(&scratch.path("collector"));
    // Level, number and value, as the images have them.
    let options = [
        [&[8, 41, 16, 24, 26, 4][..], &1400_u32.to_ne_bytes()].concat(),
        [&[8, 41, 16, 50, 26, 20][..], &[0; 15], &[1, 0, 0, 0, 0]].concat(),
        [&[8, 1, 16, 70, 26, 4][..], &6_u32.to_ne_bytes()].concat(),
        // With the name of the interface whose number ends the value.
        [&[8, 0, 16, 32, 26, 12][..], &[0; 8], &[1, 0, 0, 0], b"\"\x02lo"].concat(),
        [&[8, 41, 16, 50, 26, 20][..], &[0; 16], &[1, 0, 0, 0], b"\"\x02lo"].concat(),
    ];
    let dump = |name: &str, how: Dump<'_>| {
        let images = scratch.path(name);
        let how = Dump { collector: Some(&collector), ..how };
        Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
        let files = std::fs::read(images.join("files.img")).expect("read");
        for option in &options {
            let has = files.windows(option.len()).any(|bytes| bytes == option);
            assert!(has, "{name} has no {option:?}");
        }
    };
    dump("first", Dump::ENDING);
    machine.end_tree(workload.pid());
    Engine::Stasis.restore(&scratch.path("first"), Dump::ENDING).must_succeed("restore");
    dump("second", Dump::RUNNING_ON);
    workload.check().expect("the program's own check");
}

/// A wait that was stopped before has lost the number of its call: the programs tell which it is.
#[test]
fn waits_carried_when_they_ran_on_by_programs() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("waits", scratch.path("work"));
    let collector = Collector::start(&scratch.path("collector"));
    for (images, how) in [("first", Dump::RUNNING_ON), ("last", Dump::ENDING)] {
        let how = Dump { collector: Some(&collector), ..how };
        Engine::Stasis.dump(workload.pid(), &scratch.path(images), how).must_succeed("dump");
    }
    drop(collector);
    machine.await_no_children();
    Engine::Stasis.restore(&scratch.path("last"), Dump::ENDING).must_succeed("restore");
    if let Err(what) = workload.check() {
        panic!("the waits are not what they were: {what}");
    }
}

/// CRIU's own dump has them say `EINTR`.
#[test]
fn waits_restored_by_criu_peer() {
    carried("waits", Engine::Stasis, Engine::Criu);
}

/// CRIU's own dump has a lock of a process only if its file is not open in its parent as well.
#[test]
fn locks_restored_by_criu_peer() {
    carried("locks", Engine::Stasis, Engine::Criu);
}

#[test]
fn woken_restored_by_criu_peer() {
    carried("woken", Engine::Stasis, Engine::Criu);
}

/// CRIU loses what it has no place for, and restores the rest.
fn restored_by_criu(family: &str) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let workload = Workload::start(family, scratch.path("work"));
    let images = scratch.path("images");
    let how = Dump { collector: Some(&collector), ..Dump::ENDING };
    Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
    drop(collector);
    machine.await_no_children();
    Engine::Criu.restore(&images, Dump::ENDING).must_succeed("restore");
    assert!(workload.program().is_alive(), "{family}: {}", workload.log());
}

#[test]
fn settings_restored_by_criu_peer() {
    restored_by_criu("settings");
}

#[test]
fn settings_deadline_restored_by_criu_peer() {
    restored_by_criu("settings_deadline");
}

#[test]
fn settings_unseen_restored_by_criu_peer() {
    restored_by_criu("settings_unseen");
}

/// Tracked: what is not read again must be as it was. Dumped while it runs on, then carried.
fn tracked(family: &str) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(family, scratch.path("work"));
    let collector = Collector::start(&scratch.path("collector"));
    collector.track(workload.pid());
    for (images, how) in
        [("first", Dump::RUNNING_ON), ("second", Dump::RUNNING_ON), ("last", Dump::ENDING)]
    {
        let how = Dump { collector: Some(&collector), ..how };
        Engine::Stasis.dump(workload.pid(), &scratch.path(images), how).must_succeed("dump");
    }
    drop(collector);
    machine.await_no_children();
    std::fs::write(workload.path("restored"), "").expect("say so");
    Engine::Stasis.restore(&scratch.path("last"), Dump::ENDING).must_succeed("restore");
    if let Err(what) = workload.check() {
        panic!("{family} is not what it was: {what}");
    }
}

#[test]
fn files_tracked() {
    tracked("files");
}

#[test]
fn pipes_tracked() {
    tracked("pipes");
}

#[test]
fn unix_sockets_tracked() {
    tracked("unix_sockets");
}

#[test]
fn tree_tracked() {
    tracked("tree");
}

#[test]
fn many_files_tracked() {
    tracked("many_files");
}

#[test]
fn changing_files_tracked() {
    tracked("changing_files");
}

/// What is learned of a program that does nothing but change its files is old news when it is
/// frozen: dumped and restored again and again, with the inventory by eBPF, it must not notice.
#[test]
fn changing_files_again_and_again_by_programs() {
    again_and_again("changing_files");
}

/// What a number means when it is asked about may be of another kind than what it meant when it was listed.
#[test]
fn kinds_of_files_again_and_again_by_programs() {
    again_and_again("changing_files_kinds");
}

/// A process is waited for between the plan and the freeze, while what stands for it is open.
#[test]
fn pidfds_again_and_again_by_programs() {
    again_and_again("pidfd_changing");
}

fn again_and_again(family: &str) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(family, scratch.path("work"));
    let collector = Collector::start(&scratch.path("collector"));
    for round in 0..ROUNDS {
        let images = scratch.path(&format!("images-{round}"));
        let how = Dump { collector: Some(&collector), ..Dump::ENDING };
        Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
        machine.end_tree(workload.pid());
        Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
        assert!(workload.program().is_alive(), "round {round}: {}", workload.log());
    }
    if let Err(what) = workload.check() {
        panic!("it is not what it was: {what}");
    }
}
