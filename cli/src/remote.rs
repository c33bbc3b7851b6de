//! `stasis --gateway URL COMMAND`: the same commands, done by the services of a machine that a gateway speaks for.
//!
//! A command is turned into the request that says the same (`docs/api.md`); what no request says is refused before anything is sent.

mod archives;
mod carried;
mod client;
mod jobs;
mod transport;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use api::{
    CheckpointContents, CheckpointList, CheckpointRequest, Comparison, ContainerList, Directory,
    Job, JobList, JobState, Labels, Priority, ProcessList, RestoreJobRequest, Track, TrackList,
    VerifyRequest,
};
use clap::ArgMatches;
use criu::Failure;
use ids::HostPid;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::args::{Command, DumpOptions, JobsOptions, PsOptions, RestoreOptions, UntrackOptions};
use crate::gateway_options::GatewayOptions;
use crate::ps::plain;
use crate::summaries::{NotDumped, Several};
use crate::voice::{Voice, fail};
use crate::{containers, diff, dump, list, ps, several, show, track, verify};
use client::Client;
use transport::{NoPlace, Place, TlsFiles};

/// Options that say something of a gateway alone.
const OF_GATEWAYS: [&str; 5] = ["token_file", "ca_file", "cert_file", "key_file", "no_wait"];

/// The gateway that is to do it; `None` if nobody but we are.
///
/// # Errors
/// If something is said of a gateway, and none is named.
pub(crate) fn place(
    options: &GatewayOptions,
    matches: &ArgMatches,
) -> Result<Option<Place>, Failure> {
    let given = options.gateway.as_deref().filter(|url| !url.is_empty());
    let Some(url) = given else {
        let given = |id: &&&str| given_anywhere(matches, id);
        return match OF_GATEWAYS.iter().find(given) {
            None => Ok(None),
            Some(id) => Err(Failure::with_remedy(
                format!("--{} without --gateway: nobody is asked", id.replace('_', "-")),
                "name the gateway with --gateway (or STASIS_GATEWAY), or leave it out",
            )),
        };
    };
    let place: Place = url.parse().map_err(|error: NoPlace| {
        Failure::with_remedy(format!("--gateway {url}: {error}"), "name it so")
    })?;
    Ok(Some(place))
}

/// A client of the gateway there.
fn client(options: &GatewayOptions, place: Place, matches: &ArgMatches) -> Result<Client, Failure> {
    let is_tls = matches!(place, Place::Tcp { tls: true, .. });
    let of_tls = ["ca_file", "cert_file", "key_file"];
    if let Some(id) = of_tls.iter().find(|id| !is_tls && given_anywhere(matches, id)) {
        let error = format!("--{} with {place}: TLS is not spoken there", id.replace('_', "-"));
        return Err(Failure::with_remedy(error, "name it with https://, or leave it out"));
    }
    if options.cert_file.is_some() != options.key_file.is_some() {
        let error = "--cert-file and --key-file: there is one without the other";
        return Err(Failure::with_remedy(error, "name both, or neither"));
    }
    let is_unix = matches!(place, Place::Unix(_));
    if is_unix && given_anywhere(matches, "token_file") {
        let error = format!("--token-file with {place}: the kernel says there who asks");
        return Err(Failure::with_remedy(error, "leave it out"));
    }
    let token = options.token_file.as_deref().filter(|_| !is_unix);
    if token.is_some() && place.is_open_to_others() {
        let error = format!("--token-file with {place}: others could read the token on the way");
        return Err(Failure::with_remedy(error, "name the gateway with https://"));
    }
    let files = TlsFiles {
        authority: options.ca_file.clone(),
        certificate: options.cert_file.clone(),
        key: options.key_file.clone(),
    };
    let tls = is_tls.then(|| transport::tls(&files)).transpose()?;
    Client::of(place, tls, token)
}

/// Whether a gateway was named on the command line.
pub(crate) fn is_named(matches: &ArgMatches) -> bool {
    given_anywhere(matches, "gateway")
}

