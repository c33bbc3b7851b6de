//! `criu check`.

use kernel::features::{Answer, Feature, KernelFeatures};
use tracing::{error, warn};

use super::options::Options;

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

pub(super) fn run(options: &Options) -> bool {
    if !options.features.is_empty() {
        let missing = options.features.iter().filter(|name| !feature(name)).count();
        return missing == 0;
    }
    let features = KernelFeatures::probe();
    let mut good = true;
    for (feature, answer) in features.missing() {
        good = false;
        error!("{} is required: {}", feature.name(), answer.reason().unwrap_or_default());
    }
    if good {
        println!("Looks good.");
    } else {
        warn!("Does not look good.");
    }
    good
}

fn feature(name: &str) -> bool {
    let Some((_, feature)) = FEATURES.iter().find(|(known, _)| *known == name) else {
        error!("feature {name} is not supported by this version of stasis");
        return false;
    };
    match feature.probe() {
        Answer::Yes => true,
        Answer::No(reason) | Answer::Unknown(reason) => {
            warn!("feature {name} is not there: {reason}");
            false
        }
    }
}
