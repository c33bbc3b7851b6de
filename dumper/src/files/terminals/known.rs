//! The terminals of a tree: which sides of which are in it, and their entries in the images.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;

use images::messages::{TtyDataEntry, TtyInfoEntry, tty_type};
use inventory::terminals::{Side, Terminal};
use nix::sys::stat::FileStat;
use support::terminals as rules;

use super::super::beside::Part;
use super::super::problem::Problem;
use super::super::survey::{Survey, is_alive};
use super::entries::{data, info, node};
use crate::mounts::Views;

// What CRIU calls terminals in the images: pseudo-terminals by twice their number, and one more for the
// master; others by twice these.
const LARGEST_NUMBER: u32 = 1000;
const CONSOLE: u32 = 1002;
const VIRTUAL: u32 = 1004;
const CURRENT: u32 = 1006;
const SERIAL: u32 = 1010;
/// From here on CRIU gives none, and reads some: for a second virtual terminal and the like.
const OTHERS: u32 = 2154;
/// Pseudo-terminals with larger numbers, which CRIU does not carry.
const LARGE_NUMBERS: u32 = 1 << 17;

/// A pseudo-terminal: its number, and the device of the file system that its slave is on, if that is known.
type Pair = (u32, u64);

/// What is known of the terminals of a tree.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The tree has been looked through.
    begun: bool,
    /// The mount namespaces of the tree.
    views: Arc<Views>,
    /// Pseudo-terminals whose masters are in the tree.
    masters: BTreeSet<Pair>,
    /// Open files of the slaves.
    slaves: BTreeMap<Pair, BTreeSet<u64>>,
    /// The job's terminal.
    outside: Option<Pair>,
    /// The entries by their ids.
    pub(super) infos: BTreeMap<u32, TtyInfoEntry>,
    /// The ids of entries: by the side, the device, and whether it has hung up.
    ids: BTreeMap<(Side, u64, bool), u32>,
    pub(super) data: Vec<TtyDataEntry>,
}

impl Part for Known {}

/// A terminal outside of the tree.
pub(super) enum Outside {
    /// The one that a job has.
    First,
    /// Another one.
    Second,
}

impl Known {
    /// Looks through the tree, once.
    pub(super) fn begin(survey: &mut Survey<'_>) -> Result<(), Problem> {
        if std::mem::replace(&mut survey.out.beside.of::<Self>().begun, true) {
            return Ok(());
        }
        survey.out.beside.of::<Self>().views = Arc::clone(&survey.context.views);
        let (mut masters, mut slaves) = (BTreeSet::new(), BTreeMap::<Pair, BTreeSet<u64>>::new());
        let inventory = survey.inventory;
        for process in inventory.processes.values().filter(|process| is_alive(process)) {
            for file in &process.files {
                match &file.terminal {
                    Some(terminal) if terminal.hung_up => {}
                    Some(terminal) if terminal.side == Side::Master => {
                        masters.insert(pair(terminal));
                    }
                    Some(terminal) if terminal.side == Side::Slave => {
                        slaves.entry(pair(terminal)).or_default().insert(file.description);
                    }
                    Some(_) => {}
                    None if is_multiplexer(file) => {
                        let number = match survey.fdinfo(process.pid, file) {
                            Err(Problem::Gone) if !survey.frozen => None,
                            other => other?.tty_index,
                        };
                        masters.extend(number.map(|number| (number, 0)));
                    }
                    None => {}
                }
            }
        }
        let known = survey.out.beside.of::<Self>();
        (known.masters, known.slaves) = (masters, slaves);
        Ok(())
    }

    pub(super) fn has_master(&self, terminal: &Terminal) -> bool {
        self.masters.contains(&pair(terminal))
    }

    /// Whether others have a slave open, too.
    pub(super) fn is_held_outside(&self, terminal: &Terminal) -> bool {
        let own = self.slaves.get(&pair(terminal)).map_or(0, BTreeSet::len);
        terminal.opens.is_some_and(|opens| opens as usize > own)
    }

    /// Takes note of a terminal outside of the tree.
    pub(super) fn outside(&mut self, terminal: &Terminal) -> Outside {
        let own = pair(terminal);
        match *self.outside.get_or_insert(own) == own {
            true => Outside::First,
            false => Outside::Second,
        }
    }

    /// The id of a terminal, with an entry; `stat` is that of its own node, if it was opened by that.
    pub(super) fn add(
        &mut self,
        terminal: &Terminal,
        session: (u32, u32),
        stat: Option<&FileStat>,
    ) -> Result<u32, Problem> {
        let key = (terminal.side, terminal.device, terminal.hung_up);
        let is_pty = terminal.side != Side::Line;
        if let Some(&id) = self.ids.get(&key) {
            // By their devices alone they are not told apart.
            let instance = terminal.instance;
            let mut others = self.masters_called(terminal.number());
            let is_in_two = others.any(|(_, of)| is_pty && instance != 0 && *of != instance);
            drop(others);
            if !is_in_two || terminal.hung_up {
                self.complete(id, stat);
                return Ok(id);
            }
            return Err(Problem::Refused(rules::in_two_instances(terminal.number())));
        }
        let id = self.free_id(terminal);
        let mut entry = info(id, terminal, session);
        if terminal.side == Side::Master && !terminal.hung_up {
            entry.node = node(terminal, &self.views);
        }
        self.ids.insert(key, id);
        self.infos.insert(id, entry);
        self.complete(id, stat);
        if is_pty && self.has_master(terminal) {
            self.data.extend(data(id, terminal));
        }
        Ok(id)
    }

