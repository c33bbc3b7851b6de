//! How well the services are.

use std::collections::BTreeMap;

use api::{GatewayHealth, HealthState};

use crate::GatewayMetrics;
use crate::services::{Services, health};

/// How well they are.
pub(crate) async fn how_well(services: &Services, metrics: &GatewayMetrics) -> GatewayHealth {
    let clients = services.all();
    let [a, b, c, d] = clients.map(health);
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    let mut status = HealthState::Ok;
    let mut found = BTreeMap::new();
    for (client, health) in clients.into_iter().zip([a, b, c, d]) {
        if health.status != HealthState::Ok {
            status = HealthState::Degraded;
        }
        metrics.seen(client.service(), health.status);
        found.insert(client.service().to_owned(), health);
    }
    GatewayHealth { status, version: env!("CARGO_PKG_VERSION").to_owned(), services: found }
}
