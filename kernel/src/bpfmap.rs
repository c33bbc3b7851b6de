//! BPF maps that a program has open: what they are, what is in them, and making them again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::bpf::{MapSpec, map_create, map_freeze};

// include/uapi/linux/bpf.h
const MAP_GET_FD_BY_ID: libc::c_int = 14;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const MAP_UPDATE_BATCH: libc::c_int = 26;
const READ_ONLY: u32 = 1 << 3;

/// `BPF_MAP_TYPE_HASH`.
pub const HASH: u32 = 1;
/// `BPF_MAP_TYPE_ARRAY`.
pub const ARRAY: u32 = 2;

/// What a map is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// `BPF_MAP_TYPE_*`.
    pub kind: u32,
    /// Its number on this machine.
    pub id: u32,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Most elements.
    pub most: u32,
    /// `BPF_F_*` that it was made with.
    pub flags: u32,
    /// Its name.
    pub name: Vec<u8>,
    /// A network device that has it, else 0.
    pub interface: u32,
    /// It was made with types of keys or values (BTF).
    pub has_types: bool,
    /// What else it was made with, as its kind has it.
    pub extra: u64,
}

/// What is in a map: the keys, and the values in the order of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements {
    /// How many.
    pub count: u32,
    /// Keys.
    pub keys: Vec<u8>,
    /// Values.
    pub values: Vec<u8>,
}

/// `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    kind: u32,
    id: u32,
    key: u32,
    value: u32,
    most: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    kernel_value_type: u32,
    network_device: u64,
    network_inode: u64,
    types: u32,
    key_type: u32,
    value_type: u32,
    kernel_types: u32,
    extra: u64,
}

#[repr(C)]
struct GetInfo {
    fd: i32,
    bytes: u32,
    info: u64,
}

#[repr(C)]
struct Batch {
    from: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    fd: i32,
    element_flags: u64,
    flags: u64,
}

/// Calls `bpf`.
///
/// # Safety
/// The kernel may write to the attributes, and where these say.
unsafe fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: as the caller promises; the size is that of the attributes.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}

fn opened(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just opened it, for us alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// What a map is.
///
/// # Errors
/// If it is none.
pub fn info(map: impl AsFd) -> io::Result<Info> {
    let mut raw = RawInfo::default();
    let mut get = GetInfo {
        fd: map.as_fd().as_raw_fd(),
        bytes: size_of::<RawInfo>() as u32,
        info: &raw mut raw as u64,
    };
    // SAFETY: the kernel writes to the information, as many bytes as it is told that there are.
    unsafe { call(OBJ_GET_INFO_BY_FD, &mut get)? };
    let RawInfo { kind, id, key, value, most, flags, interface, extra, .. } = raw;
    let end = raw.name.iter().position(|byte| *byte == 0).unwrap_or(raw.name.len());
    let has_types = raw.types != 0 || raw.kernel_value_type != 0;
    let name = raw.name[..end].to_vec();
    Ok(Info { kind, id, key, value, most, flags, name, interface, has_types, extra })
}

/// Whether user space may not change a map any more, and the bytes that are charged for it.
///
/// # Errors
/// If the kernel does not tell.
pub fn state(map: impl AsFd) -> io::Result<(bool, u64)> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()))?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    let found = value("frozen:").zip(value("memlock:"));
    found
        .map(|(frozen, bytes)| (frozen != 0, bytes))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// All that is in a map of one of the kinds that have a name here. It must stand still.
///
/// # Errors
/// If it may not be read, or there is no memory.
pub fn elements(map: impl AsFd, info: &Info) -> io::Result<Elements> {
    let bytes = |one: u32| {
        let bytes = (one as usize).checked_mul(info.most as usize);
        bytes.ok_or(io::ErrorKind::OutOfMemory)
    };
    let (mut keys, mut values) = (vec![0; bytes(info.key)?], vec![0; bytes(info.value)?]);
    // Where it goes on is as long as a key, or a number.
    let mut places = [vec![0_u8; info.key.max(8) as usize], vec![0; info.key.max(8) as usize]];
    let mut count = 0;
    while count < info.most {
        let [from, next] = &mut places;
        let mut batch = Batch {
            from: if count == 0 { 0 } else { from.as_ptr() as u64 },
            next: next.as_mut_ptr() as u64,
            keys: keys[count as usize * info.key as usize..].as_mut_ptr() as u64,
            values: values[count as usize * info.value as usize..].as_mut_ptr() as u64,
            count: info.most - count,
            fd: map.as_fd().as_raw_fd(),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: there is room for so many keys and values behind those that have been read.
        let done = unsafe { call(MAP_LOOKUP_BATCH, &mut batch) };
        let is_end = done.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT));
        if !is_end {
            done?;
        }
        count = count.saturating_add(batch.count).min(info.most);
        if is_end || batch.count == 0 {
            break;
        }
        places.swap(0, 1);
    }
    keys.truncate(count as usize * info.key as usize);
    values.truncate(count as usize * info.value as usize);
    Ok(Elements { count, keys, values })
}

