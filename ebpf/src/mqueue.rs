//! `iter/task_file`: the messages in a POSIX queue, which no call shows without taking them away.
//!
//! The kernel has them in a tree by priority, each node of which has a list; a long message is in several segments. The buffer of
//! an iterator has no room for all, and the verifier has to see an end: so the reader runs the iterator again and again, and the
//! program notes in a map where it is. The tree is walked by the pointers to parents, in whatever order: each message has its
//! priority. Who reads is to see that nothing has changed meanwhile; what has been freed is not read for what it was, but cannot harm.

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task};
use aya_ebpf::maps::LruHashMap;
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::offsets::ABSENT;
use stasis_ebpf_common::{
    Header, KIND_MESSAGE, KIND_MESSAGE_QUEUE, KIND_PIECE, MessageQueueRecord, MessageRecord,
    PAGE_BYTES, QueueCursor, cursor,
};

use crate::emit;
use crate::file::FileContext;
use crate::read::{at, field, fill, load, offset};
use crate::room::Room;

/// `MQUEUE_MAGIC` of ipc/mqueue.c.
const MQUEUE_FS: u64 = 0x1980_0202;

/// By the reader's thread. Those whose readers were killed make room for others.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "QUEUES")]
pub(crate) static QUEUES: LruHashMap<u32, QueueCursor> = LruHashMap::with_max_entries(1 << 10, 0);

/// Steps of a turn: a message, a piece of one, or a way to another node of the tree.
const STEPS: u32 = 64;

/// A turn ends behind so many bytes, so that one more piece still fits into the iterator's buffer of 32 KiB.
const BYTES_OF_TURN: u64 = 24 << 10;

/// Where the reader's cursor is. Its fields are read and written one by one: so the verifier knows nothing of them, and goes
/// through a step once for each turn of the loop, whatever there was before.
#[derive(Clone, Copy)]
struct Place(*mut QueueCursor);

impl Place {
    #[inline(always)]
    fn get(self, field: impl FnOnce(*mut QueueCursor) -> *const u64) -> u64 {
        // SAFETY: the verifier checks that it is in a value of the map.
        unsafe { core::ptr::read_volatile(field(self.0)) }
    }

    #[inline(always)]
    fn set(self, field: impl FnOnce(*mut QueueCursor) -> *mut u64, value: u64) {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(field(self.0), value) };
    }
}

macro_rules! get {
    ($place:ident, $field:ident) => {
        // SAFETY: of a place in a value of the map, an address is made.
        $place.get(|it| unsafe { &raw const (*it).$field })
    };
}

macro_rules! set {
    ($place:ident, $field:ident, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: as in `get`.
        $place.set(|it| unsafe { &raw mut (*it).$field }, value);
    }};
}

#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
extern "C" fn task_file_queue(context: *mut FileContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task, fd, file) =
        unsafe { ((*context).meta, (*context).task as u64, (*context).fd, (*context).file as u64) };
    if task == 0 || file == 0 {
        return 0;
    }
    let magic: u64 = load(load(load(file, o::FILE_INODE), o::INODE_SB), o::SUPER_BLOCK_MAGIC);
    if magic != MQUEUE_FS || lacks_fields() {
        return 0;
    }
    // SAFETY: the helpers take nothing.
    let (reader, current) = unsafe { (bpf_get_current_pid_tgid() as u32, bpf_get_current_task()) };
    // Of others a descriptor with that number is another file.
    let (own, tables): (u64, u64) = (field(current, o::TASK_FILES), field(task, o::TASK_FILES));
    let Some(place) = QUEUES.get_ptr_mut(reader) else { return 0 };
    let place = Place(place);
    if own != tables || get!(place, fd) != u64::from(fd) {
        return 0;
    }
    let mut queue = 0_u64;
    fill(&mut queue, file, o::FILE_INODE);
    queue -= u64::from(offset(o::QUEUE_INODE));
    // SAFETY: as above.
    read(unsafe { (*meta).seq }, queue, place);
    0
}

fn lacks_fields() -> bool {
    let lacks = |index| offset(index) == ABSENT;
    lacks(o::QUEUE_INODE)
        || lacks(o::QUEUE_TREE)
        || lacks(o::QUEUE_MESSAGES)
        || lacks(o::QUEUE_BYTES)
        || lacks(o::QUEUE_NOTIFIES)
        || lacks(o::NODE_PARENT)
        || lacks(o::NODE_LEFT)
        || lacks(o::NODE_RIGHT)
        || lacks(o::PRIORITY_NODE)
        || lacks(o::PRIORITY_LIST)
        || lacks(o::MESSAGE_LIST)
        || lacks(o::MESSAGE_TYPE)
        || lacks(o::MESSAGE_SIZE)
        || lacks(o::MESSAGE_NEXT)
        || lacks(o::MESSAGE_BYTES)
        || lacks(o::SEGMENT_NEXT)
        || lacks(o::SEGMENT_BYTES)
}

