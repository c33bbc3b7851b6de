//! What holds of a checkpoint in whichever store: it is complete or absent, and read as it was written.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod places;

use places::StoreKind;
use stasis_images::messages::{
    InventoryEntry, PagemapEntry, PagemapHead, PipeDataEntry, PstreeEntry, page_flags,
};
use stasis_images::{Error, ImageWriter, Images, PAGE_SIZE, WriteOptions, names};

fn process(pid: u32) -> PstreeEntry {
    PstreeEntry { pid, pgid: pid, sid: pid, threads: vec![pid], ..Default::default() }
}

fn write_inventory(writer: &ImageWriter) {
    let inventory =
        InventoryEntry { img_version: 2, fdinfo_per_id: Some(true), ..Default::default() };
    writer.write_one(&names::inventory(), &inventory).unwrap();
}

fn write(place: &StoreKind, options: WriteOptions, pids: &[u32]) -> Result<(), Error> {
    let writer = place.write("checkpoint", options)?;
    let processes: Vec<_> = pids.iter().copied().map(process).collect();
    writer.write_all(&names::pstree(), &processes)?;
    write_inventory(&writer);
    writer.commit().map(|_| ())
}

fn pids(images: &Images) -> Vec<u32> {
    images.read_all(&names::pstree()).unwrap().iter().map(|process| process.pid).collect()
}

#[test]
fn a_checkpoint_appears_whole() {
    for place in StoreKind::all() {
        let writer = place.write("checkpoint", WriteOptions::default()).unwrap();
        writer.write_one(&names::pstree(), &process(7)).unwrap();
        write_inventory(&writer);
        assert!(place.open("checkpoint").is_err());
        let committed = writer.commit().unwrap();
        let images = place.open("checkpoint").unwrap();
        let files = images.files().unwrap();
        let names: Vec<_> = files.iter().map(|file| &file.name[..]).collect();
        assert_eq!(names, ["inventory.img", "pstree.img", "stasis-manifest"]);
        assert_eq!((committed.files, committed.bytes), (3, files.iter().map(|f| f.size).sum()));
        assert_eq!(pids(&images), [7]);
    }
}

#[test]
fn a_dropped_writer_leaves_nothing() {
    for place in StoreKind::all() {
        let writer = place.write("checkpoint", WriteOptions::default()).unwrap();
        write_inventory(&writer);
        drop(writer);
        assert!(matches!(place.open("checkpoint"), Err(Error::OpenDirectory { .. })));
    }
}

#[test]
fn without_an_inventory_or_with_an_open_image_nothing_is_committed() {
    for place in StoreKind::all() {
        let writer = place.write("checkpoint", WriteOptions::default()).unwrap();
        writer.write_one(&names::pstree(), &process(7)).unwrap();
        assert!(matches!(writer.commit(), Err(Error::Misuse { .. })));

        let writer = place.write("checkpoint", WriteOptions::default()).unwrap();
        write_inventory(&writer);
        drop(writer.image(&names::pstree()).unwrap());
        assert!(matches!(writer.commit(), Err(Error::Misuse { .. })));
        assert!(place.open("checkpoint").is_err());
    }
}

#[test]
fn an_image_is_written_once() {
    for place in StoreKind::all() {
        let writer = place.write("checkpoint", WriteOptions::default()).unwrap();
        writer.write_one(&names::pstree(), &process(7)).unwrap();
        assert!(writer.write_one(&names::pstree(), &process(8)).is_err());
    }
}

#[test]
fn a_checkpoint_is_replaced_only_when_asked() {
    for place in StoreKind::all() {
        let with = |overwrite| WriteOptions { overwrite, ..Default::default() };
        write(&place, with(false), &[7]).unwrap();
        assert!(matches!(write(&place, with(false), &[8]), Err(Error::Exists { .. })));
        assert_eq!(pids(&place.open("checkpoint").unwrap()), [7]);
        write(&place, with(true), &[8, 9]).unwrap();
        assert_eq!(pids(&place.open("checkpoint").unwrap()), [8, 9]);
    }
}

