//! The inventory from /proc: works on every kernel, at thousands of system calls for what the eBPF
//! source reads in three.

use ids::HostPid;
use kernel::procfs::{self, Dir, FdInfo, Namespaces, ProcFile, Stat, Status};

use crate::bpf::{Home, TerminalSource};
use crate::deadline::Deadline;
use crate::identity;
use crate::proc_mappings::mappings;
use crate::{Error, Inventory, OpenFile, Parts, Process, ProcessState, Thread};

/// Reads inventories from /proc. It keeps its buffers from one to the next.
#[derive(Debug, Default)]
pub struct ProcSource {
    text: Vec<u8>,
    tids: Vec<HostPid>,
    fds: Vec<i32>,
    /// When to stop, with what has been read until then.
    pub(crate) until: Deadline,
    /// What tells of terminals, which /proc does not.
    terminals: TerminalSource,
}

impl ProcSource {
    /// Reads /proc, but for terminals, of which eBPF tells what waits in them whatever the namespaces.
    pub(crate) fn with_terminals(home: Home) -> Self {
        Self { terminals: TerminalSource::NotOpened(home), ..Self::default() }
    }
}

/// Takes an inventory of processes from /proc.
///
/// # Errors
/// If something that is there cannot be read or understood.
pub fn take(pids: &[HostPid], parts: Parts) -> Result<Inventory, Error> {
    ProcSource::default().take(pids, parts)
}

/// The terminal that controls a process; 0 for none.
fn terminal(stat: &Stat) -> u64 {
    // The kernel's own encoding for users, in 32 bits.
    u64::from(stat.tty_nr.cast_unsigned())
}

/// `None` for something that has gone.
fn present<T>(answer: Result<T, procfs::Error>) -> Result<Option<T>, procfs::Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

impl ProcSource {
    /// Takes an inventory of processes.
    ///
    /// # Errors
    /// If something that is there cannot be read or understood.
    pub fn take(&mut self, pids: &[HostPid], parts: Parts) -> Result<Inventory, Error> {
        let mut inventory = Inventory::default();
        for &pid in pids {
            if self.until.is_over() {
                return Ok(inventory);
            }
            let process =
                present(self.process(pid, parts)).map_err(|source| Error::Proc { pid, source })?;
            if let Some(process) = process {
                inventory.processes.insert(pid, process);
            }
        }
        if parts.contains(Parts::FILES) {
            identity::name_descriptions(&mut inventory)?;
        }
        if parts.contains(Parts::SHARING) {
            identity::name_tables(&mut inventory)?;
        }
        Ok(inventory)
    }

    fn process(&mut self, pid: HostPid, parts: Parts) -> Result<Process, procfs::Error> {
        let dir = Dir::open(pid)?;
        let stat = Stat::read_with(&dir, &mut self.text)?;
        let kernel_thread = stat.is_kernel_thread();
        let state = state(&stat);
        let alive = !kernel_thread && !matches!(state, ProcessState::Zombie { .. });
        let mut process = Process {
            pid,
            ppid: stat.ppid,
            pgid: stat.pgrp,
            sid: stat.session,
            terminal: terminal(&stat),
            foreground: stat.tty_pgrp,
            state,
            threads: std::collections::BTreeMap::new(),
            mappings: Vec::new(),
            files: Vec::new(),
            namespaces: std::collections::BTreeMap::new(),
            kernel_thread,
            tables: crate::Tables::default(),
            in_process: None,
        };
        if parts.contains(Parts::THREADS) {
            self.threads(&dir, &mut process)?;
        }
        // A leader that has exited before its threads has neither memory nor files to show, but
        // its threads have.
        let leader_gone = alive && stat.is_dead();
        let source = if leader_gone { self.living_thread(&dir)? } else { None };
        let source = source.as_ref().unwrap_or(&dir);
        if alive && parts.contains(Parts::MAPPINGS) {
            process.mappings = mappings(source, &mut self.text)?;
        }
        if alive && parts.contains(Parts::FILES) {
            process.files = self.files(source)?;
            if process.files.iter().any(may_be_terminal) {
                self.terminals.add(pid, &mut process.files);
            }
        }
        if parts.contains(Parts::SHARING) {
            process.namespaces = Namespaces::read(source)?.0;
        }
        Ok(process)
    }

