//! `--display-stats`: the statistics of a dump or a restore, as people read them.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;

use images::messages::StatsEntry;
use images::{Image, ImageReader, names};

use crate::{Directories, Done, Failure};

/// The text of the statistics that lie in the work directory; `None` of what has none.
pub(crate) fn text(directories: &Directories, done: &Done) -> Option<Result<String, Failure>> {
    let image = match done {
        Done::Dumped(_) | Done::PreDumped(_) => names::stats_dump(),
        Done::Restored(_) => names::stats_restore(),
        _ => return None,
    };
    Some(read(directories, &image))
}

fn read(directories: &Directories, image: &Image<StatsEntry>) -> Result<String, Failure> {
    let file = File::open(directories.work.join(image.name()))?;
    let size = file.metadata()?.len();
    Ok(said(&ImageReader::new(image, BufReader::new(file), size, true)?.only()?))
}

/// In CRIU's words, which scripts look for.
fn said(stats: &StatsEntry) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    let micros = |time: u32| format!("{time} us");
    let pages = |count: u64| format!("{count} ({count:#x})");
    if let Some(dump) = &stats.dump {
        lines.extend([
            ("Freezing time", micros(dump.freezing_time)),
            ("Frozen time", micros(dump.frozen_time)),
            ("Memory dump time", micros(dump.memdump_time)),
            ("Memory write time", micros(dump.memwrite_time)),
            ("Memory pages scanned", pages(dump.pages_scanned)),
            ("Memory pages skipped from parent", pages(dump.pages_skipped_parent)),
            ("Memory pages written", pages(dump.pages_written)),
            ("Lazy memory pages", pages(dump.pages_lazy)),
        ]);
    }
    if let Some(restore) = &stats.restore {
        lines.extend([
            ("Pages compared", pages(restore.pages_compared)),
            ("Pages skipped COW", pages(restore.pages_skipped_cow)),
            ("Pages restored", pages(restore.pages_restored())),
            ("Restore time", micros(restore.restore_time)),
            ("Forking time", micros(restore.forking_time)),
        ]);
    }
    let what = if stats.dump.is_some() { "dump" } else { "restore" };
    let mut text = format!("Displaying {what} stats:\n");
    for (name, value) in lines {
        // Into memory.
        writeln!(text, "{name}: {value}").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use images::messages::{DumpStatsEntry, RestoreStatsEntry};

    #[test]
    fn words_are_those_of_criu() {
        let dump = DumpStatsEntry { frozen_time: 7, pages_written: 16, ..Default::default() };
        let text = said(&StatsEntry { dump: Some(dump), restore: None });
        assert!(text.starts_with("Displaying dump stats:\n"), "{text}");
        assert!(
            text.contains("Frozen time: 7 us\n") && text.contains("written: 16 (0x10)\n"),
            "{text}"
        );
        let restore = RestoreStatsEntry { forking_time: 9, ..Default::default() };
        let text = said(&StatsEntry { dump: None, restore: Some(restore) });
        assert!(text.ends_with("Forking time: 9 us\n"), "{text}");
    }
}