    /// The masters in the tree with this number, in whatever file system.
    fn masters_called(&self, number: u32) -> impl Iterator<Item = &Pair> {
        self.masters.range((number, 0)..=(number, u64::MAX))
    }

    /// Fills in what only the node of a terminal tells.
    fn complete(&mut self, id: u32, stat: Option<&FileStat>) {
        if let (Some(info), Some(stat)) = (self.infos.get_mut(&id), stat) {
            info.rdev = stat.st_rdev as u32;
            info.dev = Some(stat.st_dev as u32);
            (info.uid, info.gid) = (Some(stat.st_uid), Some(stat.st_gid));
        }
    }

    /// An id that no other terminal has.
    fn free_id(&self, terminal: &Terminal) -> u32 {
        let (major, minor) = (libc::major(terminal.device), libc::minor(terminal.device));
        let own = match (terminal.side, major) {
            (Side::Master | Side::Slave, _) => {
                let number = terminal.number();
                let id = number << 1 | u32::from(terminal.side == Side::Master);
                if number > LARGEST_NUMBER { LARGE_NUMBERS + id } else { id }
            }
            (Side::Line, 5) => CONSOLE << 1,
            (Side::Line, 4) if minor < 64 => VIRTUAL << 1,
            (Side::Line, _) => SERIAL << 1,
        };
        let is_free = |id: &u32| !self.infos.contains_key(id);
        // A terminal that has hung up gives its number free: another one may have it by now.
        let is_others = terminal.hung_up && self.masters_called(terminal.number()).next().is_some();
        Some(own)
            .filter(|_| !is_others)
            .into_iter()
            .chain(OTHERS..LARGE_NUMBERS)
            .find(is_free)
            .unwrap_or(u32::MAX)
    }

    /// The id of the entry for `/dev/tty`.
    pub(super) fn add_current(
        &mut self,
        terminal: &Terminal,
        session: (u32, u32),
        stat: &FileStat,
    ) -> u32 {
        let id = CURRENT << 1;
        if let Entry::Vacant(place) = self.infos.entry(id) {
            let entry = info(id, terminal, session);
            place.insert(TtyInfoEntry { r#type: tty_type::CTTY, pty: None, ..entry });
            self.complete(id, Some(stat));
        }
        id
    }
}

const fn pair(terminal: &Terminal) -> Pair {
    (terminal.number(), terminal.instance)
}

/// Whether a file that tells nothing of itself looks like the master of a pseudo-terminal.
fn is_multiplexer(file: &collector::OpenFile) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let is_handle = file.flags & libc::O_PATH.cast_unsigned() != 0;
    file.mode & libc::S_IFMT == libc::S_IFCHR
        && !is_handle
        && file.target.as_bytes().ends_with(b"/ptmx")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(side: Side, major: u32, minor: u32, instance: u64) -> Terminal {
        Terminal { side, device: libc::makedev(major, minor), instance, ..Terminal::default() }
    }

    #[test]
    fn ids_are_those_of_criu() {
        let mut known = Known::default();
        let mut id =
            |side, major, minor| known.add(&terminal(side, major, minor, 1), (0, 0), None).unwrap();
        assert_eq!((id(Side::Master, 128, 3), id(Side::Slave, 136, 3)), (7, 6));
        assert_eq!(id(Side::Slave, 136, 3), 6);
        assert_eq!((id(Side::Line, 4, 1), id(Side::Line, 4, 2)), (2008, OTHERS));
        assert_eq!((id(Side::Line, 5, 1), id(Side::Line, 4, 64)), (2004, 2020));
        assert_eq!(id(Side::Slave, 136, 1001), LARGE_NUMBERS + 2002);
        let mut hung_up = terminal(Side::Slave, 136, 3, 0);
        hung_up.hung_up = true;
        assert_eq!(known.add(&hung_up, (0, 0), None).unwrap(), OTHERS + 1);
        assert!(known.infos.iter().all(|(id, info)| info.id == *id));
        assert_eq!(known.infos.len(), 8);
    }

    #[test]
    fn who_else_has_it_open() {
        let mut known = Known::default();
        let slave = terminal(Side::Slave, 136, 3, 9);
        assert!(!known.has_master(&slave));
        known.masters.insert((3, 9));
        assert!(known.has_master(&slave));
        known.slaves.insert((3, 9), BTreeSet::from([1, 2]));
        assert!(!known.is_held_outside(&Terminal { opens: Some(2), ..slave.clone() }));
        assert!(known.is_held_outside(&Terminal { opens: Some(3), ..slave.clone() }));
        assert!(!known.is_held_outside(&Terminal { opens: None, ..slave }));
    }
}
