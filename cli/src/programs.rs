//! `stasis programs`: the eBPF programs that commands leave in the kernel for the next.

use std::fmt::Write;
use std::process::ExitCode;

use collector::bpf::Stored;

use crate::args::ProgramsOptions;
use crate::progress::count;
use crate::voice::Voice;
use criu::Failure;

pub(crate) fn run(options: &ProgramsOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let home = options.places.home();
    if options.load && home.is_none() {
        let error = "load eBPF programs: they are to be done without (--bpf-dir none)";
        return Err(Failure::with_remedy(
            error,
            "name a folder of the BPF file system, or none at all",
        ));
    }
    if options.load {
        home.prepare()?;
    }
    let mut removed = None;
    if options.remove {
        let (sets, files) = home.clear()?;
        removed = Some(format!(
            "removed {} of programs and {} of offsets\n",
            count(sets, "set"),
            count(files, "file")
        ));
    }
    let stored = home.stored();
    match removed {
        Some(removed) => voice.conclude(&stored, || removed)?,
        None => voice.print(&stored, || text(&stored))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is kept, for people.
pub(crate) fn text(stored: &Stored) -> String {
    let mut text = "kept for the next command:\n".to_owned();
    // Writing to a string cannot fail.
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").unwrap_or_default();
    for set in &stored.pinned {
        let whose = match (set.used, stored.kept) {
            (true, true) => "of this version, used by the collector's service too",
            (true, false) => "of this version",
            (false, _) => "of another version",
        };
        line(format_args!("  programs {} ({whose})", set.path.display()));
    }
    for file in &stored.cached {
        let whose =
            if file.used { "of this kernel" } else { "of another kernel or version, or damaged" };
        line(format_args!("  offsets  {} ({whose})", file.path.display()));
    }
    if stored.pinned.is_empty() && stored.cached.is_empty() {
        line(format_args!(
            "  nothing (`stasis programs --load` loads the eBPF programs; the first dump does, too)"
        ));
    } else {
        line(format_args!("  (`stasis programs --remove` removes it)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use collector::bpf::StoredItem;

    use super::*;

    #[test]
    fn a_line_for_each_thing_that_is_kept() {
        let item = |path: &str, used| StoredItem { path: path.into(), used };
        let stored = Stored {
            pinned: vec![item("/pins/1", false), item("/pins/2", true)],
            cached: vec![item("/cache/kernel-1", true)],
            kept: true,
        };
        let shown = text(&stored);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[1], "  programs /pins/1 (of another version)");
        assert_eq!(
            lines[2],
            "  programs /pins/2 (of this version, used by the collector's service too)"
        );
        assert_eq!(lines[3], "  offsets  /cache/kernel-1 (of this kernel)");
        assert!(lines[4].contains("--remove"));
        assert!(text(&Stored::default()).contains("nothing"));
    }
}
