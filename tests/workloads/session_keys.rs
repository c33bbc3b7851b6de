//! A session keyring that holds keys, as a system service has one of systemd, and one in another keyring.

use std::ffi::CStr;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use crate::stage::{Findings, Outcome, Stage};

const SESSION: i32 = -3;
const ID: &[u8] = &[0, 1, 2, 0xff, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// What systemd gives the key: its possessor and its owner may see, read and find it.
const TO_READ: u32 = 0x0b0b_0000;
const TO_ANY_END: u32 = 0x3f3f_0101;

fn keyctl(operation: i32, arguments: [usize; 4]) -> i64 {
    let [one, two, three, four] = arguments;
    // SAFETY: the callers' arguments are numbers, or addresses of what lives as long as the call.
    unsafe { libc::syscall(libc::SYS_keyctl, operation, one, two, three, four) }
}

fn join_new_session() {
    assert!(keyctl(1, [0; 4]) > 0, "a session keyring: {}", std::io::Error::last_os_error());
}

fn add(kind: &CStr, name: &CStr, payload: &[u8]) -> i64 {
    // SAFETY: the strings and the payload outlive the call.
    let key = unsafe {
        let (kind, name) = (kind.as_ptr(), name.as_ptr());
        libc::syscall(libc::SYS_add_key, kind, name, payload.as_ptr(), payload.len(), SESSION)
    };
    assert!(key > 0, "add_key: {}", std::io::Error::last_os_error());
    key
}

/// The number of a key that the session keyring holds.
fn find(kind: &CStr, name: &CStr) -> i64 {
    keyctl(10, [SESSION as usize, kind.as_ptr() as usize, name.as_ptr() as usize, 0])
}

fn read(key: i64) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    let length = keyctl(11, [key as usize, bytes.as_mut_ptr() as usize, bytes.len(), 0]);
    bytes.truncate(usize::try_from(length).unwrap_or(0));
    bytes
}

/// Type, owner, group, permissions and description.
fn describe(key: i64) -> String {
    let mut text = vec![0; 512];
    let length = keyctl(6, [key as usize, text.as_mut_ptr() as usize, text.len(), 0]);
    text.truncate(usize::try_from(length).unwrap_or(1).saturating_sub(1));
    String::from_utf8_lossy(&text).into_owned()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    join_new_session();
    let id = add(c"user", c"invocation_id", ID);
    assert_eq!(keyctl(5, [id as usize, TO_READ as usize, 0, 0]), 0, "setperm");
    let of_other = add(c"user", c"of another user", &[7; 256]);
    assert_eq!(keyctl(4, [of_other as usize, 33, 34, 0]), 0, "chown");
    let logon = add(c"logon", c"stasis:login", b"secret");
    assert_eq!(keyctl(5, [logon as usize, TO_ANY_END as usize, 0, 0]), 0, "setperm");
    let told = || [id, of_other, logon].map(describe);
    let before = told();
    // SAFETY: the child does nothing but calls.
    let child = match unsafe { fork() }.expect("fork") {
        ForkResult::Child => loop {
            nix::unistd::pause();
        },
        ForkResult::Parent { child } => child,
    };
    stage.ready_then_wait();

    let mut found = Findings::default();
    let names =
        [(c"user", c"invocation_id"), (c"user", c"of another user"), (c"logon", c"stasis:login")];
    let keys = names.map(|(kind, name)| find(kind, name));
    found.same("what they are", &before, &keys.map(describe));
    found.same("the id", &ID.to_vec(), &read(keys[0]));
    found.same("a long payload", &vec![7; 256], &read(keys[1]));
    let mut held = read(SESSION.into()).len() / 4;
    found.same("keys", &3, &held);
    found.same("what nobody reads", &Vec::<u8>::new(), &read(keys[2]));
    found.works("end the child", kill(child, Signal::SIGKILL));
    found.works("wait for the child", waitpid(child, None));
    add(c"user", c"one more", b"x");
    held = read(SESSION.into()).len() / 4;
    found.same("keys then", &4, &held);
    found.outcome()
}

/// A child that is in another keyring.
pub(crate) fn apart(stage: &Stage) -> Outcome {
    join_new_session();
    add(c"user", c"invocation_id", ID);
    let (mut ours, theirs) = std::io::pipe().expect("a pipe");
    // SAFETY: the child does nothing but calls.
    if let ForkResult::Child = unsafe { fork() }.expect("fork") {
        join_new_session();
        drop((ours, theirs));
        loop {
            nix::unistd::pause();
        }
    }
    drop(theirs);
    // Until the child is in its own.
    std::io::Read::read_to_end(&mut ours, &mut Vec::new()).expect("read");
    drop(ours);
    stage.ready_then_wait();
    Ok(())
}

/// A key that ends after an hour.
pub(crate) fn ending(stage: &Stage) -> Outcome {
    join_new_session();
    let key = add(c"user", c"invocation_id", ID);
    assert_eq!(keyctl(15, [key as usize, 3600, 0, 0]), 0, "set_timeout");
    stage.ready_then_wait();
    Ok(())
}

/// More than can be told.
pub(crate) fn long(stage: &Stage) -> Outcome {
    join_new_session();
    add(c"user", c"long", &[1; 257]);
    stage.ready_then_wait();
    Ok(())
}

/// A key of a type that has no bytes.
pub(crate) fn linked(stage: &Stage) -> Outcome {
    join_new_session();
    add(c"keyring", c"below", b"");
    stage.ready_then_wait();
    Ok(())
}
