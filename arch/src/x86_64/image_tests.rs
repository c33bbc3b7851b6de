//! Registers into images and out of them, from one processor to another.

extern crate std;

use super::*;

const AVX512: u64 = 0b111 << 5;
const KEYS: u64 = 1 << 9;

/// A processor with AMX, one with AVX-512 and keys, one with AVX alone.
fn amx() -> Layout {
    let keys = [(9, 2688, 8), (17, 2752, 64), (18, 2816, 8192)];
    Layout::of(
        [(2, 576, 256), (5, 1088, 64), (6, 1152, 512), (7, 1664, 1024)].into_iter().chain(keys),
    )
}

fn avx512() -> Layout {
    Layout::of([(2, 576, 256), (5, 1088, 64), (6, 1152, 512), (7, 1664, 1024), (9, 2688, 8)])
}

fn avx() -> Layout {
    Layout::of([(2, 576, 256)])
}

/// What ptrace reports of a new thread there.
fn current(layout: &Layout) -> Vec<u8> {
    let mut area = vec![0; layout.bytes(layout.components())];
    area[464..472].copy_from_slice(&layout.components().to_le_bytes());
    if let Some(place) = layout.place(fpu::PKRU) {
        area[fpu::LEGACY_BYTES..fpu::LEGACY_BYTES + 8].copy_from_slice(&KEYS.to_le_bytes());
        area[place][..4].copy_from_slice(&0x5555_5554_u32.to_le_bytes());
    }
    area
}

/// A thread as a processor with AVX-512, keys and (if there are `tiles`) AMX has dumped it.
fn thread(xstate_bv: u64, tiles: Option<UserX86TilesEntry>) -> ThreadImage {
    let xsave = UserX86XsaveEntry {
        xstate_bv,
        ymmh_space: vec![7; 64],
        opmask_reg: vec![8; 8],
        zmm_upper: vec![9; 64],
        hi16_zmm: vec![10; 128],
        pkru: vec![0x5555_5554, 0],
        tiles,
        ..UserX86XsaveEntry::default()
    };
    let fpregs = UserX86FpregsEntry { xsave: Some(xsave), ..UserX86FpregsEntry::default() };
    let info = ThreadInfoX86 { fpregs, ..ThreadInfoX86::default() };
    ThreadImage(info)
}

fn tiles() -> UserX86TilesEntry {
    UserX86TilesEntry { config: Some(vec![1; 64]), data: Some(vec![2; 8192]) }
}

/// The names of what a processor with this layout lacks.
fn lacks(thread: &ThreadImage, layout: &Layout) -> Vec<&'static str> {
    fpu::names(thread.missing(layout.components())).collect()
}

#[test]
fn what_is_in_its_initial_state_is_not_missed() {
    for layout in [amx(), avx512(), avx()] {
        let area = thread(0b111 | KEYS, None).extended(&current(&layout), &layout).unwrap();
        assert_eq!(area.len(), layout.bytes(layout.components()));
        let here = layout.components() & (0b111 | KEYS);
        assert_eq!(fpu::components_in_use(&area), here);
        assert_eq!(area[576..580], 7_u32.to_le_bytes());
    }
    // Noted as in use, and zero: CRIU's images are so.
    let mut idle = thread(0b111 | AVX512, None);
    let xsave = idle.0.fpregs.xsave.as_mut().unwrap();
    xsave.opmask_reg = vec![0; 8];
    xsave.zmm_upper = vec![0; 64];
    xsave.hi16_zmm = vec![0; 128];
    assert_eq!(idle.missing(avx().components()), 0);
}

#[test]
fn what_is_in_use_and_missing_is_named() {
    assert!(lacks(&thread(0b111 | AVX512, None), &avx()).contains(&"AVX-512"));
    assert!(lacks(&thread(0b111, Some(tiles())), &avx512()).contains(&"AMX tiles"));
    assert!(lacks(&thread(0b111, None), &Layout::of([])).contains(&"AVX"));
    let mut with_keys = thread(0b111 | KEYS, None);
    with_keys.0.fpregs.xsave.as_mut().unwrap().pkru = vec![0x5555_5550, 0];
    assert!(lacks(&with_keys, &avx()).contains(&"protection keys"));
    let unknown = thread(0b111 | 1 << 40, None);
    assert!(lacks(&unknown, &amx()).contains(&"a component without a name here"));
}

