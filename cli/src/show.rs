//! `stasis show`: what is in a checkpoint, for people and for programs.
//!
//! Nothing of the machine is looked at: a checkpoint can be shown anywhere.

mod text;

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use api::CheckpointContents;
use catalog::Most;
use images::{Images, Unfinished};

use crate::args::ShowOptions;
use crate::progress::bytes;
use crate::restore::no_keys;
use crate::voice::Voice;
use criu::Failure;
use criu::shell::with_sudo;
use service::DemandSettings;
use services::access::access;

/// `stasis show`.
pub(crate) fn run(options: &ShowOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let access = access(None, &options.identities, DemandSettings::default()).map_err(no_keys)?;
    let shown = Images::open_as(&options.directory, &access);
    let shown = shown.and_then(|dir| catalog::contents(&dir, Most::ALL));
    for left in unfinished(&options.directory) {
        let (path, size) = (left.path.display(), bytes(left.bytes));
        match left.being_written {
            true => voice.note(&format!("{path} ({size}): a dump is writing it")),
            false => voice.note(&format!(
                "{path} ({size}) was left by a dump that was killed; the next dump to \
                 this directory clears it, or: rm -r {path}"
            )),
        }
    }
    tell(&shown.map_err(explain)?, voice)
}

/// Tells what is in a checkpoint.
pub(crate) fn tell(contents: &CheckpointContents, voice: Voice) -> Result<ExitCode, Failure> {
    voice.print(contents, || text::Shown(contents).to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// What is being written to a directory, or was left by who began to.
fn unfinished(directory: &Path) -> Vec<Unfinished> {
    let mut found = images::unfinished(directory).unwrap_or_default();
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let parent = directory.parent().filter(|parent| *parent != Path::new(""));
    let beside = images::unfinished(parent.unwrap_or(Path::new("."))).unwrap_or_default();
    let of_this = |left: &Unfinished| {
        let own = left.path.file_name().unwrap_or_default().to_string_lossy();
        !name.is_empty() && own.starts_with(&format!(".{name}.stasis-tmp-"))
    };
    found.extend(beside.into_iter().filter(of_this));
    found
}

/// Images are closed to all but who made them.
pub(crate) fn explain(error: images::Error) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    let mut denied = false;
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        denied |= kind == Some(io::ErrorKind::PermissionDenied);
        cause = error.source();
    }
    match denied {
        true => as_root(error),
        false => error.into(),
    }
}

/// What failed for want of rights, and how root does it.
pub(crate) fn as_root(error: impl Error + Send + Sync + 'static) -> Failure {
    match nix::unistd::geteuid().is_root() {
        true => error.into(),
        false => Failure::with_remedy(error, format!("run as root: {}", with_sudo())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str) -> CheckpointContents {
        let sets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/criu-4.2");
        catalog::contents(&Images::open(&sets.join(name)).unwrap(), Most::ALL).unwrap()
    }

    fn shown(name: &str) -> String {
        text::Shown(&set(name)).to_string()
    }

    #[test]
    fn a_family_is_shown_as_a_tree() {
        let text = shown("family");
        assert!(text.contains("6 processes, 4 threads"), "{text}");
        assert!(text.contains("├─ family (zombie, exit code 17)"), "{text}");
        assert!(text.contains("├─ family (zombie, killed by signal 9)"), "{text}");
        assert!(text.contains("└─ stopped one (stopped)"), "{text}");
        assert!(text.contains("│  └─ family"), "{text}");
    }

    #[test]
    fn files_are_said_in_words() {
        let summary = set("busy");
        let whats: Vec<_> = summary.processes[0]
            .files
            .iter()
            .map(|it| (it.kind.as_str(), it.what.as_str()))
            .collect();
        let has = |kind: &str, part: &str| {
            whats.iter().any(|(found, what)| *found == kind && what.contains(part))
        };
        assert!(has("pipe", "11 bytes in it"), "{whats:?}");
        assert!(has("unix socket", "listener.sock, listening"), "{whats:?}");
        assert!(has("tcp socket", "127.0.0.1:"), "{whats:?}");
        assert!(has("fifo", "/fifo"), "{whats:?}");
        assert!(has("epoll", "6 files watched"), "{whats:?}");
        assert_eq!(summary.files["pipe"], 4);
        assert_eq!(summary.queued_bytes, 11 + 11 + 13 + 13);
        assert!(summary.times.is_some());
    }

    #[test]
    fn ghosts_are_named() {
        let text = shown("ghosts");
        assert!(text.contains("deleted: /tmp/stasis-sets/work/sparse (3.0 MiB)"), "{text}");
        assert!(text.contains("/ghost (deleted, contents stored) @12"), "{text}");
    }

    #[test]
    fn a_summary_is_json() {
        let json = serde_json::to_value(set("minimal")).unwrap();
        assert_eq!(json["processes"][0]["comm"], "minimal");
        assert_eq!(
            json["memory"]["stored_bytes"],
            json["memory"]["stored_pages"].as_u64().unwrap() * 4096
        );
    }
}
