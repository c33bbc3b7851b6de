//! What the paths work with.

use crate::{GatewayMetrics, Jobs, Services, Sessions};

/// What the paths work with.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The services.
    pub services: Services,
    /// The jobs.
    pub jobs: Jobs,
    /// The metrics.
    pub metrics: GatewayMetrics,
    /// Who has logged in to the page.
    pub sessions: Sessions,
}
