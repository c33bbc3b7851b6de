//! What the end-to-end tests, the demo and the benchmarks share: programs to checkpoint, the
//! engines that do it, and a clean machine around them.

pub mod at_work;
mod browser;
mod built;
pub mod clients;
mod engine;
pub mod faults;
mod huge_pages;
pub mod killed_restores;
mod machine;
mod postgres;
mod program;
mod real;
mod rig;
pub mod rpc;
mod services;
mod snapshot;
pub mod state;

pub use browser::Visitor;
pub use built::{built_program, find_criu, stasis_program};
pub use engine::{Dump, Engine, Outcome};
pub use huge_pages::HugePages;
pub use machine::{
    Machine, children_of, directories_of_group, groups_of, remove_group, tree_of, wait_until,
};
pub use postgres::Postgres;
pub use program::{Program, Scratch, Workload};
pub use real::{Redis, WebServer, free_port};
pub use rig::Rig;
pub use services::{Answer, Asker, Collector, Services};
pub use snapshot::Snapshot;

/// Panics with the reason when the machine lacks what a test needs: a test that cannot run fails,
/// visibly, and is left out by name where the lack is known (see the Makefile).
#[macro_export]
macro_rules! require {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            panic!("this test cannot run here: {}", format_args!($($reason)+));
        }
    };
}