#[inline(always)]
fn read(seq: *mut seq_file, queue: u64, place: Place) {
    if get!(place, state) == cursor::NEW {
        set!(place, node, field(queue, o::QUEUE_TREE));
        set!(place, state, cursor::UNDER_WAY);
    }
    set!(place, written, 0);
    tell(seq, queue, place);
    let Some(room) = Room::enter() else { return };
    for _ in 0..STEPS {
        if get!(place, state) != cursor::UNDER_WAY || get!(place, written) > BYTES_OF_TURN {
            break;
        }
        step(seq, &room, place);
    }
    room.leave();
    tell(seq, queue, place);
}

#[inline(never)]
fn tell(seq: *mut seq_file, queue: u64, place: Place) {
    let notifies: u64 = field(queue, o::QUEUE_NOTIFIES);
    emit(
        seq,
        &MessageQueueRecord {
            header: Header {
                kind: KIND_MESSAGE_QUEUE,
                bytes: size_of::<MessageQueueRecord>() as u32,
            },
            messages: field(queue, o::QUEUE_MESSAGES),
            bytes: field(queue, o::QUEUE_BYTES),
            notifies: u32::from(notifies != 0),
            more: u32::from(get!(place, state) != cursor::DONE),
        },
    );
}

#[inline(always)]
fn step(seq: *mut seq_file, room: &Room, place: Place) {
    if get!(place, piece) != 0 {
        piece(seq, room, place);
    } else if get!(place, entry) != get!(place, list) {
        message(seq, place);
    } else if get!(place, node) != 0 {
        node(place);
    } else {
        set!(place, state, cursor::DONE);
    }
}

/// Goes to a node, and on to the next: down to the left, down to the right, or up. A node is visited when it is come to from above.
#[inline(never)]
fn node(place: Place) {
    /// The lowest bits of the pointer to the parent say something of the node.
    const ADDRESS: u64 = !3;
    let (node, from) = (get!(place, node), get!(place, from));
    let parent: u64 = field(node, o::NODE_PARENT);
    let parent = parent & ADDRESS;
    let left: u64 = field(node, o::NODE_LEFT);
    let right: u64 = field(node, o::NODE_RIGHT);
    let mut next = parent;
    if right != 0 && from != right {
        next = right;
    }
    if from == parent {
        let list = node - u64::from(offset(o::PRIORITY_NODE)) + u64::from(offset(o::PRIORITY_LIST));
        set!(place, list, list);
        set!(place, entry, at(list));
        if left != 0 {
            next = left;
        }
    }
    set!(place, from, node);
    set!(place, node, next);
}

/// Writes out what a message is, and goes on to its first piece.
#[inline(never)]
fn message(seq: *mut seq_file, place: Place) {
    let entry = get!(place, entry);
    let message = entry - u64::from(offset(o::MESSAGE_LIST));
    let bytes: u64 = field(message, o::MESSAGE_SIZE);
    let record = size_of::<MessageRecord>();
    emit(
        seq,
        &MessageRecord {
            header: Header { kind: KIND_MESSAGE, bytes: record as u32 },
            priority: field(message, o::MESSAGE_TYPE),
            bytes,
        },
    );
    let head = u64::from(offset(o::MESSAGE_BYTES));
    set!(place, written, get!(place, written) + record as u64);
    set!(place, left, bytes);
    set!(place, room, u64::from(PAGE_BYTES) - head);
    set!(place, next, field(message, o::MESSAGE_NEXT));
    set!(place, piece, if bytes == 0 { 0 } else { message + head });
    set!(place, entry, at(entry));
}

/// Writes out a piece of a message, and goes on to the next.
#[inline(never)]
fn piece(seq: *mut seq_file, room: &Room, place: Place) {
    let (from, left, most) = (get!(place, piece), get!(place, left), get!(place, room));
    let bytes = if left < most { left } else { most };
    // Read volatile so that the compiler, which may know that the mask changes nothing, keeps it: it shows the verifier that the
    // length is in bounds.
    // SAFETY: a local.
    let count = unsafe { core::ptr::read_volatile(&raw const bytes) } as u32 & (PAGE_BYTES - 1);
    let failed = room.read(from, count);
    let record = size_of::<Header>() as u32 + count;
    emit(seq, &Header { kind: KIND_PIECE, bytes: record });
    room.write(seq, count);
    let left = left - u64::from(count);
    let segment = get!(place, next);
    let head = u64::from(offset(o::SEGMENT_BYTES));
    set!(place, written, get!(place, written) + u64::from(record));
    set!(place, left, left);
    set!(place, room, u64::from(PAGE_BYTES) - head);
    set!(place, next, field(segment, o::SEGMENT_NEXT));
    // What cannot be read is missing in the end.
    let ends = left == 0 || segment == 0 || failed != 0;
    set!(place, piece, if ends { 0 } else { segment + head });
}
