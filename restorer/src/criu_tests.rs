//! Images that CRIU 4.2 wrote (`tests/data/criu-4.2`), through every stage that makes nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use ids::{HostPid, ImagePid};
use images::Images;
use images::store::Memory;

use crate::Joined;
use crate::host::{Host, Range, Vdso};
use crate::load::registers;
use crate::load::{Checkpoint, State};
use crate::plan::{Caller, ForkStep, Plan};
use crate::prepare::{self, Descriptors};
use crate::run::Run;

const SETS: [&str; 5] = ["minimal", "family", "busy", "ghosts", "terminal"];

fn checkpoint(set: &str) -> Checkpoint {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "../tests/data/criu-4.2", set].iter().collect();
    Checkpoint::load(&Images::open(&path).unwrap(), Joined::default()).unwrap()
}

/// Where pages are in no file, they are brought into one: each is what it is in a directory.
#[test]
fn a_set_in_memory_is_loaded_as_from_a_directory() {
    for set in SETS {
        let path: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "../tests/data/criu-4.2", set].iter().collect();
        let files = std::fs::read_dir(path).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        });
        let memory = Memory::default();
        memory.put(set.as_ref(), files);
        let store = memory.open(set.as_ref()).unwrap();
        let (there, here) = (
            checkpoint(set),
            Checkpoint::load(&Images::of(Arc::new(store)).unwrap(), Joined::default()).unwrap(),
        );
        assert_eq!(here.pages(), there.pages(), "{set}");
        let bytes = |checkpoint: &Checkpoint| -> Vec<Vec<u8>> {
            let private =
                checkpoint.living().flat_map(|(_, body)| body.runs.iter().chain(&body.vdso));
            let shared = checkpoint.segments.iter().flat_map(|segment| &segment.runs);
            let bytes = |run: &Run| {
                let (store, offset) = run.stored()?;
                let mut bytes = vec![0; run.bytes() as usize];
                checkpoint.stores[store].read_exact_at(&mut bytes, offset).unwrap();
                Some(bytes)
            };
            private.chain(shared).filter_map(bytes).collect()
        };
        assert!(bytes(&here) == bytes(&there), "{set}");
        assert!(!bytes(&here).is_empty(), "{set}");
    }
}

fn plan(checkpoint: &Checkpoint) -> Plan {
    let first = ImagePid::new(1);
    Plan::new(checkpoint, Caller { sid: first, pgid: first, shell_job: true }, false).unwrap()
}

/// A host that has everything.
fn host() -> Host {
    Host {
        born_with_groups: false,
        born_with_ids: None,
        sid: HostPid::new(1),
        pgid: HostPid::new(1),
        permitted: u64::MAX,
        grantable: u64::MAX,
        bounding: u64::MAX,
        components: arch::fpu::Layout::of_this_processor().components(),
        known: u64::MAX >> 23,
        hard_limits: vec![u64::MAX; 16],
        guards: true,
        vdso: Vdso {
            code: Some(Range { start: 0x7000_0000_6000, end: 0x7000_0000_8000 }),
            data: vec![Range { start: 0x7000_0000_0000, end: 0x7000_0000_6000 }],
            image: vec![0; 0x2000],
        },
        compat_vdso: None,
        mappings: vec![Range { start: 0x7000_0000_0000, end: 0x7000_0000_8000 }],
    }
}

#[test]
fn every_set_is_loaded_and_planned() {
    for set in SETS {
        let checkpoint = checkpoint(set);
        let plan = plan(&checkpoint);
        assert!(plan.tasks.len() >= checkpoint.processes.len(), "{set}");
        // Each but the root is born once.
        let forks = plan.tasks.iter().flat_map(|task| &task.forks);
        let born = forks.filter(|birth| **birth != ForkStep::Session).count();
        assert_eq!(born, plan.tasks.len() - 1, "{set}");
        host().check(&checkpoint).unwrap();
        assert!(checkpoint.pages() > 0, "{set}");
    }
}

