//! TCP connections that nobody has accepted, with both ends in the tree: what nobody reads without eBPF.

use super::{Engine, carried_with};

#[test]
fn natively() {
    super::natively("tcp_waiting");
}

#[test]
fn carried_by_programs() {
    carried_with("tcp_waiting", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn running_on_by_programs() {
    super::running_on("tcp_waiting", true);
}
