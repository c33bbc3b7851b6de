//! What the kernel gives to tasks of 32-bit code: asked of it by a child that becomes one.

use std::io::{self, PipeReader, PipeWriter, Read, Write};

use arch::compat;
use ids::HostPid;

use crate::process::{exit_now, fork_any, reset_signal_actions, send_signal, wait_status};
use crate::procfs::{Dir, maps};

/// The vDSO of 32-bit tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vdso {
    /// How many bytes each piece of its data has, which lies before its code.
    pub data: Vec<u64>,
    /// Its code.
    pub image: Vec<u8>,
}

/// Where the child has it mapped: anywhere below 4 GiB.
const PLACE: u64 = 0x1000_0000;

/// Has the kernel map the vDSO of 32-bit tasks into a child, and looks at it. `None` where the kernel carries out no calls of 32-bit code, or
/// maps no vDSO where it is told.
///
/// # Errors
/// When there can be no child, or it cannot be looked at.
pub fn vdso() -> io::Result<Option<Vdso>> {
    let mut text = Vec::new();
    read_maps(HostPid::own(), &mut text)?;
    let mut own = Vec::new();
    for map in maps(&text) {
        let map = map.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        if is_vdso(map.raw_name) {
            own.push((map.start, map.end - map.start));
        }
    }
    let (mut told, tell) = io::pipe()?;
    let (wait, release) = io::pipe()?;
    let Some(child) = fork_any()? else { become_one(&own, tell, wait) };
    drop((tell, wait));
    let mut is_ready = [0];
    let answered = told.read_exact(&mut is_ready);
    let seen = answered.ok().map(|()| look(child));
    drop(release);
    // It may have ended by itself: by SIGSEGV, if there are no such calls.
    drop(send_signal(child, libc::SIGKILL));
    wait_status(child)?;
    seen.transpose()
}

fn is_vdso(name: &[u8]) -> bool {
    name == b"[vdso]" || name.starts_with(b"[vvar")
}

fn read_maps(pid: HostPid, text: &mut Vec<u8>) -> io::Result<()> {
    Dir::open(pid).and_then(|dir| dir.read("maps", text)).map_err(io::Error::other)
}

/// The child: nothing but system calls, none by the vDSO, which it takes away.
fn become_one(own: &[(u64, u64)], mut tell: PipeWriter, mut wait: PipeReader) -> ! {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a limit of the child's own: nothing of it is kept.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    reset_signal_actions();
    if !compat::is_there() {
        exit_now(1);
    }
    for &(start, bytes) in own {
        // SAFETY: nobody calls into the vDSO from here on.
        unsafe { libc::munmap(start as *mut libc::c_void, bytes as usize) };
    }
    if compat::map_vdso(PLACE).is_ok() && tell.write_all(&[1]).is_ok() {
        let mut nothing = [0];
        // Until the parent has looked, or is no more.
        drop(wait.read(&mut nothing));
    }
    exit_now(0)
}

fn look(child: HostPid) -> io::Result<Vdso> {
    let mut text = Vec::new();
    read_maps(child, &mut text)?;
    let mut vdso = Vdso::default();
    for map in maps(&text) {
        let map = map.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let bytes = map.end - map.start;
        match map.raw_name {
            b"[vdso]" => {
                vdso.image = vec![0; bytes as usize];
                crate::memory::read_exact(child, map.start, &mut vdso.image)?;
            }
            name if is_vdso(name) => vdso.data.push(bytes),
            _ => {}
        }
    }
    if vdso.image.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(vdso) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_library_of_32_bit_code() {
        // A kernel may have been built, or started, without.
        let Some(vdso) = vdso().unwrap() else { return };
        assert_eq!(vdso.image[..5], *b"\x7fELF\x01");
        assert_eq!(vdso.image.len() % 4096, 0);
        assert!(vdso.data.iter().all(|bytes| bytes % 4096 == 0));
        let codes = arch::sigframe::codes(arch::regs::Abi::Compat);
        for code in [codes.trampoline, codes.call_return] {
            assert!(vdso.image.windows(code.len()).any(|window| window == code));
        }
    }
}