#[test]
fn every_process_gets_a_region_of_its_own() {
    for set in SETS {
        let checkpoint = checkpoint(set);
        for (process, body) in checkpoint.living() {
            let mut descriptors = Descriptors {
                user_namespace: None,
                born_in: None,
                has_uprobes: false,
                is_without_rights: false,
                entered: None,
                registrars: None,
                turns: None,
                late: (Vec::new(), -1),
                exe: 900,
                issued: Vec::new(),
                serving: Vec::new(),
                stores: (910..).take(checkpoint.stores.len()).collect(),
                segments: checkpoint.segments.iter().map(|segment| (segment.shmid, 930)).collect(),
                segment_sizes: BTreeMap::new(),
                mapped: BTreeMap::new(),
                base: 900,
            };
            for mapping in body.mappings.iter().filter(|mapping| mapping.kind.is_of_file()) {
                let id = u32::try_from(mapping.vma.shmid).unwrap();
                descriptors.mapped.insert((id, crate::mapped::open_flags(mapping)), 940);
            }
            let laid_out = prepare::region(
                &host(),
                process,
                (body, &body.mappings),
                &descriptors,
                (libc::SIGTRAP, None),
                (&crate::forked::Layout::default(), 0),
            )
            .unwrap();
            let region = prepare::place_all(&host(), vec![laid_out]).unwrap().remove(0);
            let end = region.address + region.bytes as u64;
            let free = |start: u64, stop: u64| stop <= region.address || start >= end;
            assert!(
                body.mappings.iter().all(|mapping| free(mapping.vma.start, mapping.vma.end)),
                "{set}"
            );
            assert!(region.arguments_at + region.arguments.len() <= region.bytes, "{set}");
            assert!(region.report(body.threads.len() - 1).is_some());
        }
    }
}

#[test]
fn registers_of_every_thread_can_be_given() {
    /// As large as a processor with protection keys has it, with all components.
    const STATE: usize = 2696;
    let mut current = vec![0; STATE];
    let layout = arch::fpu::Layout::of_this_processor();
    current[464..472].copy_from_slice(&0x2e7u64.to_le_bytes());
    for set in SETS {
        let checkpoint = checkpoint(set);
        for thread in checkpoint.living().flat_map(|(_, body)| &body.threads) {
            registers::general(thread).unwrap();
            let area = registers::extended(thread, &current, &layout).unwrap();
            assert_eq!(area.len(), STATE);
            // The control word that the kernel starts every program with.
            assert_eq!(area[..2], 0x37f_u16.to_le_bytes(), "{set}");
        }
    }
}

#[test]
fn guard_regions_need_a_kernel_that_has_them() {
    let mut checkpoint = checkpoint("family");
    let mut bodies = checkpoint.processes.iter_mut().filter_map(|process| process.body.as_mut());
    let body = bodies.next().unwrap();
    let (start, end) = (body.mappings[0].vma.start, body.mappings[0].vma.end);
    let status = images::messages::vma_status::GUARD;
    let vma = images::messages::VmaEntry { start, end, status, ..Default::default() };
    body.mappings.push(images::checkpoint::Mapping::new(vma));
    host().check(&checkpoint).unwrap();
    let error = Host { guards: false, ..host() }.check(&checkpoint).unwrap_err();
    assert!(error.to_string().contains("guard region"), "{error}");
}

#[test]
fn the_family_has_its_dead_and_its_stopped() {
    let checkpoint = checkpoint("family");
    assert!(checkpoint.processes.len() > 1);
    let plan = plan(&checkpoint);
    let dead =
        checkpoint.processes.iter().filter(|p| matches!(p.state, State::Dead { .. })).count();
    let noted: usize = plan.tasks.iter().map(|task| task.zombies.len()).sum();
    assert_eq!(dead, noted);
    assert!(checkpoint.processes.iter().filter(|p| p.body.is_none()).count() == dead);
}
