//! What a command says, and how: text or JSON, much or little, in colour or not.

use std::io::{self, IsTerminal, Write, stderr, stdout};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use criu::Failure;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::progress::Bar;

/// Where help lists these options.
const HEADING: &str = "What is said";

/// What went wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// What is well, or new.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What wants attention, or has changed.
pub(crate) const NOTABLE: Style = AnsiColor::Yellow.on_default();
/// What stands out.
pub(crate) const STRONG: Style = Style::new().bold();

/// Text in a style. Where no colour is wanted the escapes are taken out when it is printed.
pub(crate) fn in_style(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// How much every command says, and in which form.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Voice {
    /// Print JSON in place of text, with all there is to say
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) json: bool,
    /// Print only what is asked for (a list, a pid, an id, JSON) and errors: no summary, no progress, no warnings
    #[arg(short, long, global = true, help_heading = HEADING, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Tell on standard error what is done; twice, in detail; three times, all of it. What STASIS_LOG says stays above this
    #[arg(short, long, global = true, help_heading = HEADING, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl Voice {
    /// Prints what the command was asked for: as JSON, or as text. A reader that has heard enough (`stasis show DIR | head`) is no
    /// error.
    pub(crate) fn print(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let written = if self.json {
            write(stdout().lock(), &(serde_json::to_string_pretty(value)? + "\n"))
        } else if in_colour(&stdout()) {
            write(stdout().lock(), &text())
        } else {
            write(stdout().lock(), &anstream::adapter::strip_str(&text()).to_string())
        };
        written.map_err(Failure::from)
    }

    /// Prints how it went, for who looks on: JSON, if that is wanted, and text on a terminal alone.
    pub(crate) fn sum_up(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let looks_on = !self.quiet && stdout().is_terminal();
        if self.json || looks_on { self.print(value, text) } else { Ok(()) }
    }

    /// Prints how it went, for people and programs that ask what became of it.
    pub(crate) fn conclude(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json || !self.quiet { self.print(value, text) } else { Ok(()) }
    }

    /// Says something beside what was asked for.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            warn(text);
        }
    }

    /// How far long work is.
    pub(crate) fn bar(self) -> Bar {
        if self.quiet { Bar::none() } else { Bar::new() }
    }

    /// Has the log written to standard error: what `STASIS_LOG` asks for, or else as much as is wanted here.
    pub(crate) fn log_to_stderr(self) {
        let log = tracing_subscriber::fmt().with_writer(stderr).with_ansi(in_colour(&stderr()));
        match EnvFilter::try_from_env("STASIS_LOG") {
            Ok(filter) => log.with_env_filter(filter).init(),
            Err(_) => {
                log.without_time().with_target(false).with_env_filter(self.level()).init();
            }
        }
    }

    const fn level(self) -> &'static str {
        match (self.quiet, self.verbose) {
            (true, _) => "error",
            (_, 0) => "warn",
            (_, 1) => "info",
            (_, 2) => "debug",
            _ => "trace",
        }
    }
}

/// Says what makes an answer less than it could be.
pub(crate) fn warn(text: &str) {
    say(NOTABLE, text);
}

/// Says why a command failed.
pub(crate) fn fail(failure: &Failure) {
    say(BAD, &failure.to_string());
}

/// A line on standard error that says who speaks; nobody may read it any more.
fn say(style: Style, text: &str) {
    let who = in_style(style.bold(), "stasis:");
    let text = match text.split_once("\nremedy: ") {
        Some((error, remedy)) => {
            format!("{who} {error}\n{} {remedy}\n", in_style(STRONG, "remedy:"))
        }
        None => format!("{who} {text}\n"),
    };
    AutoStream::auto(stderr().lock()).write_all(text.as_bytes()).unwrap_or_default();
}

/// Whether colours are wanted there: on a terminal, and not where `NO_COLOR` is set.
fn in_colour(stream: &impl anstream::stream::RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

fn write(mut out: impl Write, text: &str) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_logged_the_more_often_it_is_asked_for() {
        let level = |quiet, verbose| Voice { quiet, verbose, ..Voice::default() }.level();
        assert_eq!(level(true, 0), "error");
        let levels = [0, 1, 2, 3, 9].map(|verbose| level(false, verbose));
        assert_eq!(levels, ["warn", "info", "debug", "trace", "trace"]);
    }

    #[test]
    fn styles_are_taken_out_whole() {
        let text = in_style(BAD.bold(), "stasis:");
        assert!(text.contains('\u{1b}'));
        assert_eq!(anstream::adapter::strip_str(&text).to_string(), "stasis:");
    }
}
