//! `iter/task`: the keys of a thread's session keyring, if that is neither its user's nor empty.

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use stasis_ebpf_common::offsets::{self as o, ABSENT};
use stasis_ebpf_common::{
    Header, KEY_DESCRIPTION_BYTES, KEY_PAYLOAD_BYTES, KIND_KEY, KIND_KEYRING, KeyHead, KeyRecord,
    KeyringRecord, unusual,
};

use crate::read::{at, field, offset};
use crate::settings::{SLOTS, session, slot};
use crate::task::TaskContext;
use crate::{emit, numbers};

#[unsafe(link_section = "iter/task")]
#[unsafe(no_mangle)]
extern "C" fn task_keys(context: *mut TaskContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task) = unsafe { ((*context).meta, (*context).task as u64) };
    if task == 0 || offset(o::KEY_NODE_SLOTS) == ABSENT {
        return 0;
    }
    let keyring: u64 = field(field(task, o::TASK_REAL_CRED), o::CRED_SESSION_KEYRING);
    if session(keyring) != unusual::SESSION_KEYRING {
        return 0;
    }
    // SAFETY: as above.
    let seq = unsafe { (*meta).seq };
    emit_keyring(seq, task, keyring);
    for place in 0..SLOTS {
        let key = slot(keyring, place);
        if key != 0 {
            // Once: who changes the key gives it another one, with a length of its own.
            let payload = payload(key);
            emit_key(seq, key, payload);
            emit_description(seq, field(key, o::KEY_DESCRIPTION));
            emit_payload(seq, payload);
        }
    }
    0
}

// Functions of their own, with stack frames of their own.

#[inline(never)]
fn emit_keyring(seq: *mut seq_file, task: u64, keyring: u64) {
    let bytes = size_of::<KeyringRecord>() as u32;
    let name: u64 = field(keyring, o::KEY_DESCRIPTION);
    let record = KeyringRecord {
        header: Header { kind: KIND_KEYRING, bytes },
        tid: numbers::of(field(task, o::TASK_THREAD_PID)),
        keys: field::<u64>(keyring, o::KEY_LEAVES) as u32,
        itself: head(keyring, 0),
        restriction: field(keyring, o::KEY_RESTRICTION),
        name: at(name),
    };
    emit(seq, &record);
}

#[inline(never)]
fn emit_key(seq: *mut seq_file, key: u64, payload: u64) {
    emit(seq, &Header { kind: KIND_KEY, bytes: size_of::<KeyRecord>() as u32 });
    emit(seq, &head(key, payload));
}

#[inline(never)]
fn emit_description(seq: *mut seq_file, from: u64) {
    let mut text = [0_u64; KEY_DESCRIPTION_BYTES / 8];
    // SAFETY: the helper checks the address, and writes no more than the place has room for.
    let length = unsafe {
        bpf_probe_read_kernel_str(
            text.as_mut_ptr().cast(),
            KEY_DESCRIPTION_BYTES as u32,
            from as *const core::ffi::c_void,
        )
    };
    // One that does not fit is as long as the place: it is told without an end.
    if length == KEY_DESCRIPTION_BYTES as i64 {
        text[KEY_DESCRIPTION_BYTES / 8 - 1] = u64::MAX;
    }
    emit(seq, &text);
}

#[inline(never)]
fn emit_payload(seq: *mut seq_file, payload: u64) {
    let bytes = u32::from(field::<u16>(payload, o::USER_KEY_BYTES));
    let data = payload + u64::from(offset(o::USER_KEY_DATA));
    for word in 0..KEY_PAYLOAD_BYTES as u32 / 8 {
        // The kernel allocates by words.
        let is_there = payload != 0 && word * 8 < bytes;
        let bytes: u64 = if is_there { at(data + u64::from(word) * 8) } else { 0 };
        emit(seq, &bytes);
    }
}

#[inline(always)]
fn head(key: u64, payload: u64) -> KeyHead {
    let kind: u64 = field(field(key, o::KEY_TYPE), o::KEY_TYPE_NAME);
    KeyHead {
        expires: field(key, o::KEY_EXPIRES),
        flags: field(key, o::KEY_FLAGS),
        serial: field(key, o::KEY_SERIAL),
        uid: field(key, o::KEY_UID),
        gid: field(key, o::KEY_GID),
        permissions: field(key, o::KEY_PERMISSIONS),
        state: i32::from(field::<i16>(key, o::KEY_STATE)),
        payload_bytes: u32::from(field::<u16>(payload, o::USER_KEY_BYTES)),
        kind: at(kind),
    }
}

/// Where the payload is of a key whose payload is bytes: types `user` and `logon` have it in `struct user_key_payload`. What is there of
/// another type nobody takes for that.
#[inline(always)]
fn payload(key: u64) -> u64 {
    if offset(o::USER_KEY_DATA) == ABSENT {
        return 0;
    }
    field(key, o::KEY_PAYLOAD)
}
