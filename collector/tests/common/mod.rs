//! What tests of counted changes share.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ids::HostPid;

/// Python that holds pipes, sockets and files that nobody else has, stands still, and does what a file
/// says when it is sent a signal.
pub(crate) struct Quiet {
    child: Child,
    pub(crate) dir: tempfile::TempDir,
}

impl Quiet {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Blocked, a signal that comes between two waits is not lost.
        let script = "import os, signal, socket, sys\n\
                      os.closerange(3, 1000)\n\
                      os.chdir(sys.argv[1])\n\
                      pipes = [os.pipe() for _ in range(20)]\n\
                      pairs = [socket.socketpair() for _ in range(20)]\n\
                      files = [open(f'file-{n}', 'w') for n in range(20)]\n\
                      signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n\
                      open('up', 'w').close()\n\
                      while True:\n\
                      \x20signal.sigwait([signal.SIGUSR1])\n\
                      \x20with open('what') as what: exec(what.read(), globals())\n\
                      \x20os.rename('what', 'did')\n";
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script]).arg(dir.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = child.spawn().unwrap();
        until("it is up", || dir.path().join("up").exists());
        std::thread::sleep(Duration::from_millis(50));
        Self { child, dir }
    }

    pub(crate) fn pid(&self) -> HostPid {
        HostPid::from(&self.child)
    }

    pub(crate) fn does(&self, line: &str) {
        let done = self.dir.path().join("did");
        std::fs::remove_file(&done).ok();
        std::fs::write(self.dir.path().join("what"), line).unwrap();
        let pid = nix::unistd::Pid::from_raw(self.pid().get());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGUSR1).unwrap();
        until(line, || done.exists());
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
