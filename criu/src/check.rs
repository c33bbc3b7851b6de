//! `criu check`.

use kernel::features::{Answer, Feature, KernelFeatures};

use crate::options::Options;
use crate::{Done, Error};

/// CRIU's names of features, of those that this version of stasis makes use of. A feature that
/// it makes no use of is not there, whatever the kernel can do: callers ask before they rely.
const FEATURES: &[(&str, Feature)] = &[
    ("clone3_set_tid", Feature::Clone3SetTid),
    ("get_rseq_conf", Feature::PtraceRseq),
    ("kcmp_epoll", Feature::Kcmp),
    ("mem_dirty_track", Feature::UffdWpAsync),
    ("pagemap_scan", Feature::PagemapScan),
    ("pagemap_scan_guard_pages", Feature::PagemapGuards),
    ("pidfd_store", Feature::PidfdGetfd),
    ("sk_unix_file", Feature::UnixDiag),
    ("timer_cr_ids", Feature::TimerIds),
    ("timerfd", Feature::CheckpointRestore),
];

pub(crate) fn run(options: &Options) -> Result<Done, Error> {
    if options.features.is_empty() {
        let missing = required();
        return if missing.is_empty() { Ok(Done::Checked) } else { Err(Error::Kernel(missing)) };
    }
    let missing: Vec<_> = options.features.iter().filter_map(|name| missing(name)).collect();
    if missing.is_empty() { Ok(Done::HasFeatures) } else { Err(Error::Features(missing)) }
}

/// What a dump or restore cannot do without and is not there.
fn required() -> Vec<String> {
    let features = KernelFeatures::probe();
    let line = |(feature, answer): (Feature, &Answer)| {
        format!("{} is required: {}", feature.name(), answer.reason().unwrap_or_default())
    };
    features.missing().map(line).collect()
}

/// Why a feature is not there, if it is not.
fn missing(name: &str) -> Option<String> {
    let Some((_, feature)) = FEATURES.iter().find(|(known, _)| *known == name) else {
        return Some(format!("feature {name} is not supported by this version of stasis"));
    };
    match feature.probe() {
        Answer::Yes => None,
        Answer::No(reason) | Answer::Unknown(reason) => {
            Some(format!("feature {name} is not there: {reason}"))
        }
    }
}
