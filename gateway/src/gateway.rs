//! What the paths work with.

use crate::identities::Identities;
use crate::policies::Policies;
use crate::queue::Queue;
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
    pub(crate) queue: Queue,
}

impl Gateway {
    /// One that asks these services, and remembers in this database. So many jobs are at work at once.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn new(
        services: Services,
        state: State,
        metrics: GatewayMetrics,
        identities: Identities,
        audit: Audit,
        at_once: usize,
    ) -> Result<Self, StateError> {
        let policies = Policies::of(state.clone())?;
        for policy in policies.list() {
            metrics.policies.know(&policy);
        }
        let sessions = Sessions::of(identities.clone());
        let (jobs, queue) = (Jobs::of(state), Queue::of(at_once));
        Ok(Self { services, jobs, metrics, sessions, identities, audit, policies, queue })
    }
}
