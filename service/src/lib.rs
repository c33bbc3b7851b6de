//! The shell that every service shares: a Unix socket whose callers are known by their
//! credentials, health, metrics, logs and traces, orderly ends, and no more privileges than the
//! work needs. And the other side of it: the client by which the gateway asks the services.
//!
//! A service is a module with a `main`:
//! parse its settings, [`Service::prepare`] (which drops privileges while there is one thread),
//! then [`Prepared::run`] with the router of its own paths.

mod blocking;
mod checkpoints;
mod client;
mod encryption;
mod error;
mod handed;
mod identity;
mod manager;
mod manuals;
pub mod metrics;
mod on_behalf;
mod operations;
mod pages;
mod peers;
mod privileges;
mod problem;
mod run;
mod serve;
mod settings;
mod socket;
mod streams;
mod telemetry;
mod tls;
mod ways;
mod worker;

pub use blocking::blocking;
pub use caps::Capability;
pub use checkpoints::{CHECKPOINTS, CheckpointRoot, CheckpointSettings, holds_checkpoint};
pub use client::{Client, ClientError};
pub use encryption::{CommandError, DemandSettings, IdentitySettings, RecipientSettings};
pub use error::{Error, chain};
pub use handed::Handed;
pub use identity::process_identity;
pub use manuals::{arguments, asked as asked_for_manuals};
pub use on_behalf::OnBehalfOf;
pub use operations::{Begun, OperationName, OperationProgress, Operations};
pub use pages::Page;
pub use peers::{Allowed, Connection, Peer};
pub use privileges::Privileges;
pub use problem::{Body, Problem};
pub use run::{Doors, Prepared, Service, dress, exit};
pub use settings::{
    EngineSettings, LogFormat, LogSettings, Settings, SigningSettings, TrustSettings,
};
pub use socket::{BoundSocket, Socket};
pub use streams::{Pieces, PiecesReader, PiecesSender};
pub use telemetry::Traces;
pub use tls::{TcpPeer, Tls, TlsError, TlsSettings};
pub use ways::{Way, remove_if_unused};
pub use worker::{Worker, WorkerError, answer as worker_answer};
