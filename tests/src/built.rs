//! The programs under test, and CRIU.

use std::path::PathBuf;

/// `stasis`: `$STASIS`, or the one built beside the test.
#[must_use]
pub fn stasis_program() -> PathBuf {
    std::env::var_os("STASIS").map_or_else(|| built_program("stasis"), PathBuf::from)
}

/// A program of this workspace, from the same build as the one that asks.
#[must_use]
pub fn built_program(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("know the own program");
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is not built: run `make test`, or `cargo build` first"))
}

/// CRIU: `$CRIU`, or the one on PATH.
#[must_use]
pub fn find_criu() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CRIU").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|dir| dir.join("criu"));
    // Beside `stasis` it is ours, which is no peer.
    found.find(|path| path.is_file() && !path.with_file_name("stasis").exists())
}

/// CRIU.
///
/// # Panics
/// When there is none. Tests that need it have `criu_peer` in their names and are left out then.
pub(crate) fn criu_program() -> PathBuf {
    find_criu().expect("a working criu on PATH or in $CRIU")
}
