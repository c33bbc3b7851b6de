//! `criu cpuinfo`, and `--cpu-cap` of a dump and a restore: which processor it was, and whether this one does.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;

use arch::processor::{self, Demands, Unfit};
use images::messages::CpuinfoEntry;
use images::{ImageReader, names};
use tracing::info;

use crate::capabilities::ALL;
use crate::options::Options;
use crate::{Directories, Done, Error, Failure};

/// Why an image of a processor is none.
#[derive(Debug, thiserror::Error)]
#[error("read {}", names::cpuinfo().name())]
struct NoImage(#[source] io::Error);

/// Writes the image into the images' directory.
pub(crate) fn dump(directories: &Directories) -> Result<Done, Error> {
    write(&directories.images).map_err(Error::Processor)?;
    info!("the processor is described in {}", names::cpuinfo().name());
    Ok(Done::DescribedProcessor)
}

fn write(directory: &Path) -> Result<(), Failure> {
    let image = names::cpuinfo();
    let bytes = images::encode(&image, [&processor::describe()?]);
    // Whoever reads it finds the former one, or all of it; a name that leads elsewhere is replaced, not followed.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&bytes)?;
    file.persist(directory.join(image.name()))?;
    Ok(())
}

/// Compares the image in the images' directory with this machine's processor. Where nothing is asked for, all counts.
pub(crate) fn check(options: &Options, directories: &Directories) -> Result<Done, Error> {
    let asked = options.processor.unwrap_or_default().demands;
    let demands = if asked == Demands::default() { ALL } else { asked };
    compare(&directories.images, demands).map_err(Error::Processor)?;
    info!("this machine's processor does");
    Ok(Done::ProcessorDoes)
}

fn compare(directory: &Path, demands: Demands) -> Result<(), Failure> {
    let image = read(directory)?;
    processor::check(&image, &processor::describe()?, demands).map_err(failed)
}

fn failed(unfit: Unfit) -> Failure {
    match unfit {
        Unfit::Lacks(_) => Failure::with_remedy(
            unfit,
            "restore it on a machine with such a processor, or ask for less by --cpu-cap (fpu, ins, cpu)",
        ),
        unfit => unfit.into(),
    }
}

fn read(directory: &Path) -> Result<CpuinfoEntry, Failure> {
    let image = names::cpuinfo();
    let file = File::open(directory.join(image.name())).map_err(NoImage)?;
    let size = file.metadata()?.len();
    // It is beside an inventory or alone: CRIU has written it in the common form since 2015.
    Ok(ImageReader::new(&image, BufReader::new(file), size, true)?.only()?)
}

/// What is asked of the images of a tree, if anything is.
fn of_images(options: &Options) -> Option<Demands> {
    options.processor.filter(|asked| asked.image).map(|asked| asked.demands)
}

/// The same before a restore, if that asks for it.
pub(crate) fn check_before(options: &Options, directories: &Directories) -> Result<(), Failure> {
    match of_images(options) {
        Some(demands) => compare(&directories.images, demands),
        None => Ok(()),
    }
}

/// What a dump says of the processor.
pub(crate) fn of_dump(options: &Options) -> Result<Option<CpuinfoEntry>, Failure> {
    let described = of_images(options).map(|_| processor::describe());
    Ok(described.transpose()?)
}
