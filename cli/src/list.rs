//! `stasis list`: the checkpoints below a directory.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use api::{CheckpointList, CheckpointSummary};
use criu::Failure;

use crate::args::ListOptions;
use crate::progress::{bytes, time};
use crate::ps::plain;
use crate::voice::{BAD, NOTABLE, STRONG, Voice, in_style};

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
#[error("list the checkpoints below {directory}")]
struct ListError {
    directory: String,
    #[source]
    source: io::Error,
}

pub(crate) fn run(options: &ListOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let mut listed =
        catalog::list(&options.directory).map_err(|error| failure(&options.directory, error))?;
    if let Some(labels) = &options.labels {
        listed.list.checkpoints.retain(|found| found.labels.have(labels));
    }
    for path in &listed.unnamed {
        let path = plain(&path.display().to_string());
        voice.note(&format!(
            "{path} is left out: the services would not take its name (`stasis show` does)"
        ));
    }
    voice.print(&listed.list, || text(&listed.list))?;
    Ok(ExitCode::SUCCESS)
}

fn failure(directory: &Path, source: io::Error) -> Failure {
    let kind = source.kind();
    let directory = directory.display().to_string();
    let error = ListError { directory, source };
    match kind {
        io::ErrorKind::PermissionDenied => crate::show::as_root(error),
        io::ErrorKind::NotFound => {
            Failure::with_remedy(error, "name the directory that they are in: stasis list DIR")
        }
        _ => error.into(),
    }
}

/// The list, for people.
pub(crate) fn text(list: &CheckpointList) -> String {
    let head = format!(
        "{:>11} {:>9} {:>8} {:>9}  {:<16}  CHECKPOINT",
        "SIZE", "PROCESSES", "PID", "FROZEN", "COMMAND"
    );
    let mut text = in_style(STRONG, &head) + "\n";
    for found in &list.checkpoints {
        text += &line(found);
    }
    for left in &list.unfinished {
        let (path, size) = (plain(&left.path), bytes(left.bytes));
        text += &match left.being_written {
            true => format!("{size:>11}  {path}: a dump is writing it\n"),
            false => {
                let left = in_style(NOTABLE, "left by a dump that was killed");
                format!("{size:>11}  {path}: {left}\n")
            }
        };
    }
    text
}

/// A checkpoint, and below it what more there is to say.
fn line(found: &CheckpointSummary) -> String {
    let CheckpointSummary { directory, image_bytes, pid, comm, processes, .. } = found;
    let frozen = found.frozen_us.map(|micros| time(Duration::from_micros(micros)));
    let (size, frozen) = (bytes(*image_bytes), frozen.unwrap_or_default());
    let mut text = match found.encrypted {
        true => format!(
            "{size:>11} {:>9} {:>8} {frozen:>9}  {:<16}  {directory}",
            "", "", "(encrypted)"
        ),
        false => {
            let comm = plain(comm);
            format!("{size:>11} {processes:>9} {pid:>8} {frozen:>9}  {comm:<16}  {directory}")
        }
    };
    if let Some(parent) = &found.parent {
        text += &format!(" (after {parent})");
    }
    let labels: Vec<_> = found.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if !labels.is_empty() {
        text += &format!(" [{}]", labels.join(", "));
    }
    if found.uploaded {
        text += ", uploaded";
    }
    // Whether it is true `stasis verify` says.
    if !found.signed_by.is_empty() {
        text += ", with a signature";
    }
    text.push('\n');
    if let Some(damage) = &found.damage {
        text += &format!("{:>12}{}: {}\n", "", in_style(BAD, "damaged"), plain(damage));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_checkpoint() {
        let json = r#"{"checkpoints": [
            {"directory": "web/first", "created_ms": 1, "image_bytes": 9437184, "pid": 4711, "comm": "pyt\u001bhon3",
             "processes": 1, "threads": 2, "frozen_us": 830, "labels": {"app": "web"}, "uploaded": true,
             "signed_by": ["6f0c"]},
            {"directory": "web/second", "created_ms": 1, "image_bytes": 4096, "pid": 4711, "comm": "python3",
             "processes": 1, "threads": 2, "parent": "web/first", "damage": "no pstree.img"},
            {"directory": "web/secret", "created_ms": 1, "image_bytes": 4096, "pid": 0, "comm": "", "processes": 0, "threads": 0,
             "encrypted": true}],
            "unfinished": [{"path": "web/.x.stasis-tmp-1-0", "bytes": 4096, "being_written": true}]}"#;
        let shown = text(&serde_json::from_str(json).unwrap());
        let shown = anstream::adapter::strip_str(&shown).to_string();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(
            lines[0],
            "       SIZE PROCESSES      PID    FROZEN  COMMAND           CHECKPOINT"
        );
        assert_eq!(
            lines[1],
            "   9.00 MiB         1     4711    0.8 ms  pyt hon3          web/first [app=web], uploaded, with a signature"
        );
        assert!(lines[2].ends_with("python3           web/second (after web/first)"), "{shown}");
        assert_eq!(lines[3].trim(), "damaged: no pstree.img");
        assert_eq!(
            lines[4].trim(),
            "4.00 KiB                               (encrypted)       web/secret"
        );
        assert!(lines[5].contains("a dump is writing it"), "{shown}");
    }

    #[test]
    fn no_directory_has_a_remedy() {
        let error = failure(Path::new("/none"), io::ErrorKind::NotFound.into()).to_string();
        assert!(error.contains("/none") && error.contains("remedy: name the directory"), "{error}");
    }
}
