//! When a policy is at work.

use std::time::Duration;

use api::PolicySpec;
use chrono::{DateTime, Utc};
use croner::Cron;
use service::Problem;

/// The shortest interval: each run looks at the processes.
const SHORTEST: Duration = Duration::from_secs(1);

/// When a policy is at work.
#[derive(Clone, Debug)]
pub(crate) enum Schedule {
    Every(Duration),
    Cron(Box<Cron>),
}

impl Schedule {
    pub(crate) fn of(spec: &PolicySpec) -> Result<Self, Problem> {
        match (&spec.every, &spec.cron) {
            (Some(every), None) => {
                let wrong = |message: String| {
                    Problem::field("every", message).remedy("send a time of at least 1s: 10m, 1h")
                };
                let time = humantime::parse_duration(every)
                    .map_err(|error| wrong(format!("every is {every:?}: {error}")))?;
                match time >= SHORTEST {
                    true => Ok(Self::Every(time)),
                    false => Err(wrong(format!("every is {every:?}"))),
                }
            }
            (None, Some(cron)) => {
                cron.parse().map(|cron| Self::Cron(Box::new(cron))).map_err(|error| {
                    Problem::field("cron", format!("cron is {cron:?}: {error}"))
                        .remedy("send five fields (minute, hour, day, month, weekday): 0 3 * * *")
                })
            }
            (Some(_), Some(_)) => {
                Err(Problem::field("cron", "both an interval and times are named")
                    .remedy("leave every or cron out"))
            }
            (None, None) => Err(Problem::field("every", "nothing says when the policy is at work")
                .remedy("send every (10m) or cron (0 3 * * *)")),
        }
    }

    /// When it is at work after some time, in milliseconds since 1970; `None`: never.
    pub(crate) fn after(&self, ms: u64) -> Option<u64> {
        match self {
            Self::Every(time) => ms.checked_add(u64::try_from(time.as_millis()).ok()?),
            Self::Cron(cron) => {
                let after = DateTime::<Utc>::from_timestamp_millis(i64::try_from(ms).ok()?)?;
                let next = cron.find_next_occurrence(&after, false).ok()?;
                u64::try_from(next.timestamp_millis()).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(every: Option<&str>, cron: Option<&str>) -> Result<Schedule, Problem> {
        let (every, cron) = (every.map(str::to_owned), cron.map(str::to_owned));
        Schedule::of(&PolicySpec { every, cron, ..PolicySpec::default() })
    }

    #[test]
    fn the_next_time_is_after_the_last() {
        let hourly = schedule(Some("1h"), None).unwrap();
        assert_eq!(hourly.after(1_000), Some(3_601_000));
        let nightly = schedule(None, Some("30 3 * * *")).unwrap();
        let day = 24 * 3_600_000;
        let at = 3 * 3_600_000 + 30 * 60_000;
        assert_eq!(nightly.after(0), Some(at));
        assert_eq!(nightly.after(at), Some(day + at), "not twice at one time");
        assert_eq!(schedule(None, Some("0 0 30 2 *")).unwrap().after(0), None);
        assert_eq!(hourly.after(u64::MAX), None);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for (every, cron) in [
            (None, None),
            (Some("1h"), Some("* * * * *")),
            (Some("0s"), None),
            (Some("soon"), None),
            (None, Some("")),
            (None, Some("61 * * * *")),
            (None, Some("* * * *")),
        ] {
            assert!(
                schedule(every, cron).unwrap_err().detail.remedy.is_some(),
                "{every:?} {cron:?}"
            );
        }
    }
}
