//! What is read of command lines.

use super::*;
use crate::Command;
use crate::reading::{Asked, parse};

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn options(line: &str) -> Options {
    match parse(words(line)).unwrap() {
        Asked::Run(_, options) => *options,
        other => panic!("{line}: {other:?}"),
    }
}

fn error(line: &str) -> String {
    parse(words(line)).unwrap_err().to_string()
}

#[test]
fn options_are_read_as_getopt_does() {
    let read = options("-v4 check -t 7 -D dir -jR -o x.log --pidfile=p --root / -d");
    assert_eq!(read.tree, HostPid::new(7));
    assert_eq!(read.images_dir, Some("dir".into()));
    assert_eq!(read.verbosity(), 4);
    assert_eq!(read.final_state, FinalState::Running);
    assert!(read.shell_job && read.detach && !read.sibling);
    assert_eq!(read.log_file, Some("x.log".into()));
    assert_eq!(read.pidfile, Some("p".into()));
    assert!(read.refused.is_empty());
}

#[test]
fn control_groups_have_the_modes_of_criu() {
    for (line, mode) in [
        ("restore", CgroupsMode::Soft),
        ("restore --manage-cgroups", CgroupsMode::Soft),
        ("restore --manage-cgroups=ignore", CgroupsMode::Ignore),
        ("restore --manage-cgroups=strict", CgroupsMode::Strict),
    ] {
        assert_eq!(options(line).cgroups, mode, "{line}");
    }
    assert!(error("restore --manage-cgroups=some").contains("some"));
    let read = options("restore --cgroup-root cpu:/a/b/ --cgroup-root /n");
    let roots: Vec<_> = read
        .cgroup_roots
        .iter()
        .map(|root| (root.controller.as_deref(), root.path.to_str()))
        .collect();
    assert_eq!(roots, [(Some("cpu"), Some("/a/b")), (None, Some("/n"))]);
}

#[test]
fn verbosity_counts_and_sets() {
    assert_eq!(options("check").verbosity(), 2);
    assert_eq!(options("check -v").verbosity(), 3);
    assert_eq!(options("check -vv").verbosity(), 4);
    assert_eq!(options("check -v0").verbosity(), 0);
    assert_eq!(options("check --verbosity=3").verbosity(), 3);
    assert_eq!(options("check -verbosity=0").verbosity(), 0);
}

#[test]
fn what_criu_has_and_we_have_not_is_named() {
    let read = options("check --lsm-profile x --no-tcp-close --external nic[8/1]:b");
    assert_eq!(read.refused, ["--external nic[8/1]:b", "--lsm-profile"]);
    assert_eq!(options("dump --ext-mount-map a:").refused, ["--ext-mount-map a:"]);
    assert_eq!(
        error("lazy-pages -t 7"),
        "command lazy-pages is not supported by this version of stasis: restore without --lazy-pages, which brings in all pages at once"
    );
}

#[test]
fn options_that_a_command_does_not_carry_out_are_named() {
    for (line, misplaced) in [
        ("dump -t 7 -d --pidfile x --feature timerfd -S", "-d --pidfile --feature -S"),
        ("pre-dump -t 7 -s --ghost-limit 1M --cgroup-root /a", "-s"),
        ("restore --ghost-limit 1M --track-mem -j --cgroup-root /a", "--ghost-limit --track-mem"),
        ("check -v4 -o x --no-shell-job -R", "-R"),
    ] {
        assert_eq!(options(line).misplaced.join(" "), misplaced, "{line}");
    }
}

/// What a command does not use is no reason to refuse it.
#[test]
fn what_another_command_lacks_is_named_and_not_refused() {
    let read = options("restore --evasive-devices");
    assert_eq!((read.refused.len(), read.misplaced.len()), (0, 1));
    let read = options("dump --evasive-devices");
    assert_eq!((read.refused.len(), read.misplaced.len()), (0, 0));
    assert!(read.evasive_devices);
    assert!(!options("dump --evasive-devices --no-evasive-devices").evasive_devices);
}

