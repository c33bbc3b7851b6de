//! What carries requests out, one after the other as long as the client keeps the connection.

use std::error::Error as _;
use std::os::fd::AsRawFd;
use std::path::Path;

use hooks::{Hooks, Nobody};
use ids::HostPid;
use images::{Images, names};
use kernel::features::{Answer, Feature};
use tracing::error;

use super::connection::{Connection, ConnectionError};
use super::fields::{self, FieldsError, Origin, work_in};
use super::messages::{Dumped, Features, Fields, Kind, Request, Response, Restored, Version};
use super::notifications::Notifications;
use super::page_server;
use crate::carrying_out::run_told;
use crate::command::Command;
use crate::log::Log;
use crate::options::Options;
use crate::program::execute_with_log;
use crate::reading::Reading;
use crate::{Done, Error, Host};

/// The version whose RPC this is.
const VERSION: Version = Version { major: 4, minor: 2 };

/// A worker, which serves one client.
#[derive(Debug)]
pub(crate) struct Worker<'a> {
    pub(crate) connection: Connection,
    /// The options that were read before any request.
    pub(crate) base: &'a Reading,
    pub(crate) host: &'a Host,
    pub(crate) origin: Origin,
}

/// What a request came to.
#[derive(Debug)]
enum Outcome {
    /// It was carried out.
    Done(Done),
    /// Its options make no sense.
    Senseless(FieldsError),
    /// It was not carried out.
    Failed(Error),
    /// Who asks may not have it done.
    NotAllowed(String),
}

impl Outcome {
    const fn is_success(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// What the client is told of an error.
    fn error(&self) -> Option<String> {
        match self {
            Self::Done(_) => None,
            Self::Senseless(error) => Some(error.to_string()),
            Self::Failed(error) => Some(error.to_string()),
            Self::NotAllowed(why) => Some(why.clone()),
        }
    }
}

impl Worker<'_> {
    /// Serves the client to its end. Whether all that it asked for was done.
    pub(crate) fn work(mut self) -> bool {
        if let Err(error) = self.take_layout() {
            return self.refuse(&error.to_string());
        }
        let mut first = true;
        loop {
            let request = match self.connection.next() {
                Ok(Some(request)) => request,
                Ok(None) => return !first,
                Err(error) => return self.cannot_read(&error),
            };
            first = false;
            let kind = request.kind();
            let keep = request.keep_open == Some(true);
            if keep && !may_stay_open(kind) {
                return self.refuse("the connection cannot be kept open after such a request");
            }
            if !self.carry_out(&request) {
                return false;
            }
            if !keep {
                return true;
            }
        }
    }

    /// A restore starts this program again if mappings of the tree would go elsewhere: before the request has
    /// been taken from the socket, where the new program finds it.
    fn take_layout(&self) -> Result<(), Error> {
        let Ok(Some(request)) = self.connection.peek() else { return Ok(()) };
        let (Kind::Restore, Some(fields)) = (request.kind(), &request.options) else {
            return Ok(());
        };
        if self.not_allowed().is_some() {
            return Ok(());
        }
        // What is wrong is said by the restore.
        let Ok(options) = self.options(fields, Command::Restore) else { return Ok(()) };
        let images = options.images_dir.as_deref().unwrap_or(Path::new("."));
        Images::open(images)
            .map_or(Ok(()), |images| restorer::layout::take(&images))
            .map_err(|error| Error::Restore(error.into()))
    }

    /// Carries one out, and answers; whether the worker has been of use.
    fn carry_out(&mut self, request: &Request) -> bool {
        let kind = request.kind();
        let fields = request.options.as_ref();
        match kind {
            Kind::Dump => self.dump(fields),
            Kind::Restore => self.restore(fields),
            Kind::PreDump => self.pre_dumps(fields),
            Kind::SinglePreDump => self.pre_dump(fields, kind),
            Kind::Check => self.check(fields),
            Kind::FeatureCheck => self.features(request.features.unwrap_or_default()),
            Kind::Version => {
                self.answer(&Response { version: Some(VERSION), ..response(kind, true) })
            }
            Kind::WaitPid => {
                let whom = request.pid.and_then(|number| i32::try_from(number).ok());
                self.wait(whom.and_then(HostPid::new))
            }
            Kind::PageServer | Kind::PageServerChild => {
                self.page_server(fields, kind == Kind::PageServerChild)
            }
            Kind::CpuinfoDump => self.cpuinfo(Command::CpuinfoDump, fields, kind),
            Kind::CpuinfoCheck => self.cpuinfo(Command::CpuinfoCheck, fields, kind),
            Kind::Empty | Kind::Notify => {
                // CRIU's worker ends well or not by this.
                self.refuse("Invalid req")
            }
        }
    }

