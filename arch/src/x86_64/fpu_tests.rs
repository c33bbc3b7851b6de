//! Signal frames of every generation of processors, read by the rules of the kernel.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::*;

/// Layouts as Intel's and AMD's processors report them.
fn generations() -> Vec<(&'static str, Layout)> {
    let avx = (2, 576, 256);
    let avx512 = [avx, (5, 1088, 64), (6, 1152, 512), (7, 1664, 1024)];
    let pkru = (9, 2688, 8);
    let amx = [(17, 2752, 64), (18, 2816, 8192)];
    let with = |more: &[(u32, usize, usize)]| Layout::of(avx512.into_iter().chain(more.to_vec()));
    vec![
        ("SSE", Layout::of([])),
        ("AVX", Layout::of([avx])),
        ("MPX", Layout::of([avx, (3, 960, 64), (4, 1024, 64)])),
        ("AVX-512", with(&[])),
        ("AVX-512 and keys", with(&[pkru])),
        (
            "AVX-512 and keys by AMD",
            Layout::of([avx, (5, 832, 64), (6, 896, 512), (7, 1408, 1024), (9, 2432, 8)]),
        ),
        ("AMX", with(&[pkru, amx[0], amx[1]])),
        // The last component lies before others.
        ("AMX and APX", with(&[pkru, amx[0], amx[1], (19, 960, 128)])),
    ]
}

/// A register set as ptrace reports it: as long as all components of the processor, for every thread.
fn reported(layout: &Layout, used: u64) -> Vec<u8> {
    let mut area: Vec<u8> =
        (0..layout.bytes(layout.components())).map(|at| (at % 251) as u8).collect();
    area[SOFTWARE_RESERVED..LEGACY_BYTES].fill(0);
    area[LEGACY_BYTES..LEGACY_BYTES + HEADER_BYTES].fill(0);
    area[SOFTWARE_RESERVED..SOFTWARE_RESERVED + 8]
        .copy_from_slice(&layout.components().to_le_bytes());
    area[LEGACY_BYTES..LEGACY_BYTES + 8].copy_from_slice(&used.to_le_bytes());
    area
}

/// The components that the kernel restores from a frame, for a thread whose frames have
/// `user_size` bytes of extended state; none but x87 and SSE if it finds the frame faulty.
fn restored(frame: &[u8], layout: &Layout, user_size: usize, before_6_8: bool) -> u64 {
    let half = |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().unwrap());
    let (magic1, extended_size, xstate_size) = (half(464), half(468), half(480));
    let xfeatures = u64::from(half(472)) | u64::from(half(476)) << 32;
    let header = (LEGACY_BYTES + HEADER_BYTES) as u32;
    let magic2_at = if before_6_8 {
        if xstate_size < header || xstate_size > user_size as u32 || xstate_size > extended_size {
            return 0b11;
        }
        xstate_size as usize
    } else {
        user_size
    };
    if magic1 != FP_XSTATE_MAGIC1 || half(magic2_at) != FP_XSTATE_MAGIC2 {
        return 0b11;
    }
    // XRSTOR of what both name; the rest is put into its initial state.
    let held = (0..63).filter(|bit| layout.bytes(1 << bit) <= user_size);
    xfeatures & held.fold(0, |mask, bit| mask | 1 << bit) & components_in_use(frame)
}

fn check(name: &str, layout: &Layout, used: u64, user_size: usize, told: bool) {
    let area = reported(layout, used);
    let extent = Extent::of(&area, layout, told.then_some(user_size));
    let mut frame = vec![0xee; extent.frame_bytes()];
    to_signal_frame(&area, extent, layout, &mut frame);
    for before_6_8 in [false, true] {
        let restored = restored(&frame, layout, user_size, before_6_8);
        assert_eq!(restored, used, "{name}, {user_size} bytes, told {told}, old {before_6_8}");
    }
    for bit in (2..63).filter(|bit| used & 1 << bit != 0) {
        let (start, bytes) = layout.places[bit];
        assert_eq!(frame[start..start + bytes], area[start..start + bytes], "{name}, bit {bit}");
    }
    assert_eq!(frame[..SOFTWARE_RESERVED], area[..SOFTWARE_RESERVED]);
    if told {
        assert_eq!(frame.len(), user_size + MAGIC2_BYTES, "{name}: no more than the kernel's own");
    }
}

