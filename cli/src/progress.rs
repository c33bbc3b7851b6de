//! How far long work is: a bar on a terminal, nothing in a pipe.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use images::Progress;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};

/// A bar on standard error, when that is a terminal.
///
/// It has no thread of its own (a restore must be alone in its process): it moves when the work
/// tells of itself, and not in between.
#[derive(Debug)]
pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(crate) fn new() -> Self {
        Self(stderr().is_terminal().then(|| ProgressBar::new(0)))
    }

    /// None, wherever standard error goes.
    pub(crate) const fn none() -> Self {
        Self(None)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a bar of the default look is no reason to fail.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for Bar {
    fn begin(&mut self, step: &str, total: Option<u64>) {
        let Some(bar) = &self.0 else { return };
        bar.reset();
        match total {
            Some(total) => {
                bar.set_length(total);
                bar.set_style(style("{msg:20} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}"));
            }
            None => bar.set_style(style("{msg:20}")),
        }
        bar.set_message(step.to_owned());
        bar.tick();
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }
}

/// A count with its noun.
pub(crate) fn count(number: usize, noun: &str) -> String {
    match (number, noun) {
        (1, noun) => format!("1 {noun}"),
        (number, "process") => format!("{number} processes"),
        (number, noun) => format!("{number} {noun}s"),
    }
}

/// Bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// A time for people: milliseconds below a second.
pub(crate) fn time(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.1} ms", time.as_secs_f64() * 1000.0)
    } else if time < Duration::from_secs(60) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        HumanDuration(time).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_counts_and_times() {
        assert_eq!(count(1, "process"), "1 process");
        assert_eq!(count(2, "process"), "2 processes");
        assert_eq!(count(0, "thread"), "0 threads");
        assert_eq!(time(Duration::from_micros(830)), "0.8 ms");
        assert_eq!(time(Duration::from_millis(2500)), "2.5 s");
    }
}
