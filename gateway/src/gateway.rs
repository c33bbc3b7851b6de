//! What the paths work with.

use crate::identities::Identities;
use crate::{Audit, GatewayMetrics, Jobs, Services, Sessions, State};

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
}

impl Gateway {
    /// One that asks these services, and remembers in this database.
    #[must_use]
    pub fn new(
        services: Services,
        state: State,
        metrics: GatewayMetrics,
        identities: Identities,
        audit: Audit,
    ) -> Self {
        let sessions = Sessions::of(identities.clone());
        Self { services, jobs: Jobs::of(state), metrics, sessions, identities, audit }
    }
}