    fn living_thread(&mut self, dir: &Dir) -> Result<Option<Dir>, procfs::Error> {
        dir.threads_into(&mut self.tids)?;
        for &tid in &self.tids {
            if let Some(thread) = present(dir.thread(tid))?
                && let Some(stat) = present(Stat::read_with(&thread, &mut self.text))?
                && !stat.is_dead()
                && !stat.is_worker()
            {
                return Ok(Some(thread));
            }
        }
        Ok(None)
    }

    fn threads(&mut self, dir: &Dir, process: &mut Process) -> Result<(), procfs::Error> {
        dir.threads_into(&mut self.tids)?;
        for index in 0..self.tids.len() {
            if self.until.is_over() {
                break;
            }
            let tid = self.tids[index];
            let Some(thread) = present(dir.thread(tid))? else { continue };
            let Some(stat) = present(Stat::read_with(&thread, &mut self.text))? else { continue };
            if stat.is_worker() {
                continue;
            }
            let Some(status) = present(Status::read_with(&thread, &mut self.text))? else {
                continue;
            };
            process.threads.insert(
                tid,
                Thread {
                    tid,
                    start_time: stat.start_time,
                    comm: stat.comm,
                    state: char::from(stat.state),
                    own_tables: tid != process.pid
                        && identity::tables_differ(tid, process.pid).unwrap_or(false),
                    own_namespaces: tid != process.pid && namespaces_differ(&thread, dir),
                    blocked: status.blocked,
                    pending: status.pending,
                    shared_pending: status.shared_pending,
                    ignored: status.ignored,
                    caught: status.caught,
                    in_task: None,
                },
            );
        }
        Ok(())
    }

    fn files(&mut self, dir: &Dir) -> Result<Vec<OpenFile>, procfs::Error> {
        dir.numbers("fd", &mut self.fds)?;
        let mut files = Vec::with_capacity(self.fds.len());
        for &fd in &self.fds {
            if self.until.is_over() {
                break;
            }
            files.extend(open_file(dir, fd, &mut self.text)?);
        }
        Ok(files)
    }
}

/// What a process has as descriptor `fd`; `None` if that is not open. `text` is room for the text of /proc.
///
/// # Errors
/// If something that is there cannot be read or understood.
pub fn open_file(
    dir: &Dir,
    fd: i32,
    text: &mut Vec<u8>,
) -> Result<Option<OpenFile>, procfs::Error> {
    let link = format!("fd/{fd}");
    let Some(info) = present(FdInfo::read_with(dir, fd, text))? else { return Ok(None) };
    let Some(target) = present(dir.link(&link))? else { return Ok(None) };
    let Some(stat) = present(dir.stat_behind(&link))? else { return Ok(None) };
    Ok(Some(OpenFile {
        fd,
        close_on_exec: info.flags & libc::O_CLOEXEC.cast_unsigned() != 0,
        description: 0,
        position: info.position,
        flags: info.flags & !libc::O_CLOEXEC.cast_unsigned(),
        mode: stat.mode,
        device: stat.device,
        inode: stat.inode,
        target,
        owned: None,
        locked: None,
        linkable: None,
        uncorked: false,
        terminal: None,
        mark: None,
    }))
}

/// Whether a file is a device that may be a terminal.
fn may_be_terminal(file: &OpenFile) -> bool {
    let names = ["null", "zero", "full", "random", "urandom"].map(|name| format!("/dev/{name}"));
    file.mode & libc::S_IFMT == libc::S_IFCHR && names.iter().all(|name| file.target != **name)
}

/// Whether a thread is in other namespaces than the first of its process. One that is ending has none.
fn namespaces_differ(thread: &Dir, first: &Dir) -> bool {
    match (Namespaces::read(thread), Namespaces::read(first)) {
        (Ok(own), Ok(first)) => {
            own.0.iter().any(|(name, id)| first.0.get(name).is_some_and(|firsts| firsts != id))
        }
        _ => false,
    }
}

/// A process is a zombie when its leader is dead and alone: with other threads it lives on.
fn state(stat: &Stat) -> ProcessState {
    match stat.state {
        _ if stat.is_dead() && stat.num_threads <= 1 => {
            ProcessState::Zombie { exit_status: stat.exit_code }
        }
        b'T' => ProcessState::Stopped,
        _ => ProcessState::Alive,
    }
}
