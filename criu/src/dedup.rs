//! `criu dedup`, and `--auto-dedup` of dumps and restores.

use images::checkpoint::dedup::{self, GivenBack};
use tracing::{info, warn};

use crate::options::Options;
use crate::{Directories, Done, Error};

/// Has the parents of the images give back what these have newer copies of.
pub(crate) fn run(directories: &Directories) -> Result<Done, Error> {
    let back = dedup::deduplicate(&directories.images);
    let back = back.map_err(|error| Error::Dedup(error.into()))?;
    match back {
        Some(back) => {
            info!("Deduplicated: {} pages were given back", back.pages);
            warn_of_unmarked(back);
        }
        // A dump whose parent was of no use has no link to it.
        None => warn!("Deduplicated: these images leave nothing to a parent"),
    }
    Ok(Done::Deduplicated)
}

/// The same after a dump, if that is asked for and there is a parent. The dump has succeeded, whatever comes of it.
pub(crate) fn after_dump(options: &Options, directories: &Directories) {
    if options.auto_dedup && options.previous.is_some() {
        let back = dedup::deduplicate(&directories.images).map(Option::unwrap_or_default);
        if let Ok(back) = &back {
            warn_of_unmarked(*back);
        }
        told(back);
    }
}

/// Gives back what has been restored, if that is asked for.
pub(crate) fn after_restore(options: &Options, directories: &Directories) {
    if options.auto_dedup {
        let back = dedup::consume(&directories.images);
        if let Ok(back) = &back {
            warn_of_unmarked(*back);
        }
        told(back);
    }
}

/// Images of CRIU's cannot say what they lack.
fn warn_of_unmarked(back: GivenBack) {
    if back.unmarked > 0 {
        warn!(
            "{} of the parents cannot say that pages are missing from them: restore nothing but these images from there",
            back.unmarked
        );
    }
}

fn told(back: Result<GivenBack, images::Error>) {
    match back {
        Ok(back) => info!("{} pages of images were given back (--auto-dedup)", back.pages),
        Err(error) => {
            let failure = crate::Failure::from(error);
            warn!("pages of images keep their room (--auto-dedup): {failure}");
        }
    }
}
