//! `stasis check`: what this kernel can do.

use std::process::ExitCode;

use collector::bpf::Stored;
use kernel::features::{Answer, KernelFeatures, Need};
use serde::Serialize;

use crate::args::CheckOptions;
use crate::voice::{self, Voice};
use criu::Failure;
use criu::rights::lacking;
use criu::shell::with_sudo;

#[derive(Serialize)]
struct Features<'a> {
    usable: bool,
    features: Vec<Line<'a>>,
    programs: Stored,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'static str,
    need: Need,
    purpose: &'static str,
    #[serde(flatten)]
    answer: &'a Answer,
}

pub(crate) fn run(options: &CheckOptions, voice: Voice) -> Result<ExitCode, Failure> {
    if let Some(lacking) = lacking() {
        voice::warn(&format!(
            "check: this takes root, or at least {lacking}, to tell what the kernel can do from \
             what this user may; run as root: {}",
            with_sudo()
        ));
    }
    let features = KernelFeatures::probe();
    let programs = options.programs.home().stored();
    let usable = features.missing().next().is_none();
    let lines = features.iter().map(|(feature, answer)| Line {
        name: feature.name(),
        need: feature.need(),
        purpose: feature.purpose(),
        answer,
    });
    let report = Features { usable, features: lines.collect(), programs };
    voice.print(&report, || text(&features) + &crate::programs::text(&report.programs))?;
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(features: &KernelFeatures) -> String {
    let mut lines = Vec::new();
    for (need, title) in [
        (Need::Required, "required:"),
        (Need::Useful, "useful:"),
        (Need::Informative, "good to know:"),
    ] {
        lines.push(title.to_owned());
        for (feature, answer) in features.iter().filter(|(feature, _)| feature.need() == need) {
            let (word, name) = (answer.word(), feature.name());
            lines.push(format!("  {word:<8} {name:<24} {}", feature.purpose()));
            if let Some(reason) = answer.reason() {
                lines.push(format!("{:36}({reason})", ""));
            }
        }
    }
    lines.push(match features.missing().count() {
        0 => "This kernel has all that checkpoint and restore require.\n".to_owned(),
        count => format!("{count} required features are missing or unknown: see above.\n"),
    });
    lines.join("\n")
}
