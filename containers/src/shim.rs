//! What containerd's shim says of the runc that it has a container run by (`runtime/v2/runc` in containerd): it runs in the container's
//! bundle, and leaves its options there.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use api::ContainerEngine;
use kernel::procfs::{Dir, ProcFile, Stat};
use serde::Deserialize;

use crate::container::Container;
use crate::places::believed;

/// The file that the shim leaves its options in.
const OPTIONS: &str = "options.json";
/// They are a few words.
const LONGEST: u64 = 64 << 10;

#[derive(Deserialize)]
struct Options {
    /// Below it runc's state directories are, one a namespace.
    #[serde(default)]
    root: String,
}

/// A container as runc knows it, by what the parent of its first process says.
pub(crate) fn below(container: &Container) -> Option<Container> {
    let shim = Stat::read(&Dir::open(container.first()?).ok()?).ok()?.ppid?;
    let bundle = std::fs::read_link(format!("/proc/{shim}/cwd")).ok()?;
    let id = &container.summary.id;
    let namespace = bundle.ends_with(id).then(|| bundle.parent()?.file_name()).flatten()?;
    let bundle = believed(&bundle).ok()??;
    let mut text = Vec::new();
    File::open(bundle.join(OPTIONS)).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
    let Options { root } = serde_json::from_slice(&text).ok()?;
    let root = Path::new(&root);
    let place = root.is_absolute().then(|| root.join(namespace))?;
    let place = believed(&place).ok()??;
    let summary = &container.summary;
    let (id, first) = (id.clone(), container.first());
    let mut below = Container::new(ContainerEngine::Runc, id.clone(), id, first, summary.state);
    below.place = place;
    Some(below)
}
