//! What a processor can do.

use prost::Message;

/// [`CpuinfoX86Entry::vendor_id`]: GenuineIntel.
pub const VENDOR_INTEL: u32 = 1;
/// [`CpuinfoX86Entry::vendor_id`]: AuthenticAMD, and HygonGenuine.
pub const VENDOR_AMD: u32 = 2;

/// The only entry of `cpuinfo.img`. Those of other processors are not decoded.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CpuinfoEntry {
    /// Processors of x86, of which there is one.
    #[prost(message, repeated, tag = "1")]
    pub x86_entry: Vec<CpuinfoX86Entry>,
}

/// A processor of x86.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CpuinfoX86Entry {
    /// Who makes it.
    #[prost(uint32, required, tag = "1")]
    pub vendor_id: u32,
    /// CPUID leaf 1: family, with its extension.
    #[prost(uint32, required, tag = "2")]
    pub cpu_family: u32,
    /// CPUID leaf 1: model, with its extension.
    #[prost(uint32, required, tag = "3")]
    pub model: u32,
    /// CPUID leaf 1: stepping.
    #[prost(uint32, required, tag = "4")]
    pub stepping: u32,
    /// 1 for 12 words of `capability`, 2 for 19.
    #[prost(uint32, required, tag = "5")]
    pub capability_ver: u32,
    /// Words of CPUID, in the order in which Linux keeps them.
    #[prost(uint32, repeated, packed = "false", tag = "6")]
    pub capability: Vec<u32>,
    /// What the maker calls it.
    #[prost(string, optional, tag = "7")]
    pub model_id: Option<String>,
    /// Components of the extended state that programs may use, as a mask.
    #[prost(uint64, optional, tag = "8")]
    pub xfeatures_mask: Option<u64>,
    /// Bytes of an area for those that the kernel has enabled.
    #[prost(uint32, optional, tag = "9")]
    pub xsave_size: Option<u32>,
    /// Bytes of an area for all that the processor has.
    #[prost(uint32, optional, tag = "10")]
    pub xsave_size_max: Option<u32>,
}