    fn dump(&mut self, fields: Option<&Fields>) -> bool {
        let itself = fields.is_some_and(|fields| fields.pid.is_none());
        let outcome = self.run(Command::Dump, fields);
        let runs_on = fields.is_some_and(|fields| fields.leave_running == Some(true));
        // Who had itself dumped is no longer there to hear of it.
        if outcome.is_success() && itself && !runs_on {
            return true;
        }
        let answer = Response {
            dump: Some(Dumped { restored: Some(false) }),
            ..self.of(Kind::Dump, &outcome, fields)
        };
        self.answer(&answer) && outcome.is_success()
    }

    fn restore(&mut self, fields: Option<&Fields>) -> bool {
        let mut outcome = self.run(Command::Restore, fields);
        let (pid, untold) = match &mut outcome {
            Outcome::Done(Done::Restored(report)) => (report.pid.get(), report.untold.take()),
            _ => (-1, None),
        };
        let answer = Response {
            restore: Some(Restored { pid }),
            ..self.of(Kind::Restore, &outcome, fields)
        };
        let done = self.answer(&answer) && outcome.is_success();
        let becomes = fields.is_some_and(|fields| !fields.exec_cmd.is_empty());
        match untold.filter(|_| done) {
            Some(untold) if becomes => untold.told_for_good(),
            Some(untold) => untold.told(),
            // A client that cannot be told knows of no tree: it ends.
            None => {}
        }
        let Some(fields) = fields.filter(|fields| done && !fields.exec_cmd.is_empty()) else {
            return done;
        };
        if let Ok(options) = self.options(fields, Command::Restore) {
            execute_with_log(&options);
        }
        false
    }

    /// Pre-dumps until there is another request, which must be the dump.
    fn pre_dumps(&mut self, fields: Option<&Fields>) -> bool {
        if !self.pre_dump(fields, Kind::PreDump) {
            return false;
        }
        loop {
            let request = match self.connection.next() {
                Ok(Some(request)) => request,
                Ok(None) => return false,
                Err(error) => return self.cannot_read(&error),
            };
            let fields = request.options.as_ref();
            match request.kind() {
                Kind::PreDump if self.pre_dump(fields, Kind::PreDump) => {}
                Kind::PreDump => return false,
                Kind::Dump => return self.dump(fields),
                _ => return self.refuse("Bad req seq"),
            }
        }
    }

    fn pre_dump(&mut self, fields: Option<&Fields>, kind: Kind) -> bool {
        let outcome = self.run(Command::PreDump, fields);
        let answer = self.of(kind, &outcome, fields);
        self.answer(&answer) && outcome.is_success()
    }

    fn check(&mut self, fields: Option<&Fields>) -> bool {
        let none = Fields { log_to_stderr: Some(true), ..Fields::default() };
        // Without a log there is no need for a directory.
        let unlogged =
            |fields: &&Fields| fields.log_file.is_none() || fields.log_to_stderr == Some(true);
        let fields = fields.filter(|fields| !unlogged(fields)).unwrap_or(&none);
        // The service's own directory is no place for the log of a client.
        let has_place = fields.images_dir_fd != -1
            || fields.images_dir.is_some()
            || fields.work_dir_fd.is_some();
        let outcome = match has_place || unlogged(&fields) {
            true => self.run(Command::Check, Some(fields)),
            false => Outcome::Senseless(FieldsError::Usage(NO_DIRECTORY)),
        };
        let answer = self.of(Kind::Check, &outcome, Some(fields));
        self.answer(&answer)
    }

    /// The connection stays open after it, whatever it comes to.
    fn cpuinfo(&mut self, command: Command, fields: Option<&Fields>, kind: Kind) -> bool {
        let outcome = self.run(command, fields);
        let answer = self.of(kind, &outcome, fields);
        self.answer(&answer)
    }

