//! What cannot be carried, found before anything is stopped (and looked for again once it is): by the
//! collector's rules, and by what the processes' programs and threads show.

use api::Obstacle;
use collector::obstacles::{Surroundings, of_tree};
use collector::{Inventory, Process};
use kernel::cgroup::{Hierarchies, Version};
use kernel::procfs::{Dir, Namespaces};

use crate::error::Error;
use crate::facts::Facts;
use crate::inject::Original;
use crate::options::DumpOptions;

/// All that stands in the way, by `inventory` and `facts`. (Facts that are read later are looked at
/// when they are.)
pub(crate) fn find(
    root: i32,
    inventory: &Inventory,
    facts: &Facts,
    around: &Surroundings,
) -> Vec<Obstacle> {
    let tree: Vec<&Process> = inventory.processes.values().collect();
    let mut obstacles = of_tree(root, &tree, around);
    obstacles.extend(facts.obstacles());
    obstacles
}

/// Control groups of the first version that are frozen: their tasks do not stop for a tracer either.
/// (Those of the second version do.)
pub(crate) fn of_cgroups(inventory: &Inventory) -> Vec<Obstacle> {
    let Ok(hierarchies) = Hierarchies::find() else { return Vec::new() };
    if hierarchies.freezer().is_none() {
        return Vec::new();
    }
    let frozen = |&pid: &i32| {
        let cgroup = hierarchies.frozen(Version::V1, pid).ok().flatten()?;
        let object = format!("cgroup {}", cgroup.directory().display());
        let reason = "it is frozen, and a frozen task cannot be stopped and read";
        let thaw = cgroup.thaw_command();
        let remedy = format!("thaw it, or have whoever paused it do so: {thaw}");
        Some(Obstacle::of(pid, object, reason, remedy))
    };
    inventory.processes.keys().filter_map(frozen).collect()
}

/// Fails if there are any.
pub(crate) fn refuse(root: i32, obstacles: Vec<Obstacle>) -> Result<(), Error> {
    match obstacles.is_empty() {
        true => Ok(()),
        false => Err(Error::Refused { root, obstacles }),
    }
}

/// What is around a dump: this process and its namespaces.
pub(crate) fn surroundings(options: &DumpOptions) -> Result<Surroundings, Error> {
    let own = std::process::id().cast_signed();
    let namespaces = Namespaces::read(&Dir::open(own)?)?.0;
    Ok(Surroundings { own, namespaces, shell_job: options.shell_job })
}

/// A program that is not of this processor's own kind.
pub(crate) fn of_program(pid: i32) -> Option<Obstacle> {
    let (object, reason) = ("program".to_owned(), "it is a 32-bit program");
    let remedy = "run the 64-bit build of the program";
    is_32_bit(pid).then(|| Obstacle::of(pid, object, reason, remedy))
}

/// By the class byte of the program's ELF header.
fn is_32_bit(pid: i32) -> bool {
    use std::io::Read;
    const CLASS_32: u8 = 1;
    let mut head = [0; 5];
    std::fs::File::open(format!("/proc/{pid}/exe"))
        .and_then(|mut exe| exe.read_exact(&mut head))
        .is_ok_and(|()| head == [0x7f, b'E', b'L', b'F', CLASS_32])
}

/// What only a stopped thread shows: state of the processor that the images have no field for.
pub(crate) fn of_thread(pid: i32, tid: i32, original: &Original) -> Result<(), Error> {
    let refuse = |reason, remedy| {
        let obstacles = vec![Obstacle::of(pid, format!("thread {tid}"), reason, remedy)];
        Err(Error::Refused { root: pid, obstacles })
    };
    if !original.registers.is_native() {
        return refuse("it runs 32-bit code", "run the 64-bit build of the program");
    }
    let foreign = arch::fpu::foreign_components(&original.extended);
    if foreign != 0 {
        let names: Vec<_> = arch::fpu::names(foreign).collect();
        let object = format!("thread {tid}, registers of {}", names.join(" and "));
        let reason = "the images have no place for them";
        let remedy = "run the program with a library that does not use them";
        let obstacles = vec![Obstacle::of(pid, object, reason, remedy)];
        return Err(Error::Refused { root: pid, obstacles });
    }
    Ok(())
}
