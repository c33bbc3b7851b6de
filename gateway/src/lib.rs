//! The HTTP and JSON face. It holds no privileges: it checks what it is asked, makes a job of it
//! and passes it on to the services over their Unix sockets, with on whose behalf. `docs/api.md` is its
//! contract, `docs/security.md` says who may do what.

mod access;
mod archives;
mod args;
mod audit;
mod callers;
mod checkpoints;
mod contents;
mod doors;
mod events;
mod gateway;
mod health;
mod hosts;
mod identities;
mod issued;
mod job_routes;
mod jobs;
mod limits;
mod metrics;
mod names;
mod nodes;
mod openapi;
mod page;
mod policies;
mod policy_metrics;
mod policy_routes;
mod policy_work;
mod queue;
mod restores;
mod routes;
mod selection;
mod services;
mod sessions;
mod state;
mod token_routes;
mod tokens;
mod tracks;
mod wait;
mod work;

pub use access::{Access, AccessError};
pub use args::{Args, program};
pub use audit::{Audit, AuditSettings};
pub use doors::{BeyondLoopback, DoorSettings, check_listen, doors};
pub use gateway::Gateway;
pub use hosts::Hosts;
pub use identities::Identities;
pub use issued::Issued;
pub use jobs::Jobs;
pub use limits::{LimitSettings, Limits};
pub use metrics::GatewayMetrics;
pub use routes::{openapi, router};
pub use services::Services;
pub use sessions::Sessions;
pub use state::{Holds, State, StateError, prepare_directory};
pub use tokens::{TokenError, TokenSettings, Tokens};
