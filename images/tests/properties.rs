//! What holds for any message, any payload and any page map.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use proptest::prelude::*;
use prost::Message;
use stasis_images::messages::{
    CoreEntry, FileEntry, MmEntry, PagemapEntry, PagemapHead, PipeDataEntry, RegFileEntry,
    SkOptsEntry, ThreadCoreEntry, TtyInfoEntry, UnixSkEntry, UserX86XsaveEntry, VmaEntry, fd_type,
    page_flags,
};
use stasis_images::{
    ImageReader, ImageWriter, Images, PAGE_SIZE, RunPlace, WriteOptions, encode, messages, names,
};

fn vma() -> impl Strategy<Value = VmaEntry> {
    (any::<[u64; 4]>(), any::<[u32; 3]>(), any::<i64>(), any::<Option<u64>>(), any::<Option<u32>>())
        .prop_map(|(wide, narrow, fd, madv, fdflags)| VmaEntry {
            start: wide[0],
            end: wide[1],
            pgoff: wide[2],
            shmid: wide[3],
            prot: narrow[0],
            flags: narrow[1],
            status: narrow[2],
            fd,
            madv,
            fdflags,
            ..VmaEntry::default()
        })
}

fn regular() -> impl Strategy<Value = RegFileEntry> {
    (any::<u32>(), any::<u64>(), any::<Vec<u8>>(), any::<Option<i32>>(), any::<Vec<u32>>())
        .prop_map(|(id, pos, name, mnt_id, build_id)| RegFileEntry {
            id,
            pos,
            name,
            mnt_id,
            build_id,
            ..Default::default()
        })
}

fn socket() -> impl Strategy<Value = UnixSkEntry> {
    (any::<[u32; 4]>(), any::<Vec<u8>>(), any::<Option<bool>>(), any::<Vec<u64>>()).prop_map(
        |(numbers, name, deleted, so_filter)| UnixSkEntry {
            id: numbers[0],
            ino: numbers[1],
            state: numbers[2],
            peer: numbers[3],
            name,
            deleted,
            opts: SkOptsEntry { so_filter, ..Default::default() },
            ..Default::default()
        },
    )
}

fn file() -> impl Strategy<Value = FileEntry> {
    let regular = regular().prop_map(|reg| FileEntry {
        r#type: fd_type::REG,
        id: reg.id,
        reg: Some(reg),
        ..Default::default()
    });
    let socket = socket().prop_map(|usk| FileEntry {
        r#type: fd_type::UNIXSK,
        id: usk.id,
        usk: Some(Box::new(usk)),
        ..Default::default()
    });
    prop_oneof![regular, socket]
}

fn core() -> impl Strategy<Value = CoreEntry> {
    let words = prop::collection::vec(any::<u64>(), 0..130);
    (words, prop::option::of(any::<i32>()), any::<Option<Vec<u8>>>()).prop_map(
        |(hi16_zmm, sched_nice, comm)| {
            let mut thread_info = messages::ThreadInfoX86::default();
            thread_info.fpregs.xsave = Some(UserX86XsaveEntry { hi16_zmm, ..Default::default() });
            CoreEntry {
                mtype: messages::MARCH_X86_64,
                thread_info: Some(thread_info),
                thread_core: Some(ThreadCoreEntry { sched_nice, comm, ..Default::default() }),
                ..Default::default()
            }
        },
    )
}

fn reader<'i, M: Message + Default>(
    image: &stasis_images::Image<M>,
    bytes: &'i [u8],
) -> ImageReader<&'i [u8], M> {
    ImageReader::new(image, bytes, bytes.len() as u64, true).unwrap()
}

