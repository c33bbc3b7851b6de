//! Processes and threads that come and go all the time, in every way that programs make them: fork,
//! vfork and exec, posix_spawn with pipes, threads. Each loop checks every child that it has made.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::stage::{Findings, Outcome, Stage, check};

/// One child, made and checked.
type Step = fn(u64) -> Result<(), String>;

const STEPS: [(&str, Step); 5] = [
    ("fork", forked),
    ("vfork", vforked),
    ("a program with pipes", with_pipes),
    ("a program with a socket", with_socket),
    ("a thread", thread),
];

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn exit_code(pid: i32) -> Result<i32, String> {
    let mut status = 0;
    // SAFETY: writes to an integer of ours.
    let waited = check(unsafe { libc::waitpid(pid, &raw mut status, 0) });
    waited.map_err(failed("waitpid"))?;
    libc::WIFEXITED(status)
        .then(|| libc::WEXITSTATUS(status))
        .ok_or_else(|| format!("status {status:#x}"))
}

fn forked(number: u64) -> Result<(), String> {
    let code = (number % 100) as i32;
    // SAFETY: the child makes no call but _exit.
    let pid = check(unsafe { libc::fork() }).map_err(failed("fork"))?;
    if pid == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) };
    }
    let found = exit_code(pid)?;
    if found == code { Ok(()) } else { Err(format!("exit code {found}, not {code}")) }
}

/// The child holds its parent up for a moment, as one does that prepares much before it executes a
/// program.
fn vforked(number: u64) -> Result<(), String> {
    let program = c"/bin/true";
    let arguments = [program.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    let pause = libc::timespec { tv_sec: 0, tv_nsec: (number % 3) as i64 * 1_000_000 };
    #[allow(deprecated, reason = "what is to be carried is a child of vfork")]
    // SAFETY: the child only reads what was made before, calls the kernel, and does not return.
    let pid = check(unsafe { libc::vfork() }).map_err(failed("vfork"))?;
    if pid == 0 {
        // SAFETY: as above.
        unsafe {
            libc::syscall(libc::SYS_nanosleep, &raw const pause, std::ptr::null::<u8>());
            libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
            libc::_exit(99)
        };
    }
    match exit_code(pid)? {
        0 => Ok(()),
        code => Err(format!("exit code {code}")),
    }
}

fn with_pipes(number: u64) -> Result<(), String> {
    let text = number.to_string();
    let mut child = Command::new("/bin/cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed("spawn"))?;
    let input = child.stdin.take().map(|mut input| input.write_all(text.as_bytes()));
    input.transpose().map_err(failed("write"))?;
    let output = child.wait_with_output().map_err(failed("wait"))?;
    let right = output.status.success() && output.stdout == text.as_bytes();
    if right { Ok(()) } else { Err(format!("{output:?}")) }
}

fn with_socket(number: u64) -> Result<(), String> {
    let text = number.to_string();
    let (mut ours, theirs) = UnixStream::pair().map_err(failed("socketpair"))?;
    let output = theirs.try_clone().map_err(failed("dup"))?;
    let mut child = Command::new("/bin/cat")
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .stdout(std::os::fd::OwnedFd::from(output))
        .spawn()
        .map_err(failed("spawn"))?;
    ours.write_all(text.as_bytes()).map_err(failed("write"))?;
    ours.shutdown(std::net::Shutdown::Write).map_err(failed("shutdown"))?;
    let mut answer = String::new();
    ours.read_to_string(&mut answer).map_err(failed("read"))?;
    let status = child.wait().map_err(failed("wait"))?;
    let right = status.success() && answer == text;
    if right { Ok(()) } else { Err(format!("{status}, {answer:?}")) }
}

fn thread(number: u64) -> Result<(), String> {
    let made = std::thread::Builder::new().spawn(move || number * 3).map_err(failed("thread"))?;
    let found = made.join().map_err(|_| "it panicked".to_owned())?;
    if found == number * 3 { Ok(()) } else { Err(format!("{found}")) }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let stop = AtomicBool::new(false);
    let counts = STEPS.map(|_| AtomicU64::new(0));
    let mut found = Findings::default();
    std::thread::scope(|scope| {
        let loops: Vec<_> = STEPS
            .iter()
            .zip(&counts)
            .map(|((_, step), count)| {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        step(count.fetch_add(1, Ordering::Relaxed))?;
                    }
                    Ok::<(), String>(())
                })
            })
            .collect();
        stage.ready_then_wait();
        let before = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        // Each is to do a few more.
        let stuck =
            |(count, before): (&AtomicU64, &u64)| count.load(Ordering::Relaxed) < before + 3;
        let alive = |handle: &std::thread::ScopedJoinHandle<'_, _>| !handle.is_finished();
        while counts.iter().zip(&before).any(stuck) && loops.iter().all(alive) {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        for ((name, _), handle) in STEPS.iter().zip(loops) {
            found.works(name, handle.join().unwrap_or_else(|_| Err("it panicked".to_owned())));
        }
    });
    found.outcome()
}
