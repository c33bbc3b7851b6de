//! `stasis check`: what this kernel can do.

use std::process::ExitCode;

use kernel::features::{Answer, KernelFeatures, Need};
use serde::Serialize;

use crate::args::CheckOptions;
use crate::failure::Failure;

#[derive(Serialize)]
struct Report<'a> {
    usable: bool,
    features: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'static str,
    need: Need,
    purpose: &'static str,
    #[serde(flatten)]
    answer: &'a Answer,
}

pub(crate) fn run(options: &CheckOptions) -> Result<ExitCode, Failure> {
    let features = KernelFeatures::probe();
    let usable = features.missing().next().is_none();
    if options.json {
        let lines = features.iter().map(|(feature, answer)| Line {
            name: feature.name(),
            need: feature.need(),
            purpose: feature.purpose(),
            answer,
        });
        let report = Report { usable, features: lines.collect() };
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&features);
    }
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(features: &KernelFeatures) {
    for (need, title) in [
        (Need::Required, "required"),
        (Need::Useful, "useful"),
        (Need::Informative, "good to know"),
    ] {
        println!("{title}:");
        for (feature, answer) in features.iter().filter(|(feature, _)| feature.need() == need) {
            println!("  {:<8} {:<24} {}", answer.word(), feature.name(), feature.purpose());
            if let Some(reason) = answer.reason() {
                println!("  {:<8} {:<24} ({reason})", "", "");
            }
        }
    }
    match features.missing().count() {
        0 => println!("This kernel has all that checkpoint and restore require."),
        count => println!("{count} required features are missing or unknown: see above."),
    }
}
