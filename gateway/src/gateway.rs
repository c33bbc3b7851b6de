//! What the paths work with.

use crate::identities::Identities;
use crate::policies::Policies;
use crate::{Audit, GatewayMetrics, Jobs, Services, Sessions, State, StateError};

/// What the paths work with.
#[derive(Clone, Debug)]
pub struct Gateway {
    pub(crate) services: Services,
    pub(crate) jobs: Jobs,
    pub(crate) metrics: GatewayMetrics,
    /// Who has logged in to the page.
    pub(crate) sessions: Sessions,
    /// Who is known.
    pub(crate) identities: Identities,
    pub(crate) audit: Audit,
    pub(crate) policies: Policies,
}

impl Gateway {
    /// One that asks these services, and remembers in this database.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn new(
        services: Services,
        state: State,
        metrics: GatewayMetrics,
        identities: Identities,
        audit: Audit,
    ) -> Result<Self, StateError> {
        let policies = Policies::of(state.clone())?;
        let sessions = Sessions::of(identities.clone());
        let jobs = Jobs::of(state);
        Ok(Self { services, jobs, metrics, sessions, identities, audit, policies })
    }
}
