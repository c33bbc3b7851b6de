//! What this processor can do, as images have it, and what a restore may demand of it.
//!
//! The images have the words of CPUID that Linux keeps of a processor, in its order
//! (arch/x86/include/asm/cpufeatures.h), by themselves: what a kernel has turned off is there as well.

extern crate alloc;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};
use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};

use images::messages::{CpuinfoEntry, CpuinfoX86Entry, VENDOR_AMD, VENDOR_INTEL};

/// What a processor has to have in common with that of the images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// All components of the extended state, and areas of the same size.
    pub state: bool,
    /// All instructions that programs may use.
    pub instructions: bool,
    /// Every word of CPUID.
    pub everything: bool,
}

/// Why a processor does not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// Who makes this one is not known to the images.
    #[error("the maker of this machine's processor has no number in images")]
    UnknownMaker,
    /// The image makes no sense.
    #[error("cpuinfo.img describes no processor of this kind: {0}")]
    NotUnderstood(&'static str),
    /// This one has not what that has.
    #[error("this machine's processor lacks what that of the images has: {}", .0.join(", "))]
    Lacks(Vec<String>),
}

/// Words in an image of the second form, and of the first.
const WORDS: usize = 19;
const WORDS_BEFORE: usize = 12;

// The words' places.
const LEAF_1_EDX: usize = 0;
const EXTENDED_1_EDX: usize = 1;
const OF_LINUX: usize = 3;
const LEAF_1_ECX: usize = 4;
const EXTENDED_1_ECX: usize = 6;
const LEAF_7_EBX: usize = 9;
const LEAF_13_EAX: usize = 10;
const LEAF_7_ECX: usize = 11;
const LEAF_15_SECOND_EDX: usize = 12;
const EXTENDED_8_EBX: usize = 13;
const LEAF_6_EAX: usize = 14;
const EXTENDED_10_EDX: usize = 15;
const LEAF_15_EDX: usize = 16;
const EXTENDED_7_EBX: usize = 17;
const LEAF_7_EDX: usize = 18;