    fn features(&self, asked: Features) -> bool {
        let there = |asked: Option<bool>, feature: Feature| {
            asked == Some(true) && matches!(feature.probe(), Answer::Yes)
        };
        let found = Features {
            mem_track: Some(there(asked.mem_track, Feature::UffdWpAsync)),
            // Pages are not served when they are touched.
            lazy_pages: Some(false),
            pidfd_store: Some(there(asked.pidfd_store, Feature::PidfdGetfd)),
        };
        self.answer(&Response { features: Some(found), ..response(Kind::FeatureCheck, true) })
    }

    fn wait(&self, pid: Option<HostPid>) -> bool {
        let ended = match pid {
            Some(pid) => kernel::process::wait_status(pid),
            None => Err(std::io::Error::from_raw_os_error(libc::ECHILD)),
        };
        let mut answer = response(Kind::WaitPid, ended.is_ok());
        match ended {
            Ok(status) => answer.status = Some(status),
            Err(error) => {
                answer.errno = error.raw_os_error();
                answer.error = Some(format!("Unable to wait: {error}"));
            }
        }
        self.answer(&answer)
    }

    /// Starts a page server, which is a child of the worker if the client is to wait for it. The connection stays open after it,
    /// whatever it comes to.
    fn page_server(&mut self, fields: Option<&Fields>, as_child: bool) -> bool {
        let options = self.options_to_run(Command::PageServer, fields);
        // Checked before; nobody but a page server says that it is ready.
        let status = fields.and_then(|fields| fields.status_fd);
        let status = status.and_then(|number| {
            let path = self.connection.descriptor(number).ok()?;
            std::fs::File::options().write(true).open(path).ok()
        });
        let started = options.and_then(|options| {
            let status_fd = status.as_ref().map(AsRawFd::as_raw_fd);
            let (options, connection) = (Options { status_fd, ..options }, &mut self.connection);
            page_server::start(options, as_child, self.host, connection).map_err(Outcome::Failed)
        });
        let answer = match started {
            Ok(server) => {
                Response { page_server: Some(server), ..response(Kind::PageServer, true) }
            }
            Err(outcome) => self.of(Kind::PageServer, &outcome, None),
        };
        self.answer(&answer)
    }

    fn cannot_read(&self, error: &ConnectionError) -> bool {
        let cause = error.source().map_or_else(String::new, |source| format!(": {source}"));
        self.refuse(&format!("{error}{cause}"))
    }

    /// Answers what is no request.
    fn refuse(&self, why: &str) -> bool {
        error!("RPC error: {why}");
        let answer = Response {
            errno: Some(libc::EBADRQC),
            error: Some(why.to_owned()),
            ..response(Kind::Empty, false)
        };
        self.answer(&answer);
        false
    }

    /// Whether the client has been told.
    fn answer(&self, answer: &Response) -> bool {
        self.connection
            .answer(answer, None)
            .inspect_err(|error| error!("Can't send response: {error}"))
            .is_ok()
    }

    /// Why who asks may not have anything done, if so.
    fn not_allowed(&self) -> Option<String> {
        let (client, own) = (self.connection.peer().uid, nix::unistd::geteuid().as_raw());
        (client != 0 && client != own).then(|| {
            format!(
                "this is done for uid 0 and for uid {own}, not for uid {client}: ask as one of them, or ask \
                 the gateway of stasis, which does for users what they may do by ptrace"
            )
        })
    }

    fn options(&self, fields: &Fields, command: Command) -> Result<Options, FieldsError> {
        fields::options(self.base, fields, command, &self.connection, self.origin)
    }

    /// The options of a request that may be carried out.
    fn options_to_run(
        &self,
        command: Command,
        fields: Option<&Fields>,
    ) -> Result<Options, Outcome> {
        if let Some(why) = self.not_allowed() {
            return Err(Outcome::NotAllowed(why));
        }
        let Some(fields) = fields else {
            return Err(Outcome::Senseless(FieldsError::Usage("the request has no options")));
        };
        let options = self.options(fields, command).map_err(|error| {
            self.log_senseless(fields, &error);
            Outcome::Senseless(error)
        })?;
        if command != Command::Check && options.images_dir.is_none() {
            return Err(Outcome::Senseless(FieldsError::Usage(NO_DIRECTORY)));
        }
        Ok(options)
    }

