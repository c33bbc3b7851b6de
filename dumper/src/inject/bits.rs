//! Which bits of a thread's flags stand for what on this kernel.
//!
//! The kernel notes in `thread_info.flags` which instructions are faults for a thread (the one that
//! identifies the processor, those that read its clock). The inventory has the flags, but which bit is which has changed from version to
//! version, and type information does not name them. So a thread of this program sets each and looks.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use collector::{Collector, Parts, Source};
use ids::HostPid;
use kernel::process::{FaultingInstructions, set_faulting};

/// Masks of one bit; 0 for what this kernel or this processor lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    /// The instruction that identifies the processor is a fault.
    pub(crate) identification_faults: u64,
    /// Reading the processor's clock is one.
    pub(crate) clock_faults: u64,
}

/// How often flags are looked at: others of them come and go.
const TRIES: usize = 8;

const SETTINGS: [FaultingInstructions; 2] =
    [FaultingInstructions::Identification, FaultingInstructions::Clock];

impl Bits {
    /// Finds them out. `None` where the inventory has no flags, or it could not be found out.
    pub(crate) fn find(collector: &mut Collector) -> Option<Self> {
        if collector.source() != Source::Bpf {
            return None;
        }
        let (to_helper, orders) = sync_channel(0);
        let (answers, from_helper) = sync_channel(0);
        std::thread::scope(|scope| {
            // Its end of the channels goes with this closure, which ends the helper.
            let helper = std::thread::Builder::new().name("flags".to_owned());
            helper.spawn_scoped(scope, move || obey(&orders, &answers)).ok()?;
            let mut look = |setting: Option<FaultingInstructions>| {
                to_helper.send(setting).ok()?;
                let (tid, done) = from_helper.recv().ok()?;
                Some((flags(collector, tid)?, done))
            };
            let [identification, clock] = SETTINGS.map(|setting| bit(setting, &mut look));
            drop(to_helper);
            Some(Self { identification_faults: identification?, clock_faults: clock? })
        })
    }
}

/// The bit that is there with a setting and never without it; 0 if it cannot be set.
fn bit(
    setting: FaultingInstructions,
    look: &mut impl FnMut(Option<FaultingInstructions>) -> Option<(u64, bool)>,
) -> Option<u64> {
    let mut candidates = u64::MAX;
    for _ in 0..TRIES {
        let (without, _) = look(None)?;
        let (with, done) = look(Some(setting))?;
        let (without_again, _) = look(None)?;
        if !done {
            return Some(0);
        }
        candidates &= with & !without & !without_again;
        if candidates.is_power_of_two() {
            return Some(candidates);
        }
    }
    None
}

/// The helper: sets what it is told, alone, and stands still until it is told the next. While an
/// instruction is a fault it does nothing but wait.
fn obey(orders: &Receiver<Option<FaultingInstructions>>, answers: &SyncSender<(HostPid, bool)>) {
    let tid = kernel::process::own_thread();
    while let Ok(wanted) = orders.recv() {
        let mut done = true;
        for setting in SETTINGS {
            let set = set_faulting(setting, wanted == Some(setting));
            done &= wanted != Some(setting) || set.is_ok();
        }
        if answers.send((tid, done)).is_err() {
            break;
        }
    }
    for setting in SETTINGS {
        // It ends here in any case.
        let _ending = set_faulting(setting, false);
    }
}

fn flags(collector: &mut Collector, tid: HostPid) -> Option<u64> {
    let own = HostPid::own();
    let taken = collector.parts(&[own], Parts::THREADS).ok()?;
    Some(taken.processes.get(&own)?.threads.get(&tid)?.in_task?.kernel_flags)
}