#[test]
fn pages_are_read_where_the_map_says() {
    for place in StoreKind::all() {
        let writer = place.write("checkpoint", WriteOptions::default()).unwrap();
        let (pages_id, pages) = writer.pages().unwrap();
        // Room is taken in the order of capture, and filled in any.
        let room: Vec<u64> = (0..3).map(|_| pages.reserve(PAGE_SIZE).unwrap()).collect();
        std::thread::scope(|scope| {
            for (byte, offset) in (0_u8..).zip(room) {
                let pages = &pages;
                scope.spawn(move || pages.write_all_at(&[byte; PAGE_SIZE as usize], offset));
            }
        });
        assert!(pages.write_all_at(&[9], 3 * PAGE_SIZE).is_err(), "no room was taken there");
        let mut map = writer.image(&names::pagemap(7)).unwrap();
        map.put(&PagemapHead { pages_id }).unwrap();
        map.put_as(&PagemapEntry::run(0x1000, 1, page_flags::PRESENT)).unwrap();
        map.put_as(&PagemapEntry::run(0x4000, 5, page_flags::PARENT)).unwrap();
        map.put_as(&PagemapEntry::run(0x9000, 2, page_flags::PRESENT)).unwrap();
        map.put_as(&PagemapEntry::run(0xb000, 1, page_flags::LAZY)).unwrap();
        map.put_as(&PagemapEntry::run(0xc000, 1, 0)).unwrap();
        map.finish().unwrap();
        write_inventory(&writer);
        writer.commit().unwrap();

        let images = place.open("checkpoint").unwrap();
        let map = images.page_map(&names::pagemap(7)).unwrap().unwrap();
        assert_eq!((map.pages_id, map.stored_pages()), (pages_id, 3));
        use stasis_images::RunPlace::{Lazy, Parent, Stored, Zero};
        let found = [0x1000, 0x4000, 0xa000, 0xb000, 0xc000].map(|at| map.find(at).unwrap().place);
        assert_eq!(found, [Stored(0), Parent, Stored(PAGE_SIZE), Lazy, Zero]);
        assert!(map.find(0x2000).is_none());
        assert!(images.page_map(&names::pagemap(8)).unwrap().is_none());
        let pages = images.pages(pages_id).unwrap();
        std::thread::scope(|scope| {
            for byte in 0_u8..3 {
                let pages = &pages;
                scope.spawn(move || {
                    let mut read = [0; PAGE_SIZE as usize];
                    pages.read_exact_at(&mut read, u64::from(byte) * PAGE_SIZE).unwrap();
                    assert_eq!(read, [byte; PAGE_SIZE as usize]);
                });
            }
        });
        assert!(pages.read_exact_at(&mut [0; 2], 3 * PAGE_SIZE - 1).is_err());

        let cut = &place.bytes("checkpoint", "pages-1.img")[..2 * PAGE_SIZE as usize];
        place.replace("checkpoint", "pages-1.img", cut);
        let images = place.open("checkpoint").unwrap();
        assert!(matches!(images.page_map(&names::pagemap(7)), Err(Error::Truncated { .. })));
    }
}

#[test]
fn bytes_that_follow_a_message_are_read_back() {
    for place in StoreKind::all() {
        let writer = place.write("checkpoint", WriteOptions::default()).unwrap();
        let mut sink = writer.image(&names::pipes_data()).unwrap();
        for (pipe_id, text) in [(1, "one"), (2, "three")] {
            let bytes = u32::try_from(text.len()).unwrap();
            sink.put(&PipeDataEntry { pipe_id, bytes, ..PipeDataEntry::default() }).unwrap();
            assert_eq!(sink.payload_from(&mut text.as_bytes()).unwrap(), u64::from(bytes));
        }
        sink.finish().unwrap();
        write_inventory(&writer);
        writer.commit().unwrap();

        let images = place.open("checkpoint").unwrap();
        let mut reader = images.reader(&names::pipes_data()).unwrap().unwrap();
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            found.push((entry.pipe_id, reader.bytes(u64::from(entry.bytes)).unwrap()));
        }
        assert_eq!(found, [(1, b"one".to_vec()), (2, b"three".to_vec())]);
    }
}

#[test]
fn lengths_are_believed_only_as_far_as_the_image_goes() {
    for place in StoreKind::all() {
        write(&place, WriteOptions::default(), &[7]).unwrap();
        let mut bytes = place.bytes("checkpoint", "pstree.img");
        let read = |bytes: &[u8]| {
            place.replace("checkpoint", "pstree.img", bytes);
            place.open("checkpoint").unwrap().read_all(&names::pstree())
        };
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read(&bytes), Err(Error::MessageSize { .. })));
        bytes[8..12].copy_from_slice(&1000_u32.to_le_bytes());
        assert!(matches!(read(&bytes), Err(Error::Truncated { .. })));
        assert!(matches!(read(&bytes[..6]), Err(Error::Truncated { .. })));
    }
}

/// Memory, which the others are tested with, finds whoever would go back in a stream.
#[test]
fn memory_takes_no_byte_twice() {
    let [_, memory] = StoreKind::all();
    let writer = memory.write("checkpoint", WriteOptions::default()).unwrap();
    let (_, pages) = writer.pages().unwrap();
    pages.reserve(3 * PAGE_SIZE).unwrap();
    let page = [1; PAGE_SIZE as usize];
    pages.write_all_at(&page, PAGE_SIZE).unwrap();
    pages.write_all_at(&page, 0).unwrap();
    assert!(pages.write_all_at(&page, PAGE_SIZE).is_err());
    assert!(pages.write_all_at(&[1, 2], 2 * PAGE_SIZE - 1).is_err());
    pages.write_all_at(&page, 2 * PAGE_SIZE).unwrap();
}
