//! The look at every file, from inside of the network namespaces that the sockets are in.

use std::sync::Arc;

use collector::{OpenFile, Process};
use images::messages::FileEntry;
use kernel::namespaces::within_network;

use super::networks::set;
use super::problem::{Doing, Problem};
use super::survey::{Survey, is_alive};

impl Survey<'_> {
    /// Finds out which namespaces there are, before anything is asked in them.
    pub(super) fn find_networks(&mut self) {
        let inventory = self.inventory;
        for process in inventory.processes.values().filter(|process| is_alive(process)) {
            let usual = self.held.networks.add_process(process);
            if self.same_sockets {
                continue;
            }
            for file in &process.files {
                // What goes wrong with one is told when it is captured.
                if let Err(problem) = self.network_of(process, file, usual) {
                    tracing::debug!(?problem, "the network namespace of a socket is not known");
                }
            }
        }
        let all = self.held.networks.all();
        (self.neighbours.networks, self.diagnosed.networks) = (all.clone(), all);
    }

    fn network_of(
        &mut self,
        process: &Process,
        file: &OpenFile,
        usual: Option<u64>,
    ) -> Result<(), Problem> {
        let handle = file.flags & libc::O_PATH.cast_unsigned() != 0;
        let is_socket = file.mode & libc::S_IFMT == libc::S_IFSOCK && !handle;
        if !is_socket || self.held.networks.knows(file.inode) {
            return Ok(());
        }
        self.held.socket(process.pid, file)?;
        let (socket, networks) = self.held.socket_and_networks(file.inode)?;
        networks.add(file.inode, socket, usual)
    }

    /// Does `work` from inside of the namespace that a file belongs to, if it is a socket of another than this
    /// process's own; and notes in the entry which that is.
    pub(super) fn in_network(
        &mut self,
        process: &Process,
        file: &OpenFile,
        work: impl FnOnce(&mut Self) -> Result<FileEntry, Problem>,
    ) -> Result<FileEntry, Problem> {
        let usual = self.held.networks.add_process(process);
        self.network_of(process, file, usual)?;
        let Some((number, namespace)) = self.held.networks.of(file.inode) else {
            return work(self);
        };
        let namespace = Arc::clone(namespace);
        self.neighbours.place = Some(number);
        let entry = within_network(&*namespace, || work(self));
        self.neighbours.place = None;
        let mut entry = entry.doing("enter the network namespace of")??;
        // It is given its number in the images when they are written.
        set(&mut entry, number as u32);
        Ok(entry)
    }
}
