//! What the fuzz targets do with an input: each is a function that must not panic, hang or take much memory.

mod image_dir;
mod image_readers;
mod page_server;
mod procfs;

pub use image_dir::image_dir;
pub use image_readers::image_readers;
pub use page_server::page_server;
pub use procfs::procfs;

/// The answer is of no interest, that there is one is.
fn used<T>(value: T) {
    drop(value);
}
