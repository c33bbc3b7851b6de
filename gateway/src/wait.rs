//! For how long an answer is held back.

use std::time::Duration;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use service::Problem;
use utoipa::IntoParams;

/// The longest that an answer is held back.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The query of a job's path, and of those that begin one.
#[derive(Debug, Default, serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wait {
    /// For how long the answer is held back until the job is finished, at most `60s`.
    #[param(pattern = "^[1-9][0-9]{0,3}ms$")]
    wait: Option<String>,
}

impl Wait {
    pub(crate) fn asked(query: Result<Query<Self>, QueryRejection>) -> Result<Duration, Problem> {
        let wrong = |message: String| {
            Problem::field("wait", message)
                .remedy("send a time of at most 60s (30s, 500ms), and no other parameter")
        };
        let Query(Self { wait }) = query.map_err(|rejection| wrong(rejection.body_text()))?;
        let Some(wait) = wait else { return Ok(Duration::ZERO) };
        let time = humantime::parse_duration(&wait)
            .map_err(|error| wrong(format!("wait is {wait:?}: {error}")))?;
        match time <= LONGEST_WAIT {
            true => Ok(time),
            false => Err(wrong(format!("wait is {wait}"))),
        }
    }
}
