//! Which commands a gateway is asked for, and which of their options it has a field for. All others are refused by name before anything is
//! sent.

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory};
use criu::Failure;

use crate::args::Args;

/// Options that are about the way to the gateway, or about how we speak.
const OF_ALL: [&str; 10] = [
    "json",
    "quiet",
    "verbose",
    "gateway",
    "token_file",
    "ca_file",
    "cert_file",
    "key_file",
    "no_wait",
    "help",
];

/// A command that a gateway is asked for: its name, what of it is carried, what helps who wants more.
const CARRIED: [(&str, &[&str], &str); 14] = [
    (
        "dump",
        &[
            "pid",
            "together",
            "container",
            "engine",
            "directory",
            "labels",
            "leave_running",
            "dry_run",
            "shell_job",
            "tcp_established",
            "tcp_close",
            "skip_in_flight",
            "link_remap",
            "track",
            "parent",
            "max_freeze",
            "timeout",
        ],
        "",
    ),
    ("restore", &["directory", "detach", "shell_job", "tcp_close", "cgroups"], ""),
    ("ps", &["all", "containers"], ""),
    ("list", &["directory", "labels"], ""),
    ("show", &["directory"], ""),
    ("diff", &["before", "after"], ""),
    ("verify", &["directory"], ""),
    ("rm", &["directories"], ""),
    ("download", &["directory"], ""),
    ("upload", &["directory"], ""),
    ("track", &["pid", "tree", "cgroup", "files"], ""),
    ("tracks", &[], ""),
    ("untrack", &["pid", "id"], ""),
    ("jobs", &["id", "wait", "cancel", "state", "kind", "limit"], ""),
];

/// Commands that only make a job, for which one may wait or not.
const MAKES_JOB: [&str; 3] = ["dump", "restore", "verify"];

/// Refuses a command that a gateway is not asked for, and options that it has no field for.
pub(super) fn check(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((command, given)) = matches.subcommand() else { return Ok(()) };
    let Some((_, carried, remedy)) = CARRIED.iter().find(|(name, ..)| *name == command) else {
        return Err(Failure::with_remedy(
            format!("{command} with --gateway: no gateway is asked for that"),
            format!("run it on its machine, without --gateway: stasis {command} …"),
        ));
    };
    let no_wait = is_given(given, "no_wait").then_some("no_wait");
    let no_wait = no_wait.filter(|_| !MAKES_JOB.contains(&command));
    let is_carried = |id: &str| OF_ALL.contains(&id) || carried.contains(&id);
    let known = Args::command();
    let known = known.find_subcommand(command).into_iter().flat_map(Command::get_arguments);
    let mut ids = known.map(|argument| argument.get_id().as_str()).filter(|id| is_given(given, id));
    let Some(id) = no_wait.or_else(|| ids.find(|id| !is_carried(id))) else { return Ok(()) };
    let option = match id {
        "pid" => "a process".to_owned(),
        id => format!("--{}", id.replace('_', "-")),
    };
    let remedy = match *remedy {
        "" => "leave it out, or run the command on its machine, without --gateway",
        remedy => remedy,
    };
    let error = format!("{command} with {option} and --gateway: no request to a gateway says that");
    Err(Failure::with_remedy(error, remedy))
}

/// Whether something was typed: what an environment says is for the commands of this machine.
pub(super) fn is_given(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(words: &str) -> Result<(), String> {
        let words = format!("stasis --gateway unix:/x {words}");
        let matches = Args::command().try_get_matches_from(words.split(' ')).unwrap();
        check(&matches).map_err(|failure| failure.to_string())
    }

    /// Every option that a command has is carried, or refused by its name.
    #[test]
    fn all_that_is_named_here_is_there() {
        let mut command = Args::command();
        command.build();
        for (name, carried, _) in CARRIED {
            let one = command.find_subcommand(name).unwrap_or_else(|| panic!("{name}"));
            for id in carried.iter().chain(&OF_ALL) {
                let is_there = one.get_arguments().any(|argument| argument.get_id() == id);
                assert!(is_there, "{name} has no {id}");
            }
        }
    }

    #[test]
    fn what_no_request_says_is_refused_by_name() {
        for good in [
            "dump 7 -D web/first --leave-running --max-freeze 5ms",
            "restore -D web --detach --cgroups none",
            "list",
            "list web",
            "diff web/1 web/2",
            "--json ps --all",
            "untrack --id 3",
            "untrack 7",
            "dump 7 -D web --leave-running --track --parent first",
            "dump 7 -D web --no-wait",
        ] {
            assert_eq!(checked(good), Ok(()), "{good}");
        }
        for (refused, named) in [
            ("dump 7 -D web --leave-stopped", "--leave-stopped"),
            ("dump 7 -D web --ghost-limit 1M", "--ghost-limit"),
            ("dump 7 -D web --bpf-dir none", "--bpf-dir"),
            ("restore -D web --trust-paths", "--trust-paths"),
            ("restore -D web --pidfile p", "--pidfile"),
            ("ps --no-wait", "--no-wait"),
            ("track 7 --run-dir /x", "--run-dir"),
            ("unlock a", "unlock"),
            ("check", "check"),
        ] {
            let error = checked(refused).unwrap_err();
            assert!(error.contains(named) && error.contains("remedy: "), "{refused}: {error}");
        }
    }
}
