//! What cannot be carried, found before anything is stopped (and looked for again once it is).

use std::collections::BTreeMap;

use collector::{Inventory, Process};
use kernel::procfs::{Dir, Namespaces, Status};

use crate::error::{Error, Obstacle};
use crate::facts::Facts;
use crate::ids::is_zombie;
use crate::inject::Original;
use crate::mappings;
use crate::options::DumpOptions;

/// Looks at all of `inventory` and `facts`; names everything that stands in the way. (Facts that are
/// read later are looked at when they are.)
///
/// `own` are the dumper's namespaces ([`own_namespaces`]).
pub(crate) fn check(
    inventory: &Inventory,
    facts: &Facts,
    options: &DumpOptions,
    own: &Namespaces,
) -> Result<(), Error> {
    let mut obstacles = facts.obstacles();
    if inventory.processes.contains_key(&(std::process::id() as i32)) {
        obstacles.push(Obstacle {
            pid: std::process::id() as i32,
            object: "stasis itself".to_owned(),
            reason: "a process cannot stop itself and go on",
            remedy: "run stasis outside the tree that it is to dump",
        });
    }
    for process in inventory.processes.values() {
        session(process, inventory, options, &mut obstacles);
        if !is_zombie(process) {
            of_process(process, &own.0, &mut obstacles);
        }
    }
    refuse(options.pid, obstacles)
}

/// Fails if there are any.
pub(crate) fn refuse(root: i32, obstacles: Vec<Obstacle>) -> Result<(), Error> {
    match obstacles.is_empty() {
        true => Ok(()),
        false => Err(Error::Refused { root, obstacles }),
    }
}

/// The namespaces that the dumper is in.
pub(crate) fn own_namespaces() -> Result<Namespaces, Error> {
    Ok(Namespaces::read(&Dir::open(std::process::id() as i32)?)?)
}

fn of_process(process: &Process, own: &BTreeMap<&'static str, u64>, found: &mut Vec<Obstacle>) {
    let pid = process.pid;
    let mut add = |object: String, reason, remedy| {
        found.push(Obstacle { pid, object, reason, remedy });
    };
    if process.kernel_thread {
        add("kernel thread".to_owned(), "it is part of the kernel", "choose another process");
        return;
    }
    for (name, id) in &process.namespaces {
        if own.get(name) != Some(id) {
            let (reason, remedy) =
                ("it is in another one than stasis", "namespaces cannot be carried yet");
            add(format!("{name} namespace"), reason, remedy);
        }
    }
    let tables = &process.tables;
    let shared = [
        ("memory", tables.memory),
        ("descriptor table", tables.files),
        ("working directory", tables.file_system),
        ("signal handlers", tables.signal_handlers),
    ];
    for (name, with) in shared.into_iter().filter(|(_, with)| *with != pid && *with != 0) {
        let remedy = "processes made by clone with CLONE_VM and its like cannot be carried";
        add(format!("{name} shared with process {with}"), "two processes share it", remedy);
    }
    for thread in process.threads.values().filter(|thread| thread.own_tables) {
        let (reason, remedy) = (
            "it does not share all with its process",
            "threads that unshared their files or working directory cannot be carried",
        );
        add(format!("thread {}", thread.tid), reason, remedy);
    }
    for mapping in &process.mappings {
        if let Err((reason, remedy)) = mappings::classify(mapping) {
            let name = mapping.name.to_string_lossy();
            add(format!("mapping {:#x}-{:#x} {name}", mapping.start, mapping.end), reason, remedy);
        }
    }
}

/// A program that is not of this processor's own kind.
pub(crate) fn of_program(pid: i32) -> Option<Obstacle> {
    let (object, reason) = ("program".to_owned(), "it is a 32-bit program");
    let remedy = "run the 64-bit build of the program";
    is_32_bit(pid).then_some(Obstacle { pid, object, reason, remedy })
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
        let obstacles = vec![Obstacle { pid, object: format!("thread {tid}"), reason, remedy }];
        Err(Error::Refused { root: pid, obstacles })
    };
    if !original.registers.is_native() {
        return refuse("it runs 32-bit code", "run the 64-bit build of the program");
    }
    if arch::fpu::foreign_components(&original.extended) != 0 {
        let reason = "it uses processor state that the images cannot hold (AMX tiles)";
        return refuse(reason, "have the program release its tiles before the dump");
    }
    Ok(())
}

/// What a thread's status shows that cannot be carried.
pub(crate) fn of_status(tid: i32, status: &Status) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut add = |object: &str, reason, remedy| {
        found.push(Obstacle { pid: tid, object: object.to_owned(), reason, remedy });
    };
    if status.seccomp != 0 {
        let remedy = "start it without a seccomp filter";
        add("seccomp", "its system calls are filtered", remedy);
    }
    if status.x86_thread_features.as_deref().is_some_and(|features| features.contains("shstk")) {
        let remedy = "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off";
        add("shadow stack", "signal frames cannot be made for it", remedy);
    }
    found
}

/// Sessions and process groups have to lie inside the tree, or else the caller says that the
/// tree is a terminal's job.
fn session(
    process: &Process,
    inventory: &Inventory,
    options: &DumpOptions,
    found: &mut Vec<Obstacle>,
) {
    let pid = process.pid;
    let outside = |id: i32| !inventory.processes.contains_key(&id);
    if pid == options.pid {
        if process.sid != pid && !options.shell_job {
            found.push(Obstacle {
                pid,
                object: format!("session {}", process.sid),
                reason: "its leader is outside the tree",
                remedy: "give --shell-job to have it join the session of whoever restores it, \
                         or start it with setsid",
            });
        }
        return;
    }
    let root = &inventory.processes.get(&options.pid);
    if outside(process.sid) && root.is_none_or(|root| root.sid != process.sid) {
        found.push(Obstacle {
            pid,
            object: format!("session {}", process.sid),
            reason: "its leader has ended or is outside the tree",
            remedy: "keep the session's leader alive",
        });
    }
}