    fn run(&mut self, command: Command, fields: Option<&Fields>) -> Outcome {
        let options = match self.options_to_run(command, fields) {
            Ok(options) => options,
            Err(outcome) => return outcome,
        };
        if let Err(error) = work_in(&options) {
            return Outcome::Failed(error);
        }
        let says = |field: fn(&Fields) -> Option<bool>| fields.and_then(field) == Some(true);
        let takes_masters = says(|fields| fields.orphan_pts_master);
        let mut client = Notifications { connection: &mut self.connection, takes_masters };
        let mut nobody = Nobody;
        let told: &mut dyn Hooks =
            if says(|fields| fields.notify_scripts) { &mut client } else { &mut nobody };
        match run_told(command, &options, self.host, told) {
            Ok(done) => Outcome::Done(done),
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Says in the log, if one can be found, why there was nothing to carry out.
    fn log_senseless(&self, fields: &Fields, error: &FieldsError) {
        let without_more = Fields {
            images_dir_fd: fields.images_dir_fd,
            images_dir: fields.images_dir.clone(),
            work_dir_fd: fields.work_dir_fd,
            log_file: fields.log_file.clone(),
            log_level: fields.log_level,
            log_to_stderr: fields.log_to_stderr,
            ..Fields::default()
        };
        let options = self.options(&without_more, Command::Check).ok();
        let options = options.filter(|options| options.images_dir.is_some());
        let log = options.and_then(|options| {
            let work = options.work_dir.as_ref().or(options.images_dir.as_ref())?;
            let file = options.log_file.as_ref().map(|name| work.join(name));
            Log::open(file.as_deref(), options.verbosity()).ok()
        });
        match log {
            Some(log) => log.during(|| error!("{error}")),
            None => error!("{error}"),
        }
    }

    /// The answer to a request, as far as all are alike.
    fn of(&self, kind: Kind, outcome: &Outcome, fields: Option<&Fields>) -> Response {
        let errno = match outcome {
            Outcome::Done(_) => None,
            Outcome::Senseless(_) => Some(libc::EBADRQC),
            Outcome::NotAllowed(_) => Some(libc::EPERM),
            Outcome::Failed(error) => self.number(error, fields),
        };
        Response { errno, error: outcome.error(), ..response(kind, outcome.is_success()) }
    }

    /// The number that CRIU has for an error.
    fn number(&self, error: &Error, fields: Option<&Fields>) -> Option<i32> {
        match error {
            Error::Dump(_) | Error::PreDump(_) => {
                let pid = HostPid::new(fields?.pid?);
                let exists = pid.is_some_and(kernel::process::exists);
                (!exists).then_some(libc::ESRCH)
            }
            Error::Restore(_) => {
                let options = self.options(fields?, Command::Restore).ok()?;
                has_taken_numbers(options.images_dir.as_deref()?).then_some(libc::EEXIST)
            }
            Error::Rights(_) => Some(libc::EPERM),
            Error::Options(_) | Error::Usage(_) | Error::Directory { .. } | Error::Log { .. } => {
                Some(libc::EBADRQC)
            }
            _ => None,
        }
    }
}

const NO_DIRECTORY: &str = "Neither images_dir_fd nor images_dir was passed by RPC client";

const fn may_stay_open(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::PageServer
            | Kind::PageServerChild
            | Kind::CpuinfoDump
            | Kind::CpuinfoCheck
            | Kind::FeatureCheck
            | Kind::Version
    )
}

fn response(kind: Kind, success: bool) -> Response {
    Response { kind: kind.into(), success, ..Response::default() }
}

/// Whether somebody has the number of a process of the checkpoint in this pid namespace. An init's is that of
/// another one.
fn has_taken_numbers(images: &Path) -> bool {
    let Ok(images) = Images::open(images) else { return false };
    let Ok(Some(mut tree)) = images.reader(&names::pstree()) else { return false };
    let mut numbers = Vec::new();
    while let Ok(Some(entry)) = tree.next_entry() {
        numbers.push(entry.pid);
    }
    let taken = |number: &u32| {
        let number = i32::try_from(*number).ok().and_then(HostPid::new);
        number.is_some_and(kernel::process::exists)
    };
    numbers.first() != Some(&1) && numbers.iter().any(taken)
}
