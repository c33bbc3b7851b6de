//! A summary as text.

use std::fmt::{self, Display, Formatter};

use super::summary::{ProcessSummary, Summary, Times};

/// Descriptors of a process that are listed; `--json` has all.
const FILES_SHOWN: usize = 32;
/// Images that are listed, the largest first.
const IMAGES_SHOWN: usize = 12;

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "Checkpoint {}", self.directory)?;
        writeln!(
            f,
            "{}, {}, {} of memory stored, {} in {}",
            count(self.processes.len(), "process", "processes"),
            count(self.threads, "thread", "threads"),
            Bytes(self.memory.stored_bytes),
            Bytes(self.image_bytes),
            count(self.images.len(), "image", "images"),
        )?;
        self.tree(f)?;
        self.memory(f)?;
        self.files(f)?;
        self.images(f)?;
        self.times.map_or(Ok(()), |times| times.write(f))
    }
}

impl Summary {
    fn tree(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nProcesses")?;
        writeln!(
            f,
            "  {:>7} {:>7} {:>7} {:>7} {:>10} {:>10}  command",
            "pid", "group", "session", "threads", "mapped", "stored"
        )?;
        let mut open = vec![Vec::new(); self.processes.len()];
        let mut roots = Vec::new();
        for (index, process) in self.processes.iter().enumerate() {
            match self.processes.iter().position(|parent| parent.pid == process.ppid) {
                Some(parent) if parent < index => open[parent].push(index),
                _ => roots.push(index),
            }
        }
        // A stack instead of recursion: the depth of the tree is the image's choice.
        let mut stack: Vec<(usize, String, String)> =
            roots.into_iter().rev().map(|root| (root, String::new(), String::new())).collect();
        while let Some((index, branch, below)) = stack.pop() {
            self.processes[index].line(f, &branch)?;
            let children = &open[index];
            for (place, child) in children.iter().enumerate().rev() {
                let last = place + 1 == children.len();
                let (turn, rail) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                stack.push((*child, format!("{below}{turn}"), format!("{below}{rail}")));
            }
        }
        Ok(())
    }

    fn memory(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let memory = &self.memory;
        writeln!(f, "\nMemory")?;
        writeln!(
            f,
            "  {} in {}, {} stored ({})",
            Bytes(memory.mapped_bytes),
            count(memory.mappings, "mapping", "mappings"),
            Bytes(memory.stored_bytes),
            count(memory.stored_pages, "page", "pages"),
        )?;
        if memory.parent_pages > 0 {
            writeln!(f, "  {} in the parent", count(memory.parent_pages, "page", "pages"))?;
        }
        Ok(())
    }

    fn files(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nFiles")?;
        let kinds: Vec<_> =
            self.files.iter().map(|(kind, number)| format!("{kind} ×{number}")).collect();
        let kinds = if kinds.is_empty() { "none open".to_owned() } else { kinds.join(", ") };
        writeln!(f, "  {kinds}")?;
        if self.queued_bytes > 0 {
            writeln!(f, "  {} waiting in pipes and sockets", Bytes(self.queued_bytes))?;
        }
        for ghost in &self.ghosts {
            writeln!(f, "  deleted: {} ({})", ghost.path, Bytes(ghost.bytes))?;
        }
        for process in &self.processes {
            process.files(f)?;
        }
        Ok(())
    }

    fn images(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nImages")?;
        let mut images: Vec<_> = self.images.iter().collect();
        images.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        for image in images.iter().take(IMAGES_SHOWN) {
            writeln!(f, "  {:>10}  {}", Bytes(image.bytes).to_string(), image.name)?;
        }
        more(f, images.len(), IMAGES_SHOWN)
    }
}

impl ProcessSummary {
    fn line(&self, f: &mut Formatter<'_>, branch: &str) -> fmt::Result {
        let Self { pid, pgid, sid, comm, .. } = self;
        write!(f, "  {pid:>7} {pgid:>7} {sid:>7} ")?;
        if let Some(status) = self.wait_status {
            write!(f, "{:>7} {:>10} {:>10}  {branch}{comm} (", "-", "-", "-")?;
            return match status & 0x7f {
                0 => writeln!(f, "zombie, exit code {})", status >> 8 & 0xff),
                signal => writeln!(f, "zombie, killed by signal {signal})"),
            };
        }
        let (mapped, stored) = match self.memory_of {
            Some(lender) => ("as".to_owned(), lender.to_string()),
            None => (
                Bytes(self.memory.mapped_bytes).to_string(),
                Bytes(self.memory.stored_bytes).to_string(),
            ),
        };
        write!(f, "{:>7} {mapped:>10} {stored:>10}  {branch}{comm}", self.threads.len())?;
        writeln!(f, "{}", if self.state == "running" { "" } else { " (stopped)" })
    }

    fn files(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(program) = &self.program else { return Ok(()) };
        let directory = self.directory.as_deref().unwrap_or("?");
        writeln!(f, "\n  process {}: {program}, in {directory}", self.pid)?;
        for file in self.files.iter().take(FILES_SHOWN) {
            writeln!(f, "  {:>7}  {:<14} {}", file.fd, file.kind, file.what)?;
        }
        more(f, self.files.len(), FILES_SHOWN)
    }
}

impl Times {
    fn write(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let milliseconds = |us: u32| format!("{:.2} ms", f64::from(us) / 1000.0);
        writeln!(f, "\nTimes")?;
        writeln!(
            f,
            "  frozen {} (stopping {}, taking memory {})",
            milliseconds(self.frozen_us),
            milliseconds(self.freezing_us),
            milliseconds(self.memory_dump_us),
        )?;
        if let Some(account) = &self.frozen_account {
            writeln!(
                f,
                "  of that: stop {}, inventory {}, registers {}, parasite {}, files {}, cure {}, \
                 memory {}, release {}",
                milliseconds(account.stop_us),
                milliseconds(account.inventory_us),
                milliseconds(account.registers_us),
                milliseconds(account.parasite_us),
                milliseconds(account.files_us),
                milliseconds(account.cure_us),
                milliseconds(account.memory_us),
                milliseconds(account.release_us),
            )?;
            if account.handover_us > 0 {
                let time = milliseconds(account.handover_us);
                writeln!(
                    f,
                    "  before that: {time} of one thread, or all of a process with seccomp filters, for its memory to be tracked"
                )?;
            }
        }
        writeln!(
            f,
            "  writing memory {}; {} looked at, {} written",
            milliseconds(self.memory_write_us),
            count(self.pages_scanned, "page", "pages"),
            self.pages_written,
        )
    }
}

fn more(f: &mut Formatter<'_>, number: usize, shown: usize) -> fmt::Result {
    if number > shown {
        writeln!(f, "  {:>7}  and {} more (--json has all)", "…", number - shown)?;
    }
    Ok(())
}

fn count<N: Copy + Display + PartialEq + From<u8>>(number: N, one: &str, many: &str) -> String {
    let noun = if number == N::from(1) { one } else { many };
    format!("{number} {noun}")
}

/// A number of bytes, rounded.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let power = (self.0.ilog2() / 10) as usize;
        // Precision is of no matter at one digit after the point.
        #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
        let value = self.0 as f64 / (1_u64 << (10 * power)) as f64;
        write!(f, "{value:.1} {}", UNITS[power - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_to_what_is_read() {
        let texts = [0, 1023, 1024, 1536, 5 << 20, u64::MAX].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "16.0 EiB"]);
    }
}
