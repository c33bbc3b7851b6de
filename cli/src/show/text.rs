//! What is in a checkpoint, as text.

use std::fmt::{self, Display, Formatter};

use api::{CheckpointContents, ContentsProcess, ContentsTimes};

/// Descriptors of a process that are listed; `--json` has all.
const FILES_SHOWN: usize = 32;
/// Images that are listed, the largest first.
const IMAGES_SHOWN: usize = 12;

/// What is in a checkpoint, for people.
pub(crate) struct Shown<'a>(pub(crate) &'a CheckpointContents);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(it) = self;
        writeln!(f, "Checkpoint {}", it.directory)?;
        writeln!(
            f,
            "{}, {}, {} of memory stored, {} in {}",
            count(all(&it.processes, it.left_out.processes), "process", "processes"),
            count(it.threads, "thread", "threads"),
            Bytes(it.memory.stored_bytes),
            Bytes(it.image_bytes),
            count(all(&it.images, it.left_out.images), "image", "images"),
        )?;
        self.tree(f)?;
        self.memory(f)?;
        self.files(f)?;
        self.images(f)?;
        it.times.map_or(Ok(()), |it| times(&it, f))
    }
}

/// How long a list is, with what of it is not told.
fn all<T>(told: &[T], left_out: u64) -> u64 {
    left_out.saturating_add(told.len() as u64)
}

impl Shown<'_> {
    fn tree(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(it) = self;
        writeln!(f, "\nProcesses")?;
        writeln!(
            f,
            "  {:>7} {:>7} {:>7} {:>7} {:>10} {:>10}  command",
            "pid", "group", "session", "threads", "mapped", "stored"
        )?;
        let mut open = vec![Vec::new(); it.processes.len()];
        let mut roots = Vec::new();
        for (index, process) in it.processes.iter().enumerate() {
            match it.processes.iter().position(|parent| parent.pid == process.ppid) {
                Some(parent) if parent < index => open[parent].push(index),
                _ => roots.push(index),
            }
        }
        // A stack instead of recursion: the depth of the tree is the image's choice.
        let mut stack: Vec<(usize, String, String)> =
            roots.into_iter().rev().map(|root| (root, String::new(), String::new())).collect();
        while let Some((index, branch, below)) = stack.pop() {
            line(&it.processes[index], f, &branch)?;
            let children = &open[index];
            for (place, child) in children.iter().enumerate().rev() {
                let last = place + 1 == children.len();
                let (turn, rail) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                stack.push((*child, format!("{below}{turn}"), format!("{below}{rail}")));
            }
        }
        more(f, it.left_out.processes)
    }

    fn memory(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let memory = &self.0.memory;
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
        let Self(it) = self;
        writeln!(f, "\nFiles")?;
        let kinds: Vec<_> =
            it.files.iter().map(|(kind, number)| format!("{kind} ×{number}")).collect();
        let kinds = if kinds.is_empty() { "none open".to_owned() } else { kinds.join(", ") };
        writeln!(f, "  {kinds}")?;
        if it.queued_bytes > 0 {
            writeln!(f, "  {} waiting in pipes and sockets", Bytes(it.queued_bytes))?;
        }
        for ghost in &it.ghosts {
            writeln!(f, "  deleted: {} ({})", ghost.path, Bytes(ghost.bytes))?;
        }
        more(f, it.left_out.ghosts)?;
        for process in &it.processes {
            files(process, f)?;
        }
        Ok(())
    }

    fn images(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nImages")?;
        let mut images: Vec<_> = self.0.images.iter().collect();
        images.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        for image in images.iter().take(IMAGES_SHOWN) {
            writeln!(f, "  {:>10}  {}", Bytes(image.bytes).to_string(), image.name)?;
        }
        let left = self.0.left_out.images;
        more(f, all(&images, left).saturating_sub(IMAGES_SHOWN as u64))
    }
}

fn line(process: &ContentsProcess, f: &mut Formatter<'_>, branch: &str) -> fmt::Result {
    let ContentsProcess { pid, pgid, sid, comm, .. } = process;
    write!(f, "  {pid:>7} {pgid:>7} {sid:>7} ")?;
    if let Some(status) = process.wait_status {
        write!(f, "{:>7} {:>10} {:>10}  {branch}{comm} (", "-", "-", "-")?;
        return match status & 0x7f {
            0 => writeln!(f, "zombie, exit code {})", status >> 8 & 0xff),
            signal => writeln!(f, "zombie, killed by signal {signal})"),
        };
    }
    let (mapped, stored) = match process.memory_of {
        Some(lender) => ("as".to_owned(), lender.to_string()),
        None => (
            Bytes(process.memory.mapped_bytes).to_string(),
            Bytes(process.memory.stored_bytes).to_string(),
        ),
    };
    write!(f, "{:>7} {mapped:>10} {stored:>10}  {branch}{comm}", process.threads.len())?;
    writeln!(f, "{}", if process.state == "running" { "" } else { " (stopped)" })
}

fn files(process: &ContentsProcess, f: &mut Formatter<'_>) -> fmt::Result {
    let Some(program) = &process.program else { return Ok(()) };
    let directory = process.directory.as_deref().unwrap_or("?");
    writeln!(f, "\n  process {}: {program}, in {directory}", process.pid)?;
    for file in process.files.iter().take(FILES_SHOWN) {
        writeln!(f, "  {:>7}  {:<14} {}", file.fd, file.kind, file.what)?;
    }
    let all = all(&process.files, process.left_out.files);
    more(f, all.saturating_sub(FILES_SHOWN as u64))
}

fn times(times: &ContentsTimes, f: &mut Formatter<'_>) -> fmt::Result {
    let milliseconds = |us: u64| format!("{}.{:02} ms", us / 1000, us % 1000 / 10);
    writeln!(f, "\nTimes")?;
    writeln!(
        f,
        "  frozen {} (stopping {}, taking memory {})",
        milliseconds(times.frozen_us.into()),
        milliseconds(times.freezing_us.into()),
        milliseconds(times.memory_dump_us.into()),
    )?;
    if let Some(account) = &times.frozen_account {
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
        if account.others_us > 0 {
            let time = milliseconds(account.others_us);
            writeln!(
                f,
                "  and {time} until the other trees were ready that were dumped together with it"
            )?;
        }
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
        milliseconds(times.memory_write_us.into()),
        count(times.pages_scanned, "page", "pages"),
        times.pages_written,
    )
}

fn more(f: &mut Formatter<'_>, number: u64) -> fmt::Result {
    if number > 0 {
        writeln!(f, "  {:>7}  and {number} more (--json has all)", "…")?;
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
