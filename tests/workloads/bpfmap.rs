//! BPF maps: an array and a hash, filled, one of them frozen and one to be read only, with flags and names. And those that others use.

use std::os::fd::{AsRawFd, OwnedFd};

use kernel::bpfmap::{
    ARRAY, Elements, HASH, Info, elements, has_several_nodes, info, make, open_to_read, state,
};

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage};

/// Values of 20 bytes, of which each has its key in it; keys of 8 bytes.
fn filled(keys: impl Iterator<Item = u64>) -> Elements {
    let mut found = Elements::default();
    for key in keys {
        found.count += 1;
        found.keys.extend(key.to_ne_bytes());
        found.values.extend([key.to_ne_bytes(), (!key).to_ne_bytes()].concat());
        found.values.extend([7; 4]);
    }
    found
}

fn hash(most: u32, flags: u32) -> Info {
    let name = b"a.hash_1".to_vec();
    Info { kind: HASH, key: 8, value: 20, most, flags, name, ..Info::default() }
}

fn array(most: u32) -> Info {
    Info { kind: ARRAY, key: 4, value: 20, flags: 1 << 10, ..hash(most, 0) }
}

/// What a map is but for its number, whether it is frozen, and what is in it, in the order of keys.
type Seen = (Info, bool, Vec<(Vec<u8>, Vec<u8>)>);

fn seen(map: &OwnedFd) -> Seen {
    let told = info(map).expect("look at the map");
    let found = elements(map, &told).expect("read the map");
    let keys = found.keys.chunks(told.key as usize).map(<[u8]>::to_vec);
    let mut pairs: Vec<_> =
        keys.zip(found.values.chunks(told.value as usize).map(<[u8]>::to_vec)).collect();
    pairs.sort();
    (Info { id: 0, ..told }, state(map).expect("look at the map").0, pairs)
}

fn flags(map: &OwnedFd) -> i32 {
    // SAFETY: takes and gives integers.
    unsafe { libc::fcntl(map.as_raw_fd(), libc::F_GETFL) }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let words = filled(0..1000);
    let words = Elements { keys: (0..1000_u32).flat_map(u32::to_ne_bytes).collect(), ..words };
    let numbers = make(&array(1000), &words, false).expect("make an array");
    // Far fewer than there is room for.
    let sparse = filled((1..=333).map(|key| key * 0x1_0000_0001));
    let table = make(&hash(5000, 1), &sparse, true).expect("make a hash");
    let full = make(&hash(64, 0), &filled(100..164), false).expect("make a full hash");
    let empty = make(&hash(64, 1 << 7), &Elements::default(), false).expect("make an empty hash");
    let read_only = {
        let whole = make(&hash(16, 0), &filled(5..9), false).expect("make a hash");
        open_to_read(&whole).expect("open it to be read")
    };
    // Where there are several, nobody tells of which it is.
    let numa = if has_several_nodes() { 0 } else { 1 << 2 };
    let of_node = make(&hash(16, 1 | numa), &filled(5..9), false).expect("make a hash");
    let all = [numbers, table, full, empty, read_only, of_node];
    let before: Vec<_> = all.iter().map(|map| (seen(map), flags(map))).collect();
    stage.ready_then_wait();
    let mut found = Findings::default();
    for (map, before) in all.iter().zip(&before) {
        found.same("the map", before, &(seen(map), flags(map)));
    }
    let counts: Vec<usize> = before.iter().map(|(map, _)| map.2.len()).collect();
    found.same("how many", &vec![1000, 333, 64, 0, 4, 4], &counts);
    found.must("the frozen one", before[1].0.1 && !before[0].0.1);
    found.outcome()
}

/// A map that is open twice, as a program uses one, too: after a restore there would be two.
pub(crate) fn twice(stage: &Stage) -> Outcome {
    let map = make(&hash(16, 0), &filled(5..9), false).expect("make a hash");
    let other = open_to_read(&map).expect("open it to be read");
    stage.ready_then_wait();
    drop((map, other));
    Ok(())
}

/// Maps that nearly nothing is in, and that have room for more than 1 GiB together.
pub(crate) fn large(stage: &Stage) -> Outcome {
    let most = (60 << 20) / 28;
    let maps: Vec<_> =
        (0..18).map(|_| make(&hash(most, 1), &filled(5..9), false).expect("make a hash")).collect();
    stage.ready_then_wait();
    drop(maps);
    Ok(())
}

/// One of another kind: a hash for each processor.
pub(crate) fn other(stage: &Stage) -> Outcome {
    let map =
        make(&Info { kind: 5, ..hash(16, 0) }, &Elements::default(), false).expect("make a map");
    stage.ready_then_wait();
    drop(map);
    Ok(())
}

/// One that is mapped, of which the memory would have to be that of the map again.
pub(crate) fn mapped(stage: &Stage) -> Outcome {
    let map = make(&array(1000), &Elements::default(), false).expect("make an array");
    let file = std::fs::File::from(map);
    let region = Region::map(4096, libc::PROT_READ, libc::MAP_SHARED, Some((&file, 0)));
    stage.ready_then_wait();
    drop((region, file));
    Ok(())
}