/// Whether this machine has more than one NUMA node (Documentation/ABI/stable/sysfs-devices-node).
#[must_use]
pub fn has_several_nodes() -> bool {
    // A kernel without NUMA has no such file.
    std::fs::read_to_string("/sys/devices/system/node/possible")
        .is_ok_and(|text| text.trim() != "0")
}

/// Makes a map like another, of which nothing is extra, with what was in it. What it returns can be read and written.
///
/// # Errors
/// If the kernel has none such, the rights or the memory are missing, or the lengths are not those of so many elements.
pub fn make(like: &Info, elements: &Elements, is_frozen: bool) -> io::Result<OwnedFd> {
    let &Info { kind, key, value, most, flags, .. } = like;
    let Elements { count, keys, values } = elements;
    let is_long =
        |bytes: &[u8], one: u32| (*count as usize).checked_mul(one as usize) == Some(bytes.len());
    if !is_long(keys, key) || !is_long(values, value) || *count > most {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let name = std::str::from_utf8(&like.name).ok().filter(|name| name.len() < 16);
    let name = name.ok_or(io::ErrorKind::InvalidInput)?;
    let spec = MapSpec { name, kind, key_bytes: key, value_bytes: value, entries: most, flags };
    let map = map_create(&spec)?;
    if *count > 0 {
        let mut batch = Batch {
            from: 0,
            next: 0,
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: *count,
            fd: map.as_raw_fd(),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads so many keys and values, which are there.
        unsafe { call(MAP_UPDATE_BATCH, &mut batch)? };
        if batch.count != *count {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    if is_frozen {
        map_freeze(map.as_fd())?;
    }
    Ok(map)
}

/// Opens a map once more, to be read only.
///
/// # Errors
/// Without the right to (`CAP_SYS_ADMIN`).
pub fn open_to_read(map: impl AsFd) -> io::Result<OwnedFd> {
    let mut attributes = [info(map)?.id, 0, READ_ONLY];
    // SAFETY: the kernel reads three numbers.
    unsafe { call(MAP_GET_FD_BY_ID, &mut attributes) }.map(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: u32, most: u32) -> Info {
        Info { kind, key: 4, value: 12, most, name: b"a.name_1".to_vec(), ..Info::default() }
    }

    /// Needs root.
    #[test]
    fn what_is_in_a_map_is_read_and_made_again() {
        for (kind, count) in [(HASH, 0_u32), (HASH, 100), (ARRAY, 1000)] {
            let keys: Vec<u8> = (0..count).flat_map(u32::to_ne_bytes).collect();
            let values: Vec<u8> = (0..count * 3).flat_map(u32::to_ne_bytes).collect();
            let elements = Elements { count, keys, values };
            let map = make(&of(kind, 1000), &elements, true).unwrap();
            let told = info(&map).unwrap();
            assert_eq!(told, Info { id: told.id, ..of(kind, 1000) });
            assert!(state(&map).unwrap().0);
            let read = super::elements(&map, &told).unwrap();
            let sorted = |elements: &Elements| {
                let pairs = elements.keys.chunks(4).zip(elements.values.chunks(12));
                let mut pairs: Vec<_> =
                    pairs.map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
                pairs.sort();
                pairs
            };
            assert_eq!((read.count, sorted(&read)), (count, sorted(&elements)));
            let again = open_to_read(&map).unwrap();
            assert_eq!(info(&again).unwrap().id, told.id);
        }
        let short = Elements { count: 2, keys: vec![0; 4], values: vec![0; 12] };
        assert!(make(&of(HASH, 10), &short, false).is_err());
    }
}
