//! New mappings of a restored tree go where they would have gone.
//!
//! Below which address the kernel puts them is set once for each program, by `execve`
//! (`kernel::layout`), and a restored tree has it of the process that restores. So that one starts
//! itself again, before it does anything else, to have the base of the tree's root; who executed a
//! program of his own below the root had another one, which is not carried.

use images::messages::LayoutEntry;
use images::{Images, names};
use kernel::layout::Layout;

use crate::error::Error;

/// The mapping base of the root of a checkpoint, as far as the images tell. What is wrong with them is left to
/// the restore.
#[must_use]
pub fn mapping_base(images: &Images) -> Option<u64> {
    let root = images.reader(&names::pstree()).ok()??.next_entry().ok()??;
    let memory: LayoutEntry = images.reader(&names::mm(root.pid)).ok()??.next_as().ok()??;
    memory.mapping_base
}

/// Starts this program again, as it was started, if new mappings would go elsewhere than those of the
/// checkpoint did. Does nothing the second time.
///
/// # Errors
/// If what was changed for that cannot be changed back.
pub fn take(images: &Images) -> Result<(), Error> {
    let Some(base) = mapping_base(images) else { return Ok(()) };
    take_base(base)
}

/// The same with the base that [`mapping_base`] tells.
///
/// # Errors
/// As [`take`].
pub fn take_base(base: u64) -> Result<(), Error> {
    let taken = kernel::layout::take(base)
        .map_err(Error::kernel("take the layout of the tree's memory"))?;
    if let Layout::Other(why) = taken {
        tracing::warn!("new mappings of the tree will go elsewhere than they would have: {why}");
    }
    Ok(())
}