/// Instructions that programs may use, by word and bit, as Linux calls them in /proc/cpuinfo.
const INSTRUCTIONS: &[(usize, &[(u32, &str)])] = &[
    (
        LEAF_1_EDX,
        &[
            (0, "fpu"),
            (4, "tsc"),
            (8, "cx8"),
            (11, "sep"),
            (15, "cmov"),
            (19, "clflush"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
        ],
    ),
    (
        LEAF_1_ECX,
        &[
            (0, "pni"),
            (1, "pclmulqdq"),
            (9, "ssse3"),
            (12, "fma"),
            (13, "cx16"),
            (19, "sse4_1"),
            (20, "sse4_2"),
            (22, "movbe"),
            (23, "popcnt"),
            (25, "aes"),
            (26, "xsave"),
            (27, "osxsave"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
        ],
    ),
    (
        EXTENDED_1_EDX,
        &[(11, "syscall"), (22, "mmxext"), (27, "rdtscp"), (30, "3dnowext"), (31, "3dnow")],
    ),
    (
        EXTENDED_1_ECX,
        &[
            (0, "lahf_lm"),
            (5, "abm"),
            (6, "sse4a"),
            (7, "misalignsse"),
            (8, "3dnowprefetch"),
            (11, "xop"),
            (16, "fma4"),
            (21, "tbm"),
            (29, "mwaitx"),
        ],
    ),
    (
        LEAF_7_EBX,
        &[
            (0, "fsgsbase"),
            (3, "bmi1"),
            (4, "hle"),
            (5, "avx2"),
            (8, "bmi2"),
            (11, "rtm"),
            (16, "avx512f"),
            (17, "avx512dq"),
            (18, "rdseed"),
            (19, "adx"),
            (21, "avx512ifma"),
            (23, "clflushopt"),
            (24, "clwb"),
            (28, "avx512cd"),
            (29, "sha_ni"),
            (30, "avx512bw"),
            (31, "avx512vl"),
        ],
    ),
    (LEAF_13_EAX, &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1")]),
    (
        LEAF_7_ECX,
        &[
            (1, "avx512vbmi"),
            (4, "ospke"),
            (5, "waitpkg"),
            (6, "avx512_vbmi2"),
            (8, "gfni"),
            (9, "vaes"),
            (10, "vpclmulqdq"),
            (11, "avx512_vnni"),
            (12, "avx512_bitalg"),
            (14, "avx512_vpopcntdq"),
            (22, "rdpid"),
            (25, "cldemote"),
            (27, "movdiri"),
            (28, "movdir64b"),
        ],
    ),
    (EXTENDED_8_EBX, &[(0, "clzero")]),
    (
        LEAF_7_EDX,
        &[
            (2, "avx512_4vnniw"),
            (3, "avx512_4fmaps"),
            (8, "avx512_vp2intersect"),
            (14, "serialize"),
            (16, "tsxldtrk"),
            (22, "amx_bf16"),
            (23, "avx512_fp16"),
            (24, "amx_tile"),
            (25, "amx_int8"),
        ],
    ),
];

/// The components that the mask in images has: x87, AVX, MPX, AVX-512 and the rights of protection keys. SSE is not among
/// them, as in those that CRIU writes: every 64-bit processor has it.
const COMPONENTS: u64 = 0x2fd;

/// A leaf of CPUID, with nothing in it where the processor has none of that number.
fn leaf(number: u32, part: u32) -> CpuidResult {
    const NOTHING: CpuidResult = CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    let largest = __cpuid(number & 0x8000_0000).eax;
    if number > largest { NOTHING } else { __cpuid_count(number, part) }
}

fn maker() -> Option<u32> {
    let said = __cpuid(0);
    let name = [said.ebx, said.edx, said.ecx].map(u32::to_ne_bytes);
    match name.as_flattened() {
        b"GenuineIntel" => Some(VENDOR_INTEL),
        b"AuthenticAMD" | b"HygonGenuine" => Some(VENDOR_AMD),
        _ => None,
    }
}

fn name() -> String {
    let leaves = [2, 3, 4].map(|number| leaf(0x8000_0000 + number, 0));
    let words = leaves.iter().flat_map(|it| [it.eax, it.ebx, it.ecx, it.edx]);
    let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).trim_start().to_string()
}

/// Family, model and stepping, by leaf 1.
fn signature(word: u32) -> (u32, u32, u32) {
    let family = match word >> 8 & 0xf {
        0xf => 0xf + (word >> 20 & 0xff),
        family => family,
    };
    let extension = if family >= 6 { word >> 16 & 0xf } else { 0 };
    (family, extension << 4 | word >> 4 & 0xf, word & 0xf)
}

fn words(maker: u32, family: u32) -> Vec<u32> {
    /// Bits of the word that is Linux's own: `rep` is fast, there are long no-operations, there is CPUID.
    const GOOD_REP: u32 = 1 << 16;
    const NOPL: u32 = 1 << 20;
    const CPUID: u32 = 1 << 25;
    /// Leaf 15: the use of the cache is counted, by which there is a second part.
    const COUNTED: u32 = 1 << 1;
    let mut words = vec![0; WORDS];
    let (first, seventh, extended) = (leaf(1, 0), leaf(7, 0), leaf(0x8000_0001, 0));
    (words[LEAF_1_EDX], words[LEAF_1_ECX]) = (first.edx, first.ecx);
    (words[LEAF_7_EBX], words[LEAF_7_ECX]) = (seventh.ebx, seventh.ecx);
    words[LEAF_7_EDX] = seventh.edx;
    (words[EXTENDED_1_EDX], words[EXTENDED_1_ECX]) = (extended.edx, extended.ecx);
    words[LEAF_6_EAX] = leaf(6, 0).eax;
    words[LEAF_13_EAX] = leaf(13, 1).eax;
    words[LEAF_15_EDX] = leaf(15, 0).edx;
    if words[LEAF_15_EDX] & COUNTED != 0 {
        words[LEAF_15_SECOND_EDX] = leaf(15, 1).edx;
    }
    words[EXTENDED_7_EBX] = leaf(0x8000_0007, 0).ebx;
    words[EXTENDED_8_EBX] = leaf(0x8000_0008, 0).ebx;
    words[EXTENDED_10_EDX] = leaf(0x8000_000a, 0).edx;
    words[OF_LINUX] = NOPL | CPUID;
    if maker == VENDOR_INTEL && family == 6 || maker == VENDOR_AMD && family >= 0x10 {
        words[OF_LINUX] |= GOOD_REP;
    }
    if maker == VENDOR_AMD {
        // Another meaning there.
        words[LEAF_1_EDX] &= !(1 << 31);
    }
    words
}

/// The processor that this runs on.
///
/// # Errors
/// [`Unfit::UnknownMaker`].
pub fn describe() -> Result<CpuinfoEntry, Unfit> {
    let vendor_id = maker().ok_or(Unfit::UnknownMaker)?;
    let (cpu_family, model, stepping) = signature(leaf(1, 0).eax);
    let state = leaf(13, 0);
    let entry = CpuinfoX86Entry {
        vendor_id,
        cpu_family,
        model,
        stepping,
        capability_ver: 2,
        capability: words(vendor_id, cpu_family),
        model_id: Some(name()).filter(|name| !name.is_empty()),
        xfeatures_mask: Some((u64::from(state.edx) << 32 | u64::from(state.eax)) & COMPONENTS),
        xsave_size: Some(state.ebx),
        xsave_size_max: Some(state.ecx),
    };
    Ok(CpuinfoEntry { x86_entry: vec![entry] })
}

/// Whether what ran on the processor of an image may go on by `own`.
///
/// # Errors
/// [`Unfit`], with all that is missing.
pub fn check(image: &CpuinfoEntry, own: &CpuinfoEntry, demands: Demands) -> Result<(), Unfit> {
    let (known, own) = (understood(image)?, understood(own)?);
    let mut lacking = Vec::new();
    let there = &known.capability;
    let here = &own.capability;
    if demands.state {
        // Older images say nothing of it.
        let (there, here) = (known.xfeatures_mask.unwrap_or(0), own.xfeatures_mask.unwrap_or(0));
        if there & !here != 0 {
            lacking.push(format!("components {:#x} of the extended state", there & !here));
        }
        let sizes = |it: &CpuinfoX86Entry| (it.xsave_size, it.xsave_size_max);
        if known.xsave_size.is_some() && sizes(known) != sizes(own) {
            lacking.push(format!(
                "areas of {} bytes for the extended state, {} at most (here {} and {})",
                known.xsave_size(),
                known.xsave_size_max(),
                own.xsave_size(),
                own.xsave_size_max(),
            ));
        }
    }
    if demands.instructions {
        let names = INSTRUCTIONS.iter().flat_map(|&(word, bits)| {
            let missing = there.get(word).unwrap_or(&0) & !here.get(word).unwrap_or(&0);
            bits.iter().filter(move |(bit, _)| missing & 1 << bit != 0).map(|(_, name)| *name)
        });
        let names: Vec<&str> = names.collect();
        if !names.is_empty() {
            lacking.push(format!("instructions: {}", names.join(" ")));
        }
    }
    if demands.everything {
        let differ = there.iter().zip(here).position(|(there, here)| there != here);
        if let Some(word) = differ {
            let (there, here) = (there[word], here[word]);
            lacking.push(format!("word {word} of its features, {there:#010x} (here {here:#010x})"));
        }
    }
    if lacking.is_empty() { Ok(()) } else { Err(Unfit::Lacks(lacking)) }
}

fn understood(entry: &CpuinfoEntry) -> Result<&CpuinfoX86Entry, Unfit> {
    let [only] = &entry.x86_entry[..] else {
        return Err(Unfit::NotUnderstood("it has not one entry of x86"));
    };
    if !matches!(only.vendor_id, VENDOR_INTEL | VENDOR_AMD) {
        return Err(Unfit::NotUnderstood("its maker is not known"));
    }
    match (only.capability_ver, only.capability.len()) {
        (1, WORDS_BEFORE) | (2, WORDS) => Ok(only),
        _ => Err(Unfit::NotUnderstood("its features have another form")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Demands = Demands { state: true, instructions: true, everything: true };

    fn lacking(image: &CpuinfoEntry, own: &CpuinfoEntry, demands: Demands) -> String {
        check(image, own, demands).unwrap_err().to_string()
    }

    #[test]
    fn this_processor_does_for_itself() {
        let own = describe().unwrap();
        assert_eq!(check(&own, &own, ALL), Ok(()));
        let entry = &own.x86_entry[0];
        assert!(entry.cpu_family >= 6 && entry.xsave_size() >= 576, "{entry:?}");
        // Every 64-bit one has these.
        assert!(entry.capability[LEAF_1_EDX] & 1 << 26 != 0, "{entry:?}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let own = describe().unwrap();
        let mut more = own.clone();
        let entry = &mut more.x86_entry[0];
        entry.capability[LEAF_7_EDX] |= 1 << 8 | 1 << 3;
        entry.capability[LEAF_6_EAX] ^= 1;
        entry.xfeatures_mask = Some(COMPONENTS | 1 << 9);
        entry.xsave_size_max = Some(99);
        let by = |demands| check(&more, &own, demands);
        assert_eq!(by(Demands::default()), Ok(()));
        let instructions = Demands { instructions: true, ..Demands::default() };
        if own.x86_entry[0].capability[LEAF_7_EDX] & 1 << 3 == 0 {
            assert!(lacking(&more, &own, instructions).contains("avx512_4fmaps"));
        }
        // What runs on a lesser one runs on a greater one, but it is not the same.
        assert_eq!(check(&own, &more, instructions), Ok(()));
        let everything = Demands { everything: true, ..Demands::default() };
        assert!(lacking(&own, &more, everything).contains("word 14"));
        let state = Demands { state: true, ..Demands::default() };
        assert!(lacking(&more, &own, state).contains("99 at most"));
    }

    #[test]
    fn images_that_make_no_sense() {
        let own = describe().unwrap();
        let not = |change: fn(&mut CpuinfoX86Entry)| {
            let mut image = own.clone();
            change(&mut image.x86_entry[0]);
            assert!(matches!(check(&image, &own, ALL), Err(Unfit::NotUnderstood(_))), "{image:?}");
        };
        not(|entry| entry.vendor_id = 0);
        not(|entry| entry.capability.truncate(3));
        not(|entry| entry.capability_ver = 3);
        let nothing = CpuinfoEntry::default();
        assert!(matches!(check(&nothing, &own, ALL), Err(Unfit::NotUnderstood(_))));
        let mut older = own.clone();
        older.x86_entry[0].capability_ver = 1;
        older.x86_entry[0].capability.truncate(WORDS_BEFORE);
        assert_eq!(check(&older, &own, ALL), Ok(()));
    }

    #[test]
    fn signatures() {
        // Sapphire Rapids, Zen 3, and one of family 5.
        assert_eq!(signature(0x806f8), (6, 0x8f, 8));
        assert_eq!(signature(0xa2_0f10), (0x19, 0x21, 0));
        assert_eq!(signature(0x1_0543), (5, 4, 3));
    }
}
