//! What userfaultfds are to be asked for and to serve, when the memory of their process is there.

use parasite::restorer::{ASK, REGISTER, Table, UserfaultCall};

use super::table::Tables;
use crate::files::Serving;

/// Lays out those of a process.
pub(super) fn lay_out(serving: &[Serving], tables: &mut Tables) -> Table<UserfaultCall> {
    let calls = serving.iter().flat_map(|Serving { fd, entry }| {
        let features = entry.features.unwrap_or_default();
        let ask = UserfaultCall { fd: *fd, call: ASK, start: features, ..Default::default() };
        let served = entry.served.iter().map(|memory| UserfaultCall {
            fd: *fd,
            call: REGISTER,
            start: memory.start,
            bytes: memory.bytes,
            mode: memory.modes,
        });
        std::iter::once(ask).chain(served)
    });
    tables.put(&calls.collect::<Vec<_>>())
}
