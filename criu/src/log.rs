//! The log that callers of CRIU read: runc, for one, quotes its lines that contain `Error`.
//!
//! An error is `Error (FILE:LINE): TEXT`, a warning `Warn  (FILE:LINE): TEXT`, all else bare
//! text; from verbosity 3 on each line begins with the seconds since the start, `(00.001234) `.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, Subscriber as Formatter};
use tracing_subscriber::registry::LookupSpan;

struct Lines {
    start: Instant,
    timestamps: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.timestamps {
            let passed = self.start.elapsed();
            write!(writer, "({:02}.{:06}) ", passed.as_secs(), passed.subsec_micros())?;
        }
        let metadata = event.metadata();
        let word = match *metadata.level() {
            Level::ERROR => Some("Error "),
            Level::WARN => Some("Warn  "),
            _ => None,
        };
        if let Some(word) = word {
            let (file, line) = (metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0));
            write!(writer, "{word}({file}:{line}): ")?;
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Where the log goes.
enum Target {
    Stderr,
    Stdout,
    File(File),
}

impl Write for &Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Target::Stderr => io::stderr().write(bytes),
            Target::Stdout => io::stdout().write(bytes),
            Target::File(file) => {
                let mut file: &File = file;
                file.write(bytes)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of one request.
pub(crate) struct Log {
    lines: Dispatch,
    target: Arc<Target>,
}

impl Log {
    /// Opens it: standard error without a file, standard output for the file `-`. A file that
    /// is there already is emptied and written, not replaced: callers prepare one with a label.
    pub(crate) fn open(file: Option<&Path>, verbosity: u32) -> io::Result<Self> {
        let target = match file {
            None => Target::Stderr,
            Some(path) if path.as_os_str() == "-" => Target::Stdout,
            Some(path) => Target::File(open(path)?),
        };
        let level = match verbosity {
            0 | 1 => Level::ERROR,
            2 => Level::WARN,
            3 => Level::INFO,
            _ => Level::DEBUG,
        };
        let target = Arc::new(target);
        let lines = Lines { start: Instant::now(), timestamps: verbosity >= 3 };
        let subscriber = Formatter::builder()
            .with_max_level(level)
            .with_ansi(false)
            .event_format(lines)
            .with_writer(Mutex::new(Shared(target.clone())))
            .finish();
        Ok(Self { lines: Dispatch::new(subscriber), target })
    }

    /// Whatever is said during the work goes into this log, and no other.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        tracing::dispatcher::with_default(&self.lines, work)
    }

    /// A descriptor for what others have to say there.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        match &*self.target {
            Target::Stderr => io::stderr().as_fd().try_clone_to_owned(),
            Target::Stdout => io::stdout().as_fd().try_clone_to_owned(),
            Target::File(file) => file.as_fd().try_clone_to_owned(),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).and_then(|file| {
        file.set_len(0)?;
        Ok(file)
    })
}

struct Shared(Arc<Target>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.0).flush()
    }
}
