//! Failures, by reason and by whose fault they are.

use api::Code;
use prometheus::IntCounterVec;

use super::{Definition, Metrics};

/// Counts failures by the code of their error; the last two labels of the metric are `reason` and `fault`.
#[derive(Clone, Debug)]
pub struct Failures(IntCounterVec);

impl Failures {
    /// Registers the metric, with all reasons at 0: of a counter that is not there yet, the first failure would not be seen as an
    /// increase. `what` are the values of the labels before the last two.
    ///
    /// # Errors
    /// If it is registered already.
    pub fn register(
        metrics: &Metrics,
        definition: &Definition,
        what: &[&str],
    ) -> Result<Self, prometheus::Error> {
        let failures = Self(metrics.counters(definition)?);
        for code in Code::ALL {
            match what {
                [] => failures.of(&[], code).reset(),
                what => what.iter().for_each(|what| failures.of(&[what], code).reset()),
            }
        }
        Ok(failures)
    }

    fn of(&self, what: &[&str], code: Code) -> prometheus::IntCounter {
        let reason = [code.name(), code.fault().name()];
        self.0.with_label_values(&[what, &reason].concat())
    }

    /// Counts one.
    pub fn count(&self, what: &[&str], code: Code) {
        self.of(what, code).inc();
    }
}