/// A run that follows the one before it after a gap: gap and length in pages, and flags.
fn runs() -> impl Strategy<Value = Vec<(u64, u64, u32)>> {
    prop::collection::vec((0_u64..50, 1_u64..20, 0_u32..8), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_are_read_as_they_were_written(
        vmas in prop::collection::vec(vma(), 0..20),
        files in prop::collection::vec(file(), 0..10),
        core in core(),
    ) {
        let mm = MmEntry { vmas, ..Default::default() };
        let image = names::mm(1);
        prop_assert_eq!(&reader(&image, &encode(&image, [&mm])).only().unwrap(), &mm);
        let image = names::files();
        prop_assert_eq!(reader(&image, &encode(&image, &files)).entries().unwrap(), files);
        let image = names::core(1);
        prop_assert_eq!(reader(&image, &encode(&image, [&core])).only().unwrap(), core);
    }

    /// Whatever bytes a message can be read from, writing and reading it again changes nothing more.
    #[test]
    fn reading_settles_after_one_round(bytes in any::<Vec<u8>>()) {
        fn settles<M: Message + Default + PartialEq>(bytes: &[u8]) -> bool {
            let Ok(first) = M::decode(bytes) else { return true };
            M::decode(first.encode_to_vec().as_slice()).unwrap() == first
        }
        prop_assert!(settles::<CoreEntry>(&bytes));
        prop_assert!(settles::<FileEntry>(&bytes));
        prop_assert!(settles::<MmEntry>(&bytes));
        prop_assert!(settles::<TtyInfoEntry>(&bytes));
        prop_assert!(settles::<messages::InventoryEntry>(&bytes));
        prop_assert!(settles::<messages::CgroupEntry>(&bytes));
    }

    #[test]
    fn payloads_come_back(payloads in prop::collection::vec(any::<Vec<u8>>(), 0..10)) {
        let image = names::pipes_data();
        let mut bytes = encode(&image, []);
        for (pipe_id, payload) in (0..).zip(&payloads) {
            let entry = PipeDataEntry { pipe_id, bytes: u32::try_from(payload.len()).unwrap(), ..PipeDataEntry::default() };
            bytes.extend_from_slice(&encode(&image, [&entry])[8..]);
            bytes.extend_from_slice(payload);
        }
        let mut reader = reader(&image, &bytes);
        for payload in &payloads {
            let entry = reader.next_entry().unwrap().unwrap();
            prop_assert_eq!(&reader.bytes(entry.bytes.into()).unwrap(), payload);
        }
        prop_assert!(reader.next_entry().unwrap().is_none());
    }

    /// Cut anywhere, an image gives its first messages and then an error, or nothing at a message's end.
    #[test]
    fn a_cut_image_gives_what_is_left(
        files in prop::collection::vec(file(), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let image = names::files();
        let whole = encode(&image, &files);
        let cut = 8 + cut.index(whole.len() - 8);
        let mut reader = reader(&image, &whole[..cut]);
        let mut found = Vec::new();
        while let Ok(Some(entry)) = reader.next_entry() {
            found.push(entry);
        }
        prop_assert!(found.len() < files.len());
        prop_assert_eq!(&found[..], &files[..found.len()]);
    }

    #[test]
    fn page_maps_find_every_page(runs in runs()) {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("checkpoint");
        let options = WriteOptions { sync: false, ..Default::default() };
        let writer = ImageWriter::create(&target, options).unwrap();
        let (pages_id, pages) = writer.pages().unwrap();
        let mut sink = writer.image(&names::pagemap(1)).unwrap();
        sink.put(&PagemapHead { pages_id }).unwrap();
        let (mut page, mut stored, mut model) = (1, 0, Vec::new());
        for (gap, count, flags) in runs {
            page += gap;
            sink.put_as(&PagemapEntry::run(page * PAGE_SIZE, count, flags)).unwrap();
            for page in page..page + count {
                let has = |flag| flags & flag != 0;
                let here = has(page_flags::PRESENT) && !has(page_flags::PARENT);
                model.push((page * PAGE_SIZE, here.then_some(stored * PAGE_SIZE)));
                stored += u64::from(has(page_flags::PRESENT));
            }
            page += count;
        }
        sink.finish().unwrap();
        let room = pages.reserve(stored * PAGE_SIZE).unwrap();
        pages.write_all_at(&vec![0; (stored * PAGE_SIZE) as usize], room).unwrap();
        let inventory = messages::InventoryEntry { img_version: 2, ..Default::default() };
        writer.write_one(&names::inventory(), &inventory).unwrap();
        writer.commit().unwrap();

        let dir = Images::open(&target).unwrap();
        let map = dir.page_map(&names::pagemap(1)).unwrap().unwrap();
        let here = model.iter().filter(|(_, offset)| offset.is_some()).count();
        prop_assert_eq!(map.stored_pages(), here as u64);
        for (address, offset) in &model {
            let run = map.find(*address).unwrap();
            prop_assert_eq!(match run.place {
                RunPlace::Stored(start) => Some(start + (address - run.start)),
                _ => None,
            }, *offset);
        }
        prop_assert!(map.find(page * PAGE_SIZE).is_none());
    }
}
