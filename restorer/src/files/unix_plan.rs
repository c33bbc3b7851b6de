//! In which way each Unix socket comes to be: decided from the entries alone.
//!
//! Two connected sockets are a pair. When the name of one of them is also that of another socket
//! (an accepted connection has its listener's name) it cannot be bound to it: it must be accepted
//! from a listener of that name, the true one or, where that has been closed, a temporary one.

use std::collections::{BTreeMap, BTreeSet};

use images::messages::{SHUTDOWN_BOTH, SK_CLOSE, SK_ESTABLISHED, SK_LISTEN, UnixSkEntry};

use super::Error;

/// How sockets are made; numbers are places in the list of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Made alone: bound, listening, or neither.
    Single(usize),
    /// Made as a pair. Without a second one the other end has been closed.
    Pair(usize, Option<usize>),
    /// Accepted from a listener with its name. Without a client the other end has been closed.
    Accepted {
        server: usize,
        client: Option<usize>,
        /// The listener, when it is there.
        listener: Option<usize>,
    },
    /// Connected to a listener, and not accepted yet.
    Waiting { client: usize, listener: usize },
    /// Connected to a socket outside of the tree.
    Outward(usize),
    /// A datagram socket aimed at another that is not aimed at it.
    Aimed { from: usize, to: usize },
}

impl Step {
    /// The order of the steps: sockets that are bound and listen are made first, those that are aimed at others last.
    fn order(self) -> u8 {
        match self {
            Self::Single(_) => 0,
            Self::Pair(..) => 1,
            Self::Accepted { .. } => 2,
            Self::Waiting { .. } => 3,
            Self::Outward(_) => 4,
            Self::Aimed { .. } => 5,
        }
    }

    /// For a pair its maker's credentials and its type: pairs that are alike are made together.
    fn maker(self, entries: &[&UnixSkEntry]) -> Option<(u32, u32, u32, u32)> {
        let Self::Pair(index, _) = self else { return None };
        let who = entries[index].peer_credentials.as_ref();
        let (pid, uid, gid) = who.map_or((0, 0, 0), |who| (who.pid, who.uid, who.gid));
        Some((pid, uid, gid, entries[index].r#type))
    }

    /// Whether two steps are pairs that one process makes, of one type.
    pub(super) fn is_like(self, other: Self, entries: &[&UnixSkEntry]) -> bool {
        let (Self::Pair(a, _), Self::Pair(b, _)) = (self, other) else { return false };
        let (a, b) = (entries[a], entries[b]);
        a.r#type == b.r#type && a.peer_credentials == b.peer_credentials && a.ns_id == b.ns_id
    }
}

/// A name, with the directory that a relative one counts from, and whether it has been unlinked:
/// one that is there again is another socket's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name<'a> {
    pub(super) directory: &'a [u8],
    pub(super) name: &'a [u8],
    pub(super) deleted: bool,
    /// The network namespace that an abstract name is of.
    pub(super) network: Option<u32>,
}

pub(super) fn name(entry: &UnixSkEntry) -> Name<'_> {
    Name {
        directory: entry.name_dir.as_deref().unwrap_or_default(),
        name: &entry.name,
        deleted: entry.deleted == Some(true),
        network: entry.ns_id.filter(|_| entry.name.first() == Some(&0)),
    }
}

/// The steps, in the order in which they are taken; `outside` are sockets outside of the tree, by inode.
pub(super) fn plan(entries: &[&UnixSkEntry], outside: &BTreeSet<u32>) -> Result<Vec<Step>, Error> {
    let planner = Planner::new(entries, outside)?;
    let mut steps = Vec::new();
    let mut done = vec![false; entries.len()];
    for index in 0..entries.len() {
        if !done[index] {
            planner.step(index, &mut done, &mut steps)?;
        }
    }
    steps.sort_by_key(|step| (step.order(), step.maker(entries)));
    let first = steps.iter().position(|step| matches!(step, Step::Aimed { .. }));
    let aims = steps.split_off(first.unwrap_or(steps.len()));
    steps.extend(in_order(aims));
    Ok(steps)
}

