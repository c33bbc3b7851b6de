//! The HTTP and JSON face. It holds no privileges: it checks what it is asked, makes a job of it
//! and passes it on to the services over their Unix sockets. `docs/api.md` is its contract.

mod jobs;
mod metrics;
mod routes;
mod services;
mod tracks;

pub use jobs::Jobs;
pub use metrics::GatewayMetrics;
pub use routes::{Gateway, router};
pub use services::Services;
