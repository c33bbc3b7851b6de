//! What makes a command line of the face: arguments, environment, standard streams, exit codes.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool speaks on its standard streams"
)]

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use images::Images;
use nix::errno::Errno;
use nix::sys::wait::wait;

use crate::carrying_out::shown;
use crate::{
    Asked, Command, Directories, Done, Error, Failure, Host, Options, Reading, VERSION,
    configuration, parse, program, rights, rpc, run, service,
};

const USAGE: &str = "
Usage:
  criu dump -t PID [<options>]
  criu pre-dump -t PID [<options>]
  criu restore [<options>]
  criu check [--feature FEAT]
  criu restore [<options>] --exec-cmd -- COMMAND [ARGUMENTS]
  criu cpuinfo dump|check [<options>]
  criu page-server [<options>]
  criu dedup [<options>]
  criu service [<options>]
  criu swrk FD

Options:
  -t|--tree PID         root of the process tree to dump
  -D|--images-dir DIR   directory for image files [default: .]
  -W|--work-dir DIR     directory for the log, pidfile and stats [default: the images directory]
  -o|--log-file FILE    log file, - for standard output [default: standard error]
  -v[NUM]|-v[v...]      verbosity: 1 errors, 2 warnings (default), 3 information, 4 all
  -R|--leave-running    leave tasks running after the dump
  -s|--leave-stopped    leave tasks stopped after the dump or restore
     --track-mem        go on tracking memory changes after the dump
     --prev-images-dir DIR
                        images of an earlier dump or pre-dump, relative to the images directory
  -j|--shell-job        dump and restore jobs of a shell
  -d|--restore-detached detach after the restore
  -S|--restore-sibling  restore the root as a sibling (needs -d)
     --pidfile FILE     write the pid of the restored root (or of the page server or service) to
                        FILE, which must not exist
     --auto-dedup       dump and page server: give back the room of the parent's pages that have newer
                        copies (a server: if the dump's images come to the same directory);
                        restore: that of all pages, which are then used up
     --allow-uprobes    programs may have uprobes, which must be there at the restore, too
     --page-server      dump: send pages to a page server
     --address ADDRESS  of the page server [default: localhost; a server: all addresses]
     --port PORT        of the page server [a server's default: any]
     --ps-socket FD     the connection between dump and page server, in place of an address
     --cpu-cap[=CAP]    dump: describe the processor; restore and cpuinfo check: it must have what is
                        described; CAP is a list of fpu (state), ins (instructions), cpu (all features),
                        all and none, ^CAP takes one back [default: fpu,ins, and all without CAP]
     --unprivileged     not as root: programs of one's own alone, with CAP_CHECKPOINT_RESTORE
     --evasive-devices  dump: a device may be found by a path that leads to another node of it
     --skip-file-rwx-check
                        restore: who may read, write and execute a file may have changed
     --display-stats    show the statistics of a dump or restore
     --exec-cmd         execute the words after the command in place of criu when it has restored
     --address PATH     service: socket that a service listens at [default: criu_service.socket]
     --daemon           a page server or service goes into the background
     --status-fd FD     a page server or service writes a byte of 0 to it when it listens
  -r|--root PATH        root file system
     --manage-cgroups[=MODE]
                        ignore, none, props, soft (default), full or strict; a dump with ignore
                        says where tasks are, not what their control groups are
     --cgroup-root [CONTROLLER:]/PATH
                        dump: the control group to describe, with all below it; restore: the one
                        that takes the place of the highest one that the tree was in
     --cgroup-props TEXT, --cgroup-props-file FILE
                        dump: settings of control groups to describe, in CRIU's form, beside those known
     --cgroup-dump-controller NAME
                        dump: describe only this hierarchy; may be given several times
     --cgroup-yard DIR  directory in which all control group hierarchies are mounted
     --freeze-cgroup DIR
                        dump: the control group of the tree (DIR has freezer.state or cgroup.freeze) stops
                        it; one that is frozen already is left so
     --action-script FILE
                        start FILE at each step of a dump or restore, with CRTOOLS_SCRIPT_ACTION,
                        CRTOOLS_IMAGE_DIR and CRTOOLS_INIT_PID; may be given several times
  -l|--file-locks       file locks and leases are carried: dumped, and taken again
     --ghost-limit SIZE largest deleted file that is carried [default: 1M]
     --link-remap       a file that has lost its name, and has others, is given one (link_remap.N)
                        beside that, which a restore removes
     --feature FEAT     only check a particular feature
     --extra            check for what only some programs need as well
     --experimental     check for what CRIU calls experimental as well
     --all              check for all of it
     --config FILE      take options from FILE, in place of /etc/criu/default.conf and
                        ~/.criu/default.conf
     --no-default-config
                        take options from neither of these
     --pre-dump-mode MODE
                        splice or read: CRIU's two ways, which are one here
  -h|--help             show this text
  -V|--version          show version

CRIU's other options are known, and refused by name.
";

/// Runs as `criu` with these arguments, the program's name aside.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    if let [command, file, holding] = &arguments[..]
        && command == dumper::KEEP
    {
        return match dumper::keep(file.as_ref(), &holding.to_string_lossy()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let host = Host::of_the_environment();
    if let [command] = &arguments[..]
        && command == service::SERVE
    {
        return serve(&host);
    }
    let configured = match wants_help(&arguments) {
        // A broken file must not keep anybody from reading how it is mended.
        true => Ok(Vec::new()),
        false => configuration::of(&arguments, &host),
    };
    let words = match configured {
        Ok(configured) => configured.into_iter().chain(arguments).collect(),
        Err(error) => {
            eprintln!("criu: {error}");
            return ExitCode::FAILURE;
        }
    };
    match parse(words) {
        Ok(Asked::Version) => println!("Version: {VERSION}"),
        Ok(Asked::Help) => println!("{USAGE}"),
        Ok(Asked::Run(command, options)) => return carry_out(command, &options, &host),
        Ok(Asked::Work(base, number)) => return worked(rpc::work(number, &base, &host)),
        Err(error) => {
            eprintln!("criu: {error}\n{USAGE}\nTry -h|--help for more info");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Serves a client of a service. What a service was told on its command line is its own affair.
fn serve(host: &Host) -> ExitCode {
    let mut base = Reading::default();
    let read = configuration::of(&[], host).map_err(|error| error.to_string());
    match read.and_then(|words| base.read(words).map_err(|error| error.to_string())) {
        Ok(_) => worked(rpc::serve_connection(&base, host)),
        Err(error) => {
            eprintln!("criu: {error}");
            ExitCode::FAILURE
        }
    }
}

fn worked(done: Result<bool, Error>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tell(error);
            ExitCode::FAILURE
        }
    }
}

fn wants_help(arguments: &[OsString]) -> bool {
    arguments.iter().any(|word| word == "--help" || word == "-h")
}

fn carry_out(command: Command, options: &Options, host: &Host) -> ExitCode {
    if command == Command::Restore {
        let images = options.images_dir.as_deref().unwrap_or(Path::new("."));
        // What is wrong with the images is said by the restore.
        let taken = Images::open(images).map_or(Ok(()), |images| restorer::layout::take(&images));
        if let Err(error) = taken {
            tell(Error::Restore(error.into()));
            return ExitCode::FAILURE;
        }
    }
    let done = run(command, options, host);
    if let (Ok(done), Ok(directories)) = (&done, Directories::of(options))
        && let Some(text) = shown(options, &directories, done)
    {
        // What was done stays done where nobody reads of it.
        std::io::stdout().write_all(text.as_bytes()).unwrap_or_default();
    }
    match done {
        // As above: that nobody reads it changes nothing.
        Ok(Done::Checked) => drop(std::io::stdout().write_all(b"Looks good.\n")),
        Ok(Done::Restored(report)) if !options.exec.is_empty() => {
            // Who asked sees the program that this process becomes.
            if let Some(untold) = report.untold {
                untold.told_for_good();
            }
            eprintln!("Error (criu): {}", program::execute(options));
            return ExitCode::FAILURE;
        }
        Ok(Done::Restored(_)) if !options.detach => wait_for_all(),
        // The exit status, which comes next, tells it.
        Ok(Done::Restored(report)) => {
            if let Some(untold) = report.untold {
                untold.told();
            }
        }
        Ok(_) => {}
        Err(error) => {
            let code = error.exit_code();
            tell(error);
            return ExitCode::from(code);
        }
    }
    ExitCode::SUCCESS
}

/// Says why nothing was done, where no log does.
fn tell(error: Error) {
    let said = match error {
        error if error.is_in_the_log() => return,
        Error::Rights(error) => again_as_root(error).to_string(),
        error => error.to_string(),
    };
    for line in said.lines() {
        eprintln!("Error (criu): {line}");
    }
}

/// Waits, as CRIU does, until every child has ended, whatever their exit statuses.
fn wait_for_all() {
    loop {
        match wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Refuses a command that takes root, or the capabilities for it, to who has neither.
///
/// # Errors
/// With the command that does it as root.
pub fn require(command: &str) -> Result<(), Failure> {
    rights::require(command).map_err(again_as_root)
}

fn again_as_root(error: rights::NoRights) -> Failure {
    Failure::with_remedy(error, format!("run as root: {}", with_sudo()))
}

/// This very command line, as root has to type it.
#[must_use]
pub fn with_sudo() -> String {
    let words = std::env::args_os().map(|word| quoted(&word)).collect::<Vec<_>>();
    format!("sudo {}", words.join(" "))
}

/// A word as a shell takes it.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_take_them_apart() {
        for (word, shown) in [
            ("stasis", "stasis"),
            ("--directory=/a/b", "--directory=/a/b"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", "'it'\\''s'"),
            ("$HOME", "'$HOME'"),
        ] {
            assert_eq!(quoted(OsStr::new(word)), shown);
        }
    }
}