/// Puts the aims of datagram sockets into an order in which each can be taken: a socket that is aimed
/// lets only its own peer aim at it, so whoever is aimed at it comes first.
fn in_order(mut aims: Vec<Step>) -> Vec<Step> {
    let ends = |step: &Step| match *step {
        Step::Aimed { from, to } => (from, to),
        _ => (0, 0),
    };
    let mut waited_for: BTreeMap<usize, usize> = BTreeMap::new();
    for (_, to) in aims.iter().map(ends).filter(|(from, to)| from != to) {
        *waited_for.entry(to).or_default() += 1;
    }
    let mut ordered = Vec::with_capacity(aims.len());
    while !aims.is_empty() {
        let before = ordered.len();
        aims.retain(|aim| {
            let (from, to) = ends(aim);
            let is_free = waited_for.get(&from).is_none_or(|count| *count == 0);
            if is_free {
                ordered.push(*aim);
                if from != to
                    && let Some(count) = waited_for.get_mut(&to)
                {
                    *count -= 1;
                }
            }
            !is_free
        });
        if ordered.len() == before {
            // A circle, which no order makes: the kernel will say so.
            ordered.append(&mut aims);
        }
    }
    ordered
}

struct Planner<'a> {
    entries: &'a [&'a UnixSkEntry],
    /// Sockets outside of the tree, by inode.
    outside: &'a BTreeSet<u32>,
    by_inode: BTreeMap<u32, usize>,
    by_name: BTreeMap<Name<'a>, Vec<usize>>,
    /// How many sockets are connected to each.
    aims: BTreeMap<u32, usize>,
}

fn wrong(entry: &UnixSkEntry, reason: &str) -> Error {
    Error::image(format!("Unix socket {}", entry.id), reason)
}

impl<'a> Planner<'a> {
    fn new(entries: &'a [&'a UnixSkEntry], outside: &'a BTreeSet<u32>) -> Result<Self, Error> {
        let mut by_inode = BTreeMap::new();
        let mut by_name: BTreeMap<Name<'_>, Vec<usize>> = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            if entry.uflags != 0 {
                let object = format!("Unix socket {}", entry.id);
                return Err(Error::refused(entry.id, support::images::UNIX_BY_OTHERS, object));
            }
            let kind = entry.r#type.cast_signed();
            if !matches!(kind, libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET) {
                return Err(wrong(entry, "its type is not known"));
            }
            if by_inode.insert(entry.ino, index).is_some() {
                return Err(wrong(entry, "another has the same inode"));
            }
            if !entry.name.is_empty() {
                by_name.entry(name(entry)).or_default().push(index);
            }
        }
        let mut aims: BTreeMap<u32, usize> = BTreeMap::new();
        for entry in entries {
            *aims.entry(entry.peer).or_default() += 1;
        }
        Ok(Self { entries, outside, by_inode, by_name, aims })
    }

    fn shared(&self, index: usize) -> bool {
        self.by_name.get(&name(self.entries[index])).is_some_and(|holders| holders.len() > 1)
    }

    fn listener(&self, index: usize) -> Option<usize> {
        let holders = self.by_name.get(&name(self.entries[index]))?;
        holders.iter().copied().find(|&holder| self.entries[holder].state == SK_LISTEN)
    }

    fn peer(&self, index: usize) -> Result<Option<usize>, Error> {
        let entry = self.entries[index];
        // A datagram socket may be connected to its own name.
        let to_itself = entry.r#type.cast_signed() == libc::SOCK_DGRAM;
        match (entry.peer, self.by_inode.get(&entry.peer)) {
            (0, _) => Ok(None),
            (_, Some(&peer)) if peer != index || to_itself => Ok(Some(peer)),
            _ => Err(wrong(entry, "its peer is not in the images")),
        }
    }

    fn step(&self, index: usize, done: &mut [bool], steps: &mut Vec<Step>) -> Result<(), Error> {
        done[index] = true;
        let entry = self.entries[index];
        let datagrams = entry.r#type.cast_signed() == libc::SOCK_DGRAM;
        if !self.by_inode.contains_key(&entry.peer) && self.outside.contains(&entry.peer) {
            steps.extend([Step::Single(index), Step::Outward(index)]);
            return Ok(());
        }
        let peer = self.peer(index)?;
        let mutual = peer.filter(|&peer| self.entries[peer].peer == entry.ino && !done[peer]);
        // A pair is aimed from its birth: nobody else could come to aim at one of them.
        let aims = |index: usize| self.aims.get(&self.entries[index].ino);
        let only_each_other = |peer: &usize| aims(index) == Some(&1) && aims(*peer) == Some(&1);
        let mutual = mutual.filter(|peer| !datagrams || only_each_other(peer));
        match (entry.state, peer) {
            (SK_LISTEN, _) => steps.push(Step::Single(index)),
            _ if datagrams => {
                if let Some(other) = mutual {
                    done[other] = true;
                    steps.push(Step::Pair(index, Some(other)));
                } else if entry.state == SK_ESTABLISHED && peer.is_none() && entry.name.is_empty() {
                    // Nobody else can have sent what it holds, and nobody can send to it any more.
                    steps.push(Step::Pair(index, None));
                } else {
                    steps.push(Step::Single(index));
                    steps.extend(peer.map(|to| Step::Aimed { from: index, to }));
                }
            }
            (SK_CLOSE, _) => steps.push(Step::Single(index)),
            (SK_ESTABLISHED, None) => {
                if entry.shutdown.unwrap_or_default() != SHUTDOWN_BOTH {
                    return Err(wrong(entry, "it is connected, but not to any other"));
                }
                steps.push(self.half(index));
            }
            (SK_ESTABLISHED, Some(peer)) => {
                let step = self.connected(index, peer, mutual)?;
                if let Some(other) = mutual {
                    done[other] = true;
                }
                steps.push(step);
            }
            _ => return Err(wrong(entry, "its state is not known")),
        }
        Ok(())
    }

    fn half(&self, index: usize) -> Step {
        if self.shared(index) {
            Step::Accepted { server: index, client: None, listener: self.listener(index) }
        } else {
            Step::Pair(index, None)
        }
    }

    fn connected(&self, index: usize, peer: usize, mutual: Option<usize>) -> Result<Step, Error> {
        let entry = self.entries[index];
        if self.entries[peer].state == SK_LISTEN {
            return Ok(Step::Waiting { client: index, listener: peer });
        }
        if mutual.is_none() {
            return Err(wrong(entry, "its peer is connected to another"));
        }
        let accepted = |server, client| Step::Accepted {
            server,
            client: Some(client),
            listener: self.listener(server),
        };
        match (self.shared(index), self.shared(peer)) {
            // One was accepted, and its listener has gone with no other of its connections: it has a name.
            (false, false) if entry.peer_credentials != self.entries[peer].peer_credentials => {
                match (entry.name.is_empty(), self.entries[peer].name.is_empty()) {
                    (true, true) => Ok(Step::Pair(index, mutual)),
                    (false, _) => Ok(accepted(index, peer)),
                    (true, false) => Ok(accepted(peer, index)),
                }
            }
            (false, false) => Ok(Step::Pair(index, mutual)),
            (true, false) => Ok(accepted(index, peer)),
            (false, true) => Ok(accepted(peer, index)),
            (true, true) => Err(wrong(entry, "both ends have names that others have, too")),
        }
    }
}