/// Whether an option of all commands was typed, before the command or behind it.
fn given_anywhere(matches: &ArgMatches, id: &str) -> bool {
    let behind = matches.subcommand().is_some_and(|(_, behind)| carried::is_given(behind, id));
    behind || carried::is_given(matches, id)
}

/// Has the gateway do it.
pub(crate) fn run(
    (command, options): (&Command, &GatewayOptions),
    place: Place,
    matches: &ArgMatches,
    voice: Voice,
) -> Result<ExitCode, Failure> {
    carried::check(matches)?;
    let client = client(options, place, matches)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let remote = Remote { client, voice, waits: !options.no_wait };
    // What a default says is a place of this machine's.
    let below = match matches.subcommand() {
        Some(("list", given)) => carried::is_given(given, "directory"),
        _ => false,
    };
    runtime.block_on(remote.carry_out(command, below))
}

/// A gateway, and who speaks of what it did.
struct Remote {
    client: Client,
    voice: Voice,
    waits: bool,
}

impl Remote {
    async fn carry_out(&self, command: &Command, below: bool) -> Result<ExitCode, Failure> {
        let voice = self.voice;
        match command {
            Command::Dump(options) if options.pid.len() > 1 && !options.together => {
                self.dump_each(options).await
            }
            Command::Dump(options) => self.job("/v1/checkpoints", &checkpoint(options)?).await,
            Command::Restore(options) => self.job("/v1/restores", &restore(options)?).await,
            Command::Verify(options) => {
                let directory = named(&options.directory)?;
                self.job("/v1/verifications", &VerifyRequest { directory }).await
            }
            Command::Ps(options) => self.ps(options).await,
            Command::List(options) => {
                let below = below.then(|| named(&options.directory)).transpose()?;
                let found = self.checkpoints(below.as_ref(), options.labels.as_ref()).await?;
                voice.print(&found, || list::text(&found))?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Show(options) => {
                let path = format!("/v1/contents/{}", named(&options.directory)?);
                show::tell(&plainly::<CheckpointContents>(self.client.get(&path).await?)?, voice)
            }
            Command::Diff(options) => {
                let (before, after) = (named(&options.before)?, named(&options.after)?);
                let path = format!("/v1/comparisons?before={before}&after={after}");
                diff::tell(&plainly::<Comparison>(self.client.get(&path).await?)?, voice)
            }
            Command::Download(options) => {
                archives::download(&self.client, &named(&options.directory)?, voice).await
            }
            Command::Upload(options) => {
                archives::upload(&self.client, &named(&options.directory)?, voice).await
            }
            Command::Rm(options) => self.remove(&options.directories).await,
            Command::Track(options) => {
                let request = track::request(options);
                let track: Track = self.client.post("/v1/tracks", &request).await?;
                track::tell(&track, voice)
            }
            Command::Tracks(_) => {
                let tracks: TrackList = self.client.get("/v1/tracks").await?;
                voice.print(&tracks, || track::text(&tracks))?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Untrack(UntrackOptions { pid: Some(pid), .. }) => {
                self.client.delete(&format!("/v1/dirty-logs/{pid}")).await?;
                dump::tell_untracked(*pid, voice)
            }
            Command::Untrack(options) => {
                let id = options.id.unwrap_or_default();
                self.client.delete(&format!("/v1/tracks/{id}")).await?;
                track::tell_ended(id, voice)
            }
            Command::Jobs(options) => self.jobs(options).await,
            _ => Err("no gateway is asked for that".into()),
        }
    }

    async fn job(&self, path: &str, request: &impl serde::Serialize) -> Result<ExitCode, Failure> {
        let job = jobs::begin(&self.client, path, request, self.waits, self.voice).await?;
        jobs::tell_begun(&job, self.voice)
    }

    /// Several trees, one after the other: one that cannot be dumped does not keep the next from it.
    async fn dump_each(&self, options: &DumpOptions) -> Result<ExitCode, Failure> {
        let mut several = Several::default();
        let whole = checkpoint(options)?;
        for pid in options.pid.iter().map(|pid| pid.get()) {
            let within = |of_all: &Option<Directory>| {
                let of_all = of_all.as_ref().map(|of_all| format!("{of_all}/{pid}"));
                of_all.map(|it| named(Path::new(&it))).transpose()
            };
            let request = CheckpointRequest {
                pid: Some(pid),
                directory: within(&whole.directory)?,
                parent: within(&whole.parent)?,
                ..whole.clone()
            };
            let begun =
                jobs::begin(&self.client, "/v1/checkpoints", &request, self.waits, self.voice);
            let told = begun.await.and_then(|job| {
                match job.state {
                    JobState::Done => several.checkpoints.push(jobs::dumped(&job)),
                    _ => drop(jobs::tell_begun(&job, self.voice)?),
                }
                Ok(())
            });
            if let Err(failure) = told {
                fail(&failure);
                several.failed.push(NotDumped { root: pid, error: failure.to_string() });
            }
        }
        if self.waits {
            several::tell(&several, options.dry_run, self.voice, "")?;
        }
        Ok(if several.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn ps(&self, options: &PsOptions) -> Result<ExitCode, Failure> {
        if options.containers {
            let found: ContainerList = self.client.get("/v1/containers").await?;
            containers::tell(&found, self.voice)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut all = ProcessList::default();
        let mut query = "limit=1000".to_owned();
        loop {
            let page: ProcessList = self.client.get(&format!("/v1/processes?{query}")).await?;
            all.processes.extend(page.processes);
            all.as_of_ms = page.as_of_ms;
            let Some(next) = page.next else { break };
            query = format!("limit=1000&cursor={}", escaped(&next));
        }
        self.voice.print(&all, || ps::text(&all, options.all))?;
        Ok(ExitCode::SUCCESS)
    }

    /// All pages of the list.
    async fn checkpoints(
        &self,
        below: Option<&Directory>,
        labels: Option<&Labels>,
    ) -> Result<CheckpointList, Failure> {
        let below = below.map(|below| format!("&below={below}")).unwrap_or_default();
        let labels = labels.map(|labels| {
            let pairs: Vec<_> =
                labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("&labels={}", escaped(&pairs.join(",")))
        });
        let labels = labels.unwrap_or_default();
        let mut all = CheckpointList::default();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/checkpoints?limit=1000{below}{labels}{cursor}");
            let page: CheckpointList = self.client.get(&path).await?;
            all.checkpoints.extend(page.checkpoints);
            all.unfinished = page.unfinished;
            let Some(next) = page.next else { return Ok(all) };
            cursor = format!("&cursor={}", escaped(&next));
        }
    }

    async fn remove(&self, directories: &[PathBuf]) -> Result<ExitCode, Failure> {
        let named: Vec<Directory> =
            directories.iter().map(|directory| named(directory)).collect::<Result<_, _>>()?;
        let mut removed = Vec::new();
        for directory in named {
            self.client.delete(&format!("/v1/checkpoints/{directory}")).await?;
            removed.push(directory.to_string());
        }
        verify::tell_removed(&removed, self.voice)
    }

    async fn jobs(&self, options: &JobsOptions) -> Result<ExitCode, Failure> {
        if let Some(id) = &options.id {
            let path = format!("/v1/jobs/{}", escaped(id));
            if options.cancel {
                let nothing = serde_json::json!({});
                let job: Job = self.client.post(&format!("{path}/cancel"), &nothing).await?;
                let job = jobs::ended(&self.client, job, self.voice).await?;
                self.voice.print(&job, || jobs::line(&job))?;
                return Ok(match job.state {
                    JobState::Cancelled => ExitCode::SUCCESS,
                    _ => ExitCode::FAILURE,
                });
            }
            let job: Job = self.client.get(&path).await?;
            if options.wait {
                let job = jobs::ended(&self.client, job, self.voice).await?;
                return jobs::tell_begun(&job, self.voice);
            }
            self.voice.print(&job, || jobs::line(&job))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut path = format!("/v1/jobs?limit={}", options.limit);
        for (name, value) in [("state", &options.state), ("kind", &options.kind)] {
            path += &value.as_ref().map(|value| format!("&{name}={value}")).unwrap_or_default();
        }
        let found: JobList = self.client.get(&path).await?;
        self.voice.print(&found, || jobs::text(&found))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A checkpoint by its name below the gateway's checkpoint root.
fn named(directory: &Path) -> Result<Directory, Failure> {
    let text = directory.to_string_lossy();
    text.parse().map_err(|error: api::DirectoryError| {
        Failure::with_remedy(format!("{text}: {error}"), Directory::REMEDY)
    })
}

fn checkpoint(options: &DumpOptions) -> Result<CheckpointRequest, Failure> {
    Ok(CheckpointRequest {
        pid: options.pid.first().copied().map(HostPid::get).filter(|_| !options.together),
        pids: options.pid.iter().map(|pid| pid.get()).filter(|_| options.together).collect(),
        together: options.together,
        select: None,
        container: options.container.clone(),
        engine: options.engine,
        directory: options.directory.as_deref().map(named).transpose()?,
        leave_running: Some(options.leave_running),
        dry_run: options.dry_run,
        shell_job: options.shell_job,
        tcp_established: options.tcp_established,
        tcp_close: options.tcp_close,
        skip_in_flight: options.skip_in_flight,
        link_remap: options.link_remap,
        parent: options.parent.as_deref().map(named).transpose()?,
        track: options.track,
        max_freeze_ms: millis("--max-freeze", options.max_freeze)?,
        timeout_ms: millis("--timeout", options.timeout)?,
        labels: options.labels.clone().unwrap_or_default(),
        priority: Priority::Normal,
    })
}

/// A time as requests say it.
fn millis(option: &str, time: Option<humantime::Duration>) -> Result<Option<u64>, Failure> {
    let Some(time) = time.map(Duration::from) else { return Ok(None) };
    match u64::try_from(time.as_millis()) {
        Ok(millis) if Duration::from_millis(millis) == time => Ok(Some(millis)),
        _ => Err(Failure::with_remedy(
            format!("{option} {time:?} with --gateway: requests count whole milliseconds"),
            "name so many milliseconds",
        )),
    }
}

fn restore(options: &RestoreOptions) -> Result<RestoreJobRequest, Failure> {
    if !options.detach {
        let error = "restore with --gateway: the tree becomes its restorer's, and cannot be waited for here";
        return Err(Failure::with_remedy(error, "add --detach"));
    }
    Ok(RestoreJobRequest {
        directory: named(&options.directory)?,
        shell_job: options.shell_job,
        tcp_close: options.tcp_close,
        cgroups: options.cgroups,
        priority: Priority::Normal,
    })
}

/// Text as it may stand in a path or a query.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// What a gateway says, without what would drive a terminal.
fn plainly<T: DeserializeOwned>(told: Value) -> Result<T, Failure> {
    fn cleaned(told: Value) -> Value {
        match told {
            Value::String(text) => Value::String(plain(&text)),
            Value::Array(list) => list.into_iter().map(cleaned).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(key, value)| (plain(&key), cleaned(value))).collect()
            }
            other => other,
        }
    }
    Ok(serde_json::from_value(cleaned(told))?)
}

#[cfg(test)]
mod tests {
    use api::ContentsMemory;

    use super::*;

    #[test]
    fn what_others_say_does_not_drive_the_terminal() {
        let told = serde_json::json!({"directory": "a\u{1b}[2J", "format": 1, "processes": [], "threads": 0, "memory": ContentsMemory::default(),
            "files": {"pipe\u{7}": 1}, "queued_bytes": 0, "ghosts": [], "images": [{"name": "x\n", "bytes": 1}], "image_bytes": 1});
        let found: CheckpointContents = plainly(told).unwrap();
        assert_eq!(found.directory, "a [2J");
        assert_eq!((found.images[0].name.as_str(), found.files["pipe "]), ("x ", 1));
    }
}
