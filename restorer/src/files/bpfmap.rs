//! BPF maps: made anew, filled, and frozen if they were.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use images::checkpoint::PayloadReader;
use images::messages::{BpfmapFileEntry, FileEntry, fd_type};
use images::{Checkpoint, names};
use kernel::bpfmap::{Elements, Info, make, open_to_read};
use support::Refusal;
use support::bpfmap::{LARGEST, LARGEST_TOGETHER, OF_ROOT, TOO_LARGE_TOGETHER, of_map, room};

use super::Error;
use super::beside::{Beside, Part};
use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::opening::{Opening, flagged};
use super::user::User;

/// An open BPF map.
#[derive(Debug)]
pub(super) struct BpfMap;

/// What is in maps, by the numbers that they had.
#[derive(Debug, Default)]
struct InMaps(BTreeMap<u32, Elements>);

impl Part for InMaps {}

impl FileKind for BpfMap {
    fn r#type(&self) -> u32 {
        fd_type::BPFMAP
    }

    fn load(&self, checkpoint: &Checkpoint, beside: &mut Beside) -> Result<(), Error> {
        let maps = &checkpoint.maps;
        if maps.is_empty() {
            return Ok(());
        }
        let mut reader = PayloadReader::open(&checkpoint.images, &names::bpfmap_data())?;
        let mut together = 0;
        for map in maps {
            let entry = &map.entry;
            let wrong = |reason| {
                let what = format!("map {} of {}", entry.map_id, names::bpfmap_data().name());
                Err(Error::image(what, reason))
            };
            together += map.payload.size.min(LARGEST + 1);
            if map.payload.size > LARGEST || together > LARGEST_TOGETHER {
                return wrong("there is more in it than is carried");
            }
            if beside.of::<InMaps>().0.contains_key(&entry.map_id) {
                return wrong("it is there twice");
            }
            let mut keys = reader.read(map.payload)?;
            let values = keys.split_off((entry.keys_bytes as usize).min(keys.len()));
            let elements = Elements { count: entry.count, keys, values };
            beside.of::<InMaps>().0.insert(entry.map_id, elements);
        }
        Ok(())
    }

    fn check(&self, file: &FileEntry, _images: &FileImages) -> Result<(), Error> {
        let entry = entry(file)?;
        let bytes = room_of(entry);
        let made_otherwise = entry.ifindex != 0 || entry.map_extra.is_some_and(|extra| extra != 0);
        if let Some(refusal) = of_map(entry.map_type, entry.map_flags, bytes, made_otherwise) {
            return Err(Error::refused(entry.id, refusal, object(entry)));
        }
        let is_written = entry.flags.cast_signed() & libc::O_ACCMODE == libc::O_WRONLY;
        let is_name = entry.map_name.len() < 16
            && entry
                .map_name
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(byte));
        if is_name && !is_written {
            return Ok(());
        }
        Err(Error::image(object(entry), "its name or its flags can be none"))
    }

    fn beyond(&self, file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        Some((OF_ROOT, object(file.bpf.as_deref()?)))
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        let (mut seen, mut together) = (BTreeSet::new(), 0_u64);
        for file in files {
            let entry = entry(file)?;
            if seen.insert(entry.map_id) {
                together = together.saturating_add(room_of(entry).unwrap_or(u64::MAX));
            }
            if together > LARGEST_TOGETHER {
                return Err(Error::refused(entry.id, TOO_LARGE_TOGETHER, object(entry)));
            }
        }
        let mut made: BTreeMap<u32, OwnedFd> = BTreeMap::new();
        for file in files {
            let entry = entry(file)?;
            let failed =
                |source| Error::Kernel { operation: format!("make {}", object(entry)), source };
            let elements = opening.beside.of::<InMaps>().0.get(&entry.map_id);
            let elements = elements.ok_or_else(|| {
                Error::image(object(entry), "bpfmap-data.img does not say what is in it")
            })?;
            let map = match made.get(&entry.map_id) {
                Some(map) => map,
                None => {
                    let map = make(&like(entry), elements, entry.frozen).map_err(failed)?;
                    made.entry(entry.map_id).or_insert(map)
                }
            };
            let fd = match entry.flags.cast_signed() & libc::O_ACCMODE {
                libc::O_RDONLY => open_to_read(map),
                _ => map.try_clone(),
            };
            opening.add(entry.id, flagged(fd.map_err(failed)?, entry.flags, &object(entry))?)?;
        }
        Ok(())
    }
}

fn entry(file: &FileEntry) -> Result<&BpfmapFileEntry, Error> {
    file.bpf.as_deref().ok_or_else(|| missing(file))
}

fn room_of(entry: &BpfmapFileEntry) -> Option<u64> {
    room(entry.key_size, entry.value_size, entry.max_entries)
}

fn object(entry: &BpfmapFileEntry) -> String {
    format!("BPF map {} ({})", entry.map_id, String::from_utf8_lossy(&entry.map_name))
}

fn like(entry: &BpfmapFileEntry) -> Info {
    Info {
        kind: entry.map_type,
        key: entry.key_size,
        value: entry.value_size,
        most: entry.max_entries,
        flags: entry.map_flags,
        name: entry.map_name.clone(),
        ..Info::default()
    }
}