#[test]
fn tiles_come_back() {
    let layout = amx();
    let thread = thread(0b111, Some(tiles()));
    assert!(thread.needs_room());
    let area = thread.extended(&current(&layout), &layout).unwrap();
    assert_eq!(fpu::components_in_use(&area) & fpu::TILES, fpu::TILES);
    assert!(area[2752..2816].iter().all(|&byte| byte == 1));
    assert!(area[2816..].iter().all(|&byte| byte == 2));
}

#[test]
fn a_thread_from_a_processor_without_keys_has_those_of_a_new_task() {
    let mut thread = thread(0b111, None);
    thread.0.fpregs.xsave.as_mut().unwrap().pkru = Vec::new();
    let layout = avx512();
    let area = thread.extended(&current(&layout), &layout).unwrap();
    assert_eq!(fpu::components_in_use(&area), 0b111 | KEYS);
    assert_eq!(area[2688..2692], 0x5555_5554_u32.to_le_bytes());
}

#[test]
fn lists_of_any_length_do_no_harm() {
    let mut thread = thread(u64::MAX >> 1 & amx().components(), Some(tiles()));
    let xsave = thread.0.fpregs.xsave.as_mut().unwrap();
    xsave.hi16_zmm = vec![1; 100_000];
    xsave.opmask_reg = Vec::new();
    xsave.tiles = Some(UserX86TilesEntry { config: Some(vec![1]), data: Some(vec![2; 1 << 20]) });
    let area = thread.extended(&current(&amx()), &amx()).unwrap();
    assert_eq!(area.len(), 11_008);
}

/// An area whose bytes tell where they are, with these components in use.
fn numbered(bytes: usize, in_use: u64) -> Vec<u8> {
    let mut area: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
    area[fpu::LEGACY_BYTES..fpu::LEGACY_BYTES + 8].copy_from_slice(&in_use.to_le_bytes());
    area
}

#[test]
fn components_are_whole_or_absent() {
    let avx512 = [(2, 576, 256), (5, 1088, 64), (6, 1152, 512), (7, 1664, 1024)];
    let layout = Layout::of(avx512);
    let entry = extended(&numbered(8192, 0xe7), &layout);
    assert_eq!((entry.st_space.len(), entry.xmm_space.len()), (32, 64));
    let xsave = entry.xsave.unwrap();
    assert_eq!((xsave.ymmh_space.len(), xsave.hi16_zmm.len()), (64, 128));
    assert_eq!((xsave.bndreg_state.len(), xsave.pkru.len()), (0, 0));
    assert_eq!(xsave.ymmh_space[0], u32::from_le_bytes([64, 65, 66, 67]));
    assert_eq!((xsave.xstate_bv, xsave.tiles), (0xe7, None));
}

#[test]
fn tiles_are_written_if_they_are_in_use() {
    let layout = Layout::of([(2, 576, 256), (17, 2752, 64), (18, 2816, 8192)]);
    let tiles = |in_use| extended(&numbered(11_008, in_use), &layout).xsave.unwrap();
    assert_eq!(tiles(0b111).tiles, None);
    let both = tiles(0b111 | fpu::TILES);
    assert_eq!(both.xstate_bv, 0b111);
    let both = both.tiles.unwrap();
    assert_eq!(both.config.unwrap()[0], 2752_u32 as u8);
    assert_eq!(both.data.unwrap().len(), 8192);
    let configured = tiles(0b111 | 1 << fpu::XTILECFG.bit).tiles.unwrap();
    assert_eq!((configured.config.map(|bytes| bytes.len()), configured.data), (Some(64), None));
}
