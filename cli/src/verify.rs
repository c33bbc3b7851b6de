//! `stasis verify` and `stasis rm`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use images::{Damage, Images, Verified};
use serde::Serialize;

use crate::args::{RemoveOptions, VerifyOptions};
use crate::output;
use crate::progress::bytes;
use crate::show::explain;
use criu::Failure;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Told<'v> {
    sound: bool,
    files: u64,
    bytes: u64,
    in_part: Vec<String>,
    without_manifest: Vec<String>,
    damages: Vec<ToldDamage<'v>>,
}

#[derive(Debug, Serialize)]
struct ToldDamage<'v> {
    path: String,
    what: &'v str,
}

/// `stasis verify`.
pub(crate) fn run(options: &VerifyOptions) -> Result<ExitCode, Failure> {
    let found = Images::open(&options.directory).and_then(|images| images::verify(&images));
    let found = found.map_err(explain)?;
    let text = match options.json {
        true => serde_json::to_string_pretty(&told(&found))? + "\n",
        false => text(&found),
    };
    output::print(&text)?;
    Ok(if found.damages.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn told(found: &Verified) -> Told<'_> {
    Told {
        sound: found.damages.is_empty(),
        files: found.files,
        bytes: found.bytes,
        in_part: found.in_part.iter().map(|path| path.display().to_string()).collect(),
        without_manifest: found.unknown.iter().map(|path| path.display().to_string()).collect(),
        damages: found.damages.iter().map(told_damage).collect(),
    }
}

fn told_damage(damage: &Damage) -> ToldDamage<'_> {
    ToldDamage { path: damage.path.display().to_string(), what: &damage.what }
}

fn text(found: &Verified) -> String {
    let mut text = String::new();
    for Damage { path, what } in &found.damages {
        text += &format!("{}: {what}\n", path.display());
    }
    for path in &found.in_part {
        text += &format!("{}: compared in part alone: all of it is not known\n", path.display());
    }
    for path in &found.unknown {
        let path = path.display();
        text += &format!("{path} has no manifest: there is nothing to compare its files with\n");
    }
    let (files, size) = (found.files, bytes(found.bytes));
    text += &match found.damages.len() {
        0 => format!("{files} files, {size}: as they were written\n"),
        damages => format!("{files} files, {size}, are as they were written; {damages} not\n"),
    };
    text
}

/// `stasis rm`.
pub(crate) fn remove(options: &RemoveOptions) -> Result<ExitCode, Failure> {
    for directory in &options.directories {
        if let Some(child) = child_beside(directory) {
            let (directory, child) = (directory.display(), child.display());
            let message =
                format!("{directory} has pages of {child}, which could not be restored without it");
            return Err(Failure::with_remedy(
                message,
                format!("remove that one first: stasis rm {child}"),
            ));
        }
        images::remove(directory).map_err(explain)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A checkpoint in the same place that has left pages to this one.
fn child_beside(directory: &Path) -> Option<PathBuf> {
    let own = directory.canonicalize().ok()?;
    let beside = std::fs::read_dir(own.parent()?).ok()?.flatten().map(|entry| entry.path());
    beside.into_iter().find(|child| *child != own && images::parents_of(child).contains(&own))
}
