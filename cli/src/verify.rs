//! `stasis verify` and `stasis rm`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use api::{DamagedFile, Verification};
use images::{Access, Cancel, Signer};
use serde_json::json;
use services::access::access;

use crate::args::{RemoveOptions, SignOptions, VerifyOptions};
use crate::progress::bytes;
use crate::ps::plain;
use crate::restore::no_keys;
use crate::show::explain;
use crate::voice::{BAD, GOOD, Voice, in_style};
use criu::Failure;

/// `stasis verify`.
pub(crate) fn run(options: &VerifyOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let trusted = options.trust.trusted_keys.as_deref();
    let access = access(trusted, &options.identities, options.demand).map_err(no_keys)?;
    let found = images::verify(&options.directory, &access, &Cancel::default()).map_err(explain)?;
    let found = catalog::verification(&found, |path| path.display().to_string());
    tell(&found, voice)
}

/// Tells what was found; the exit code is 0 when nothing has changed.
pub(crate) fn tell(found: &Verification, voice: Voice) -> Result<ExitCode, Failure> {
    voice.print(found, || text(found, voice.quiet))?;
    Ok(if found.sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was found, for people; with `quiet` what has changed alone.
fn text(found: &Verification, quiet: bool) -> String {
    let mut text = String::new();
    for DamagedFile { path, what } in &found.damages {
        text += &format!("{}: {}\n", in_style(BAD, &plain(path)), plain(what));
    }
    if quiet {
        return text;
    }
    for path in &found.in_part {
        let path = plain(path);
        text += &format!("{path}: compared in part alone: all of it is not known\n");
    }
    for path in &found.without_manifest {
        let path = plain(path);
        text += &format!("{path} has no manifest: there is nothing to compare its files with\n");
    }
    let (files, size) = (found.files, bytes(found.bytes));
    text += &match found.damages.len() {
        0 => format!("{files} files, {size}: {}\n", in_style(GOOD, "as they were written")),
        damages => format!("{files} files, {size}, are as they were written; {damages} not\n"),
    };
    if found.locked {
        text +=
            "it is encrypted: what is stored was compared, and not what is in it (--identities)\n";
    }
    if let Some(key) = &found.signed_by {
        text += &format!("signed by key {key}\n");
    }
    text
}

/// `stasis sign`.
pub(crate) fn sign(options: &SignOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let signer = Signer::read(&options.signing_key)?;
    let directory = &options.directory;
    // It is what is stored that is signed.
    let found =
        images::verify(directory, &Access::default(), &Cancel::default()).map_err(explain)?;
    if !found.damages.is_empty() || !found.unknown.is_empty() || !found.in_part.is_empty() {
        let found = catalog::verification(&found, |path| path.display().to_string());
        tell(&found, voice)?;
        let error =
            format!("sign {}: it is not known to be as it was written", directory.display());
        return Err(Failure::with_remedy(
            error,
            "sign one that `stasis verify` finds as it was written",
        ));
    }
    images::sign(directory, &signer).map_err(explain)?;
    let (place, key) = (directory.display().to_string(), signer.id().to_string());
    let told = json!({"signed": {"directory": place, "key": key}});
    voice.sum_up(&told, || format!("signed {place} by key {key}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// `stasis rm`.
pub(crate) fn remove(options: &RemoveOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let mut removed = Vec::new();
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
        removed.push(directory.display().to_string());
    }
    tell_removed(&removed, voice)
}

/// Tells what is gone.
pub(crate) fn tell_removed(removed: &[String], voice: Voice) -> Result<ExitCode, Failure> {
    voice.sum_up(&json!({"removed": removed}), || format!("removed {}\n", removed.join(", ")))?;
    Ok(ExitCode::SUCCESS)
}

/// A checkpoint in the same place that has left pages to this one.
fn child_beside(directory: &Path) -> Option<PathBuf> {
    let own = directory.canonicalize().ok()?;
    let beside = std::fs::read_dir(own.parent()?).ok()?.flatten().map(|entry| entry.path());
    beside.into_iter().find(|child| *child != own && images::parents_of(child).contains(&own))
}
