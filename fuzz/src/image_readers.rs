//! One image in memory, read as each kind there is. What can be read is written and read again: the same must come
//! out.

use images::messages::{GhostChunkEntry, PagemapEntry};
use images::{Image, ImageReader, encode, names};
use prost::Message;

use crate::used;

/// Reads `input`, after its first byte, as the kind of image that this byte chooses.
pub fn image_readers(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 29 {
        0 => plain(&names::inventory(), bytes),
        1 => plain(&names::pstree(), bytes),
        2 => plain(&names::core(1), bytes),
        3 => plain(&names::ids(1), bytes),
        4 => plain(&names::mm(1), bytes),
        5 => plain(&names::fs(1), bytes),
        6 => plain(&names::files(), bytes),
        7 => plain(&names::fdinfo(1), bytes),
        28 => payloads(&names::bpfmap_data(), bytes, |entry| {
            u64::from(entry.keys_bytes) + u64::from(entry.values_bytes)
        }),
        8 => payloads(&names::pipes_data(), bytes, |entry| entry.bytes.into()),
        9 => payloads(&names::fifo_data(), bytes, |entry| entry.bytes.into()),
        10 => payloads(&names::sk_queues(), bytes, |entry| entry.length.into()),
        11 => payloads(&names::tcp_stream(1), bytes, |entry| {
            u64::from(entry.inq_len) + u64::from(entry.outq_len)
        }),
        12 => plain(&names::remap_fpath(), bytes),
        13 => headed::<_, GhostChunkEntry>(&names::ghost_file(1), bytes, |chunk| chunk.len),
        14 => headed::<_, PagemapEntry>(&names::pagemap(1), bytes, |_| 0),
        15 => plain(&names::memfd(), bytes),
        16 => plain(&names::file_locks(), bytes),
        17 => plain(&names::tty_info(), bytes),
        18 => plain(&names::tty_data(), bytes),
        19 => plain(&names::seccomp(), bytes),
        20 => plain(&names::cgroup(), bytes),
        21 => plain(&names::timens(0), bytes),
        22 => plain(&names::utsns(1), bytes),
        23 => plain(&names::ipcns_var(1), bytes),
        24 => plain(&names::userns(1), bytes),
        25 => plain(&names::pidns(1), bytes),
        26 => plain(&names::mountpoints(1), bytes),
        _ => plain(&names::stats_dump(), bytes),
    }
}

/// The input as an image of the right kind, so that no time is spent on guessing how images begin.
fn reader<'i, M: Message + Default>(
    image: &Image<M>,
    entries: &'i [u8],
) -> ImageReader<impl std::io::Read + 'i, M> {
    let head = encode(image, []);
    let size = (head.len() + entries.len()) as u64;
    let input = std::io::Read::chain(std::io::Cursor::new(head), entries);
    ImageReader::new(image, input, size, true).expect("its own head")
}

fn plain<M: Message + Default + PartialEq>(image: &Image<M>, bytes: &[u8]) {
    let Ok(entries) = reader(image, bytes).entries() else { return };
    // An entry of which no field is known is written as nothing, and nothing is not read as an entry.
    if entries.iter().any(|entry| entry.encoded_len() == 0) {
        return;
    }
    let written = encode(image, &entries);
    let head = encode::<M>(image, []).len();
    let again = reader(image, &written[head..]).entries().expect("what was written");
    assert!(entries == again);
}

fn payloads<M: Message + Default>(image: &Image<M>, bytes: &[u8], size: impl Fn(&M) -> u64) {
    let mut reader = reader(image, bytes);
    while let Ok(Some(entry)) = reader.next_entry() {
        if reader.bytes(size(&entry)).is_err() {
            return;
        }
    }
}

fn headed<M: Message + Default, N: Message + Default>(
    image: &Image<M>,
    bytes: &[u8],
    size: impl Fn(&N) -> u64,
) {
    let mut reader = reader(image, bytes);
    used(reader.next_entry());
    while let Ok(Some(entry)) = reader.next_as::<N>() {
        if reader.copy(size(&entry), &mut std::io::sink()).is_err() {
            return;
        }
    }
}