#[test]
fn the_kernel_restores_all_from_a_frame_of_every_generation() {
    for (name, layout) in generations() {
        let all = layout.components();
        let unasked = layout.bytes(all & !ON_REQUEST);
        for used in [0b11, all & 0b111, all & !(0b11 << 17)] {
            for told in [false, true] {
                // A thread that never used what it has to ask for, and one that once did.
                check(name, &layout, used, unasked, told);
                check(name, &layout, used, layout.bytes(all), told);
            }
        }
        for told in [false, true] {
            check(name, &layout, all, layout.bytes(all), told);
        }
    }
}

#[test]
fn a_frame_is_no_longer_than_what_the_thread_can_hold() {
    let (_, amx) = generations().remove(6);
    let area = reported(&amx, 0xe7);
    assert_eq!(area.len(), 11_008);
    assert_eq!(Extent::of(&area, &amx, Some(2816)).frame_bytes(), 2820);
    assert_eq!(Extent::of(&area, &amx, None).frame_bytes(), 11_012);
    // What cannot be is not believed.
    assert_eq!(Extent::of(&area, &amx, Some(576)).frame_bytes(), 11_012);
    assert_eq!(Extent::of(&area, &amx, Some(1 << 30)).frame_bytes(), 11_012);
    let tiles = reported(&amx, 0xe7 | 0b11 << 17);
    assert_eq!(Extent::of(&tiles, &amx, Some(2816)).frame_bytes(), 11_012);
}

#[test]
fn a_signal_frame_describes_its_area() {
    let (_, layout) = generations().remove(4);
    let area = reported(&layout, 0x2e7);
    let extent = Extent::of(&area, &layout, None);
    let mut out = [0; 2700];
    to_signal_frame(&area, extent, &layout, &mut out);
    assert_eq!(&out[464..468], &FP_XSTATE_MAGIC1.to_le_bytes());
    assert_eq!(&out[468..472], &2700u32.to_le_bytes());
    assert_eq!(&out[472..480], &0x2e7u64.to_le_bytes());
    assert_eq!(&out[480..484], &2696u32.to_le_bytes());
    assert_eq!(&out[2696..], &FP_XSTATE_MAGIC2.to_le_bytes());
    assert_eq!(&out[512..2696], &area[512..]);
}

#[test]
fn what_the_images_have_no_field_for_is_foreign() {
    let (_, layout) = generations().remove(7);
    assert_eq!(foreign_components(&reported(&layout, 0b111 | 0b11 << 17)), 0);
    assert_eq!(foreign_components(&reported(&layout, 0b111 | 1 << 19)), 1 << 19);
}

#[test]
fn components_have_names() {
    let of = |mask| names(mask).collect::<Vec<_>>();
    assert_eq!(of(0b111 | 0b11 << 17), ["AVX", "AMX tiles"]);
    assert_eq!(of(0xe0 | 1 << 9), ["AVX-512", "protection keys"]);
    assert_eq!(of(0b11 | 1 << 40), ["a component without a name here"]);
}

#[test]
fn the_state_of_the_x87_stands_before_a_frame_of_32_bit_code() {
    let mut area = [0; LEGACY_BYTES];
    area[..8].copy_from_slice(&[0x7f, 0x03, 0x00, 0x30, 0x81, 0, 0x34, 0x02]);
    area[8] = 0x11;
    area[16] = 0x22;
    for register in 0..8 {
        area[32 + 16 * register] = register as u8 + 1;
        area[32 + 16 * register + 9] = 0x40;
    }
    let header = compat_header(&area);
    assert_eq!(&header[..8], &[0x7f, 0x03, 0xff, 0xff, 0x00, 0x30, 0xff, 0xff]);
    // The first and the last register are in use.
    assert_eq!(&header[8..12], &[0xfc, 0x3f, 0xff, 0xff]);
    assert_eq!((header[12], &header[16..20], header[20]), (0x11, &[0, 0, 0x34, 0x02][..], 0x22));
    assert_eq!((header[28], header[37], header[38], header[28 + 79]), (1, 0x40, 2, 0x40));
    assert_eq!(&header[108..], &[0x00, 0x30, 0, 0]);
}