/// A socket, for messages.
pub(super) fn what(entry: &UnixSkEntry) -> String {
    let name = entry.name.strip_suffix(&[0]).unwrap_or(&entry.name);
    match name.first() {
        None => format!("Unix socket {}", entry.id),
        Some(0) => {
            format!("Unix socket {} (@{})", entry.id, String::from_utf8_lossy(&name[1..]))
        }
        Some(_) => format!("Unix socket {} ({})", entry.id, String::from_utf8_lossy(name)),
    }
}

pub(super) fn failed(doing: &str, entry: &UnixSkEntry) -> impl FnOnce(std::io::Error) -> Error {
    let operation = format!("{doing} {}", what(entry));
    move |source| Error::Kernel { operation, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(ino: u32, state: u32, peer: u32, name: &[u8]) -> UnixSkEntry {
        UnixSkEntry {
            id: ino + 100,
            ino,
            r#type: libc::SOCK_STREAM.cast_unsigned(),
            state,
            peer,
            name: name.to_vec(),
            ..UnixSkEntry::default()
        }
    }

    fn steps(sockets: &[UnixSkEntry]) -> Result<Vec<Step>, Error> {
        plan(&sockets.iter().collect::<Vec<_>>(), &BTreeSet::new())
    }

    #[test]
    fn accepted_connections_come_after_their_listener() {
        let sockets = [
            socket(1, SK_ESTABLISHED, 2, b""),
            socket(2, SK_ESTABLISHED, 1, b"/s\0"),
            socket(3, SK_ESTABLISHED, 4, b""),
            socket(4, SK_LISTEN, 0, b"/s\0"),
            socket(5, SK_ESTABLISHED, 6, b"own\0"),
            socket(6, SK_ESTABLISHED, 5, b""),
        ];
        let expected = [
            Step::Single(3),
            Step::Pair(4, Some(5)),
            Step::Accepted { server: 1, client: Some(0), listener: Some(3) },
            Step::Waiting { client: 2, listener: 3 },
        ];
        assert_eq!(steps(&sockets).unwrap(), expected);
    }

    #[test]
    fn pairs_of_one_maker_are_made_together() {
        let made_by = |pid, entry: UnixSkEntry| UnixSkEntry {
            peer_credentials: Some(images::messages::PeerCredentials { pid, ..Default::default() }),
            ..entry
        };
        let sockets: Vec<_> = (0..4)
            .flat_map(|pair| [(2 * pair + 1, 2 * pair + 2), (2 * pair + 2, 2 * pair + 1)])
            .map(|(own, peer)| {
                let maker = 7 + (own.max(peer) / 2) % 2;
                made_by(maker, socket(own, SK_ESTABLISHED, peer, b""))
            })
            .collect();
        let entries: Vec<_> = sockets.iter().collect();
        let steps = plan(&entries, &BTreeSet::new()).unwrap();
        let together: Vec<usize> =
            steps.chunk_by(|a, b| a.is_like(*b, &entries)).map(<[_]>::len).collect();
        assert_eq!(together, [2, 2]);
    }

    #[test]
    fn a_listener_that_is_gone_and_a_peer_that_is() {
        let closed =
            UnixSkEntry { shutdown: Some(SHUTDOWN_BOTH), ..socket(3, SK_ESTABLISHED, 0, b"\0x") };
        let sockets = [
            socket(1, SK_ESTABLISHED, 2, b"\0x"),
            socket(2, SK_ESTABLISHED, 1, b""),
            closed.clone(),
        ];
        let expected = [
            Step::Accepted { server: 0, client: Some(1), listener: None },
            Step::Accepted { server: 2, client: None, listener: None },
        ];
        assert_eq!(steps(&sockets).unwrap(), expected);
        assert_eq!(steps(&[closed]).unwrap(), [Step::Pair(0, None)]);
    }

    #[test]
    fn whoever_is_aimed_at_is_aimed_last() {
        let kind = libc::SOCK_DGRAM.cast_unsigned();
        let of = |entry: UnixSkEntry| UnixSkEntry { r#type: kind, ..entry };
        let sockets = [
            of(socket(1, SK_ESTABLISHED, 1, b"itself\0")),
            of(socket(2, SK_ESTABLISHED, 1, b"")),
            of(socket(3, SK_ESTABLISHED, 4, b"first\0")),
            of(socket(4, SK_ESTABLISHED, 5, b"second\0")),
            of(socket(5, SK_CLOSE, 0, b"third\0")),
        ];
        let steps = steps(&sockets).unwrap();
        let place = |from, to| {
            steps.iter().position(|step| *step == Step::Aimed { from, to }).expect("an aim")
        };
        assert!(place(1, 0) < place(0, 0));
        assert!(place(2, 3) < place(3, 4));
    }

    #[test]
    fn an_accepted_connection_is_told_by_the_ids_of_its_ends() {
        use images::messages::PeerCredentials;
        let of = |entry: UnixSkEntry, uid| UnixSkEntry {
            peer_credentials: Some(PeerCredentials { uid, ..PeerCredentials::default() }),
            ..entry
        };
        let ends = |name, uid| {
            [of(socket(1, SK_ESTABLISHED, 2, b""), 1), of(socket(2, SK_ESTABLISHED, 1, name), uid)]
        };
        let accepted = Step::Accepted { server: 1, client: Some(0), listener: None };
        assert_eq!(steps(&ends(b"/s\0", 2)).unwrap(), [accepted]);
        assert_eq!(steps(&ends(b"/s\0", 1)).unwrap(), [Step::Pair(0, Some(1))]);
        assert_eq!(steps(&ends(b"", 2)).unwrap(), [Step::Pair(0, Some(1))]);
    }

    #[test]
    fn datagrams() {
        let kind = libc::SOCK_DGRAM.cast_unsigned();
        let of = |entry: UnixSkEntry| UnixSkEntry { r#type: kind, ..entry };
        let sockets = [
            of(socket(1, SK_CLOSE, 0, b"/log\0")),
            of(socket(2, SK_ESTABLISHED, 1, b"")),
            of(socket(3, SK_ESTABLISHED, 4, b"")),
            of(socket(4, SK_ESTABLISHED, 3, b"")),
        ];
        let expected = [
            Step::Single(0),
            Step::Single(1),
            Step::Pair(2, Some(3)),
            Step::Aimed { from: 1, to: 0 },
        ];
        assert_eq!(steps(&sockets).unwrap(), expected);
    }

    #[test]
    fn hostile_entries() {
        for sockets in [
            vec![socket(1, SK_ESTABLISHED, 1, b"")],
            vec![socket(1, SK_ESTABLISHED, 9, b"")],
            vec![socket(1, SK_CLOSE, 0, b""), socket(1, SK_CLOSE, 0, b"")],
            vec![socket(1, SK_ESTABLISHED, 0, b"")],
            vec![socket(1, 77, 0, b"")],
            vec![socket(1, SK_ESTABLISHED, 2, b""), socket(2, SK_ESTABLISHED, 3, b"")],
        ] {
            assert!(steps(&sockets).is_err(), "{sockets:?}");
        }
    }
}
