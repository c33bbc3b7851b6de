//! Maps and programs, brought into the kernel.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::{BPF_TCX_INGRESS, bpf, command, number};

// include/uapi/linux/bpf.h
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_MAP_FREEZE: libc::c_int = 22;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_TRACE_RAW_TP: u32 = 23;
const BPF_TRACE_ITER: u32 = 28;

/// Names of objects are at most this long, with a zero byte.
const NAME_BYTES: usize = 16;

/// A map that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec<'a> {
    /// Its name; the kernel keeps the first 15 bytes.
    pub name: &'a str,
    /// One of `BPF_MAP_TYPE_*`.
    pub kind: u32,
    /// Bytes of a key.
    pub key_bytes: u32,
    /// Bytes of a value.
    pub value_bytes: u32,
    /// Entries that there is room for.
    pub entries: u32,
    /// `BPF_F_*` flags.
    pub flags: u32,
}

/// When the kernel calls a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// By a read of an iterator.
    Iterator,
    /// At a tracepoint.
    Tracepoint,
    /// For packets that a network device has received ([`super::traffic_link`]).
    Received,
}

/// A program that is to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct ProgramSpec<'a> {
    /// Its name; the kernel keeps the first 15 bytes.
    pub name: &'a str,
    /// When it is called.
    pub called: Called,
    /// Number of what it is called by, in the kernel's type information; 0 for one that sees packets.
    pub target: u32,
    /// Its code, each instruction in one word.
    pub instructions: &'a [u64],
    /// Its licence.
    pub license: &'a CStr,
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; NAME_BYTES],
    padding: u32,
}

#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct MapFreeze {
    map_fd: u32,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_BYTES],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_btf_obj_fd: u32,
    padding: u32,
}

fn name(text: &str) -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    for (slot, byte) in name[..NAME_BYTES - 1].iter_mut().zip(text.bytes()) {
        *slot = if byte.is_ascii_alphanumeric() || byte == b'.' { byte } else { b'_' };
    }
    name
}

/// Makes a map.
///
/// # Errors
/// `EPERM` without the right to use BPF, `ENOMEM` without memory for it.
pub fn map_create(spec: &MapSpec<'_>) -> Result<OwnedFd, Errno> {
    let attributes = MapCreate {
        map_type: spec.kind,
        key_size: spec.key_bytes,
        value_size: spec.value_bytes,
        max_entries: spec.entries,
        map_flags: spec.flags,
        inner_map_fd: 0,
        numa_node: 0,
        map_name: name(spec.name),
        padding: 0,
    };
    bpf(BPF_MAP_CREATE, &attributes)
}

/// Makes an array map of one value, `value`, and lets nobody write to it from user space any more: the
/// verifier then knows what it holds.
///
/// # Errors
/// As [`map_create`], and `EINVAL` if the value is not as long as the map's are.
pub fn map_constant(spec: &MapSpec<'_>, value: &[u8]) -> Result<OwnedFd, Errno> {
    // The kernel reads as much as it was told there is.
    if usize::try_from(spec.value_bytes) != Ok(value.len()) {
        return Err(Errno::EINVAL);
    }
    let made = map_create(spec)?;
    let map = made.as_fd();
    let key = 0_u32;
    let attributes = MapUpdate {
        map_fd: number(map),
        padding: 0,
        key: std::ptr::from_ref(&key) as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    command(BPF_MAP_UPDATE_ELEM, &attributes)?;
    map_freeze(map)?;
    Ok(made)
}

/// An array map, or one of sockets by small numbers, whose values user space sets.
#[derive(Debug)]
pub struct ArrayMap {
    map: OwnedFd,
    value_bytes: usize,
}

impl ArrayMap {
    /// Makes it.
    ///
    /// # Errors
    /// As [`map_create`].
    pub fn new(spec: &MapSpec<'_>) -> Result<Self, Errno> {
        let value_bytes = usize::try_from(spec.value_bytes).map_err(|_| Errno::EINVAL)?;
        let spec = MapSpec { key_bytes: size_of::<u32>() as u32, ..*spec };
        Ok(Self { map: map_create(&spec)?, value_bytes })
    }

    /// Sets one of its values: of a map of sockets the number of a descriptor.
    ///
    /// # Errors
    /// `EINVAL` if it is not as long as the map's are, `E2BIG` for a number that there is not; others where a socket
    /// cannot be in such a map.
    pub fn set(&self, key: u32, value: &[u8]) -> Result<(), Errno> {
        // The kernel reads as much as it was told there is.
        if value.len() != self.value_bytes {
            return Err(Errno::EINVAL);
        }
        let attributes = MapUpdate {
            map_fd: number(self.map.as_fd()),
            padding: 0,
            key: std::ptr::from_ref(&key) as u64,
            value: value.as_ptr() as u64,
            flags: 0,
        };
        command(BPF_MAP_UPDATE_ELEM, &attributes).map(drop)
    }
}

impl AsFd for ArrayMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// Lets nobody write to a map from user space any more.
///
/// # Errors
/// If somebody has it mapped to be written, or it is frozen already.
pub fn map_freeze(map: BorrowedFd<'_>) -> Result<(), Errno> {
    command(BPF_MAP_FREEZE, &MapFreeze { map_fd: number(map) }).map(drop)
}

/// Loads a program. When the verifier refuses it, what it says of that is put into `log`, as far as
/// there is room.
///
/// # Errors
/// `EPERM` without the right to use BPF; others if the verifier refuses the program.
pub fn program_load(spec: &ProgramSpec<'_>, log: &mut [u8]) -> Result<OwnedFd, Errno> {
    /// A signal breaks the verifier off.
    const TRIES: u32 = 8;
    let mut attributes = ProgLoad {
        prog_type: match spec.called {
            Called::Iterator | Called::Tracepoint => BPF_PROG_TYPE_TRACING,
            Called::Received => BPF_PROG_TYPE_SCHED_CLS,
        },
        insn_cnt: u32::try_from(spec.instructions.len()).map_err(|_| Errno::E2BIG)?,
        insns: spec.instructions.as_ptr() as u64,
        license: spec.license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: name(spec.name),
        prog_ifindex: 0,
        expected_attach_type: match spec.called {
            Called::Iterator => BPF_TRACE_ITER,
            Called::Tracepoint => BPF_TRACE_RAW_TP,
            Called::Received => BPF_TCX_INGRESS,
        },
        prog_btf_fd: 0,
        func_info_rec_size: 0,
        func_info: 0,
        func_info_cnt: 0,
        line_info_rec_size: 0,
        line_info: 0,
        line_info_cnt: 0,
        attach_btf_id: spec.target,
        attach_btf_obj_fd: 0,
        padding: 0,
    };
    let mut loaded = bpf(BPF_PROG_LOAD, &attributes);
    for _ in 0..TRIES {
        if loaded.as_ref().err() != Some(&Errno::EAGAIN) {
            break;
        }
        loaded = bpf(BPF_PROG_LOAD, &attributes);
    }
    let Err(errno) = loaded else { return loaded };
    if !log.is_empty() && errno != Errno::EPERM {
        attributes.log_level = 1;
        attributes.log_size = u32::try_from(log.len()).unwrap_or(u32::MAX >> 2);
        attributes.log_buf = log.as_mut_ptr() as u64;
        // Refused again, with its reasons this time; if it is not, so much the better.
        return bpf(BPF_PROG_LOAD, &attributes).map_err(|_| errno);
    }
    Err(errno)
}