/// The table says of every option whether it is read.
#[test]
fn the_table_and_what_is_read_agree() {
    for known in crate::table::OPTIONS {
        if matches!(known.long, "help" | "version") {
            continue;
        }
        // Of what can be external only some is carried.
        let values: &[&str] = match known.long {
            "external" => &["=unix[1]", "=mnt[/a]:b", "=mnt[]"],
            "ext-mount-map" => &["=/a:b", "=auto"],
            "inherit-fd" => &["=fd[1]:x"],
            "empty-ns" => &["=net"],
            "veth-pair" => &["=a=b"],
            "join-ns" => &["=net:1"],
            _ => &["", "=1", "=soft", "=filesize", "=read", "=skip", "=/x"],
        };
        for command in [Command::Dump, Command::PreDump, Command::Restore, Command::Check] {
            let more =
                if known.long == "exec-cmd" && command == Command::Restore { " x" } else { "" };
            let line = |value| format!("{} --{}{value}{more}", command.name(), known.long);
            let read = values.iter().filter_map(|value| match parse(words(&line(value))) {
                Ok(Asked::Run(_, options)) => Some(options.refused.is_empty()),
                _ => None,
            });
            let read: Vec<bool> = read.collect();
            assert!(!read.is_empty(), "no value does for --{}", known.long);
            let carried = !known.refused.contains(&command);
            assert!(read.iter().all(|read| *read == carried), "--{}", known.long);
        }
    }
}

#[test]
fn a_program_to_execute_follows_the_command() {
    let read = options("restore -D x --exec-cmd -- sh -c exit");
    assert_eq!(read.exec, ["sh", "-c", "exit"]);
    assert_eq!(error("restore --exec-cmd"), "--exec-cmd requires a command");
    assert_eq!(error("dump --exec-cmd -- sh"), "excessive parameter for command dump");
}

#[test]
fn descriptors_are_inherited_by_names() {
    let read = options("restore --inherit-fd fd[5]:pipe:[77] --inherit-fd fd[0]:a/b:c");
    assert_eq!(read.inherited, [(5, b"pipe:[77]".to_vec()), (0, b"a/b:c".to_vec())]);
    for value in ["fd[x]:y", "fd[1]", "fd[1]:", "fd[-1]:x", "debug[1]:x", "fd[1:x"] {
        assert!(error(&format!("restore --inherit-fd {value}")).contains(value), "{value}");
    }
}

/// LXC says what it has not.
#[test]
fn a_restore_may_be_given_more_than_it_needs() {
    let read = options("restore --ext-mount-map console: --external console:");
    assert!(read.refused.is_empty(), "{:?}", read.refused);
    assert_eq!(read.misplaced, ["--external console:"]);
    assert!(read.external_mounts.of_restore().external.is_empty());
    assert_eq!(options("dump --external console:").refused, ["--external console:"]);
}

#[test]
fn a_worker_has_a_descriptor() {
    assert!(matches!(parse(words("swrk 3 -v4")), Ok(Asked::Work(_, 3))));
    for line in ["swrk", "swrk x", "swrk -- -1", "swrk 3 4"] {
        assert!(matches!(parse(words(line)), Err(UsageError::Worker)), "{line}");
    }
}

#[test]
fn what_is_not_understood_is_a_usage_error() {
    assert_eq!(error("check --bogus"), "unrecognized option '--bogus'");
    assert_eq!(error("check -Z"), "unrecognized option '-Z'");
    assert_eq!(error("check -t"), "option '-t' requires an argument");
    assert_eq!(error("check -t 0"), "invalid argument for -t: 0");
    assert_eq!(error("check now"), "excessive parameter for command check");
    assert_eq!(error("juggle"), "unknown command: juggle");
    assert_eq!(error("-v4"), "command is required");
    assert!(matches!(parse(words("--version")), Ok(Asked::Version)));
}
