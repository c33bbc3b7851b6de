//! Unix sockets: made, named, connected and filled in the order that [`super::unix_plan`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use images::Checkpoint;
use images::messages::{FileEntry, PeerCredentials, SK_LISTEN, UnixSkEntry, fd_type};
use kernel::descriptors::{change_status_flags, set_status_flags};
use kernel::sockets;

use support::Refusal;

use super::Error;
use super::actors::{act, pairs};
use super::approve::Approver;
use super::beside::Beside;
use super::file_kind::{FileKind, missing};
use super::keepers::AtHand;
use super::networks::Networks;
use super::opening::Opening;
use super::socket_options::{self, Buffers};
use super::unix_clients;
use super::unix_names::{Names, address_of, connect};
use super::unix_outside::Outside;
use super::unix_plan::{Name, Step, failed, name, plan, what};
use super::unix_queues::{Message, Queued, Queues, deliver, load};
use super::user::User;

const O_NONBLOCK: u32 = libc::O_NONBLOCK.cast_unsigned();
const O_ASYNC: u32 = libc::O_ASYNC.cast_unsigned();

/// A Unix socket.
#[derive(Debug)]
pub(super) struct UnixSocket;

impl FileKind for UnixSocket {
    fn r#type(&self) -> u32 {
        fd_type::UNIXSK
    }

    fn load(&self, checkpoint: &Checkpoint, beside: &mut Beside) -> Result<(), Error> {
        beside.of::<Queued>().0 = load(checkpoint)?;
        Ok(())
    }

    fn sent(&self, beside: &Beside) -> Vec<(u32, u32)> {
        let Some(Queued(queues)) = beside.get() else { return Vec::new() };
        let sent = queues.iter().flat_map(|(socket, messages)| {
            messages.iter().flat_map(|message| &message.files).map(|file| (*socket, *file))
        });
        sent.collect()
    }

    fn opens_others(&self) -> bool {
        true
    }

    fn name(&self, file: &FileEntry, _beside: &Beside) -> Option<Vec<u8>> {
        Some(format!("socket:[{}]", file.usk.as_ref()?.ino).into_bytes())
    }

    fn beyond(&self, file: &FileEntry, user: &User<'_>) -> Option<(Refusal, String)> {
        let socket = file.usk.as_deref()?;
        let mut who = [&socket.peer_credentials, &socket.connector].into_iter().flatten();
        let object = || format!("Unix socket of file {}", file.id);
        let is_of_others = !who.all(|who| user.is(who));
        is_of_others.then(|| (support::host::ids_of_others(user.uid, user.gid), object()))
    }

    /// Nothing is sent to it: whoever hands it over has its other end.
    fn inherit(
        &self,
        opening: &mut Opening<'_>,
        file: &FileEntry,
        handed: &OwnedFd,
    ) -> Result<OwnedFd, Error> {
        // CRIU takes down what nobody can put there.
        let queues = opening.beside.get::<Queued>();
        if queues.is_some_and(|queues| queues.0.contains_key(&file.id)) {
            tracing::warn!(socket = file.id, "what waited in a socket that is handed over is lost");
        }
        let operation = || format!("duplicate the descriptor for Unix socket {}", file.id);
        handed.try_clone().map_err(|source| Error::Kernel { operation: operation(), source })
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        let entries = files
            .iter()
            .map(|file| file.usk.as_deref().ok_or_else(|| missing(file)))
            .collect::<Result<Vec<_>, _>>()?;
        let (clients, entries): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| unix_clients::is_client(entry));
        for entry in clients {
            let client = unix_clients::open(entry)?;
            opening.add(entry.id, client)?;
        }
        // All are made before the first is complete, some of them with another.
        opening.have_room_for(entries.len() * 2, "sockets")?;
        let outside = Outside::of(opening.files);
        outside.refuse(&entries, opening.external_unix)?;
        let none = Queues::new();
        let queues = opening.beside.get::<Queued>().map_or(&none, |queued| &queued.0);
        let at_hand = |id| opening.at_hand(id);
        let networks = &opening.opener.networks;
        let others = Others { queues, outside: &outside, at_hand: &at_hand, networks };
        let sockets = open(&entries, &others, &opening.opener.approver)?;
        for (entry, fd) in entries.iter().zip(sockets) {
            opening.add(entry.id, fd)?;
        }
        Ok(())
    }
}

/// What there is beside the sockets themselves.
pub(super) struct Others<'a, 'b> {
    pub(super) queues: &'a Queues,
    pub(super) outside: &'a Outside<'a>,
    /// Gives files of other kinds.
    pub(super) at_hand: &'a dyn Fn(u32) -> Result<AtHand<'b>, Error>,
    /// Where they are made.
    pub(super) networks: &'a Networks,
}

/// Makes all Unix sockets; what is returned is in the order of `entries`.
pub(super) fn open(
    entries: &[&UnixSkEntry],
    others: &Others<'_, '_>,
    approver: &Approver,
) -> Result<Vec<OwnedFd>, Error> {
    let steps = plan(entries, &others.outside.inodes())?;
    let mut names = Names::new(approver);
    let Some(first) = entries.first() else { return Ok(Vec::new()) };
    let fresh = sockets::create(libc::AF_UNIX, libc::SOCK_STREAM, 0)
        .and_then(|socket| Buffers::of(&socket))
        .map_err(failed("ask for the buffers of a socket like", first))?;
    let mut maker = Maker {
        entries,
        made: entries.iter().map(|_| None).collect(),
        buffers: vec![Some(fresh); entries.len()],
        others: BTreeMap::new(),
        stands: BTreeMap::new(),
        listening: BTreeMap::new(),
        names: &mut names,
        networks: others.networks,
    };
    for alike in steps.chunk_by(|a, b| a.is_like(*b, entries)) {
        maker.take(alike)?;
    }
    maker.listen_as_before()?;
    maker.fill(&steps, others)?;
    maker.connect_outward(&steps, others.outside, approver)?;
    let sockets = maker.finish(&steps)?;
    names.settle();
    Ok(sockets)
}

struct Maker<'a, 'b> {
    entries: &'a [&'a UnixSkEntry],
    made: Vec<Option<OwnedFd>>,
    /// The buffers that each has from its birth; nothing where they have been changed.
    buffers: Vec<Option<Buffers>>,
    /// The other ends of sockets whose peers have been closed.
    others: BTreeMap<usize, OwnedFd>,
    /// Listeners that stand in for closed ones, by name.
    stands: BTreeMap<Name<'a>, OwnedFd>,
    /// Whose credentials each listener has at the moment, by its descriptor: the kernel gives them to a socket that connects to it.
    listening: BTreeMap<i32, Option<&'a PeerCredentials>>,
    names: &'a mut Names<'b>,
    networks: &'a Networks,
}

/// Who can send what to whom; numbers are places in the list of entries.
struct Routes<'a> {
    peers: BTreeMap<usize, usize>,
    /// Those that are connected to others outside of the tree.
    outward: BTreeSet<usize>,
    /// By id.
    places: BTreeMap<u32, usize>,
    /// Those that send datagrams and have a name.
    by_name: BTreeMap<&'a [u8], usize>,
}

impl<'a> Routes<'a> {
    fn of(entries: &'a [&'a UnixSkEntry], steps: &[Step]) -> Self {
        let (mut peers, mut outward) = (BTreeMap::new(), BTreeSet::new());
        for step in steps {
            match *step {
                Step::Outward(index) => drop(outward.insert(index)),
                Step::Pair(a, Some(b)) | Step::Accepted { server: a, client: Some(b), .. } => {
                    peers.insert(a, b);
                    peers.insert(b, a);
                }
                _ => {}
            }
        }
        let is_named = |entry: &UnixSkEntry| {
            entry.r#type.cast_signed() == libc::SOCK_DGRAM && entry.deleted != Some(true)
        };
        let all = || entries.iter().enumerate();
        let named = all().filter(|(_, entry)| is_named(entry));
        Self {
            peers,
            outward,
            places: all().map(|(place, entry)| (entry.id, place)).collect(),
            by_name: named.map(|(place, entry)| (&entry.name[..], place)).collect(),
        }
    }
}

const NO_LISTENER: &str = "its listener was not made";

impl<'a> Maker<'a, '_> {
    /// Takes steps that are alike: pairs that one process makes, or a single step.
    fn take(&mut self, alike: &[Step]) -> Result<(), Error> {
        let Some(step) = alike.first() else { return Ok(()) };
        match *step {
            Step::Single(index) => {
                let socket = self.new_socket(index)?;
                self.name(index, &socket)?;
                let entry = self.entries[index];
                if entry.state == SK_LISTEN {
                    self.listen(&socket, index, entry.peer_credentials.as_ref())?;
                }
                self.made[index] = Some(socket);
            }
            Step::Pair(first, _) => self.make_pairs(first, alike)?,
            Step::Accepted { server, client, listener } => self.accept(server, client, listener)?,
            Step::Waiting { client, listener } => {
                let socket = self.new_socket(client)?;
                self.name(client, &socket)?;
                let to = self.made[listener].take();
                let to = to.ok_or_else(|| Error::image(what(self.entries[client]), NO_LISTENER))?;
                let entry = self.entries[client];
                self.listen(&to, listener, entry.peer_credentials.as_ref())?;
                let who = entry.connector.as_ref();
                connect(who, &socket, Some(&to), self.entries[listener])?;
                self.made[listener] = Some(to);
                self.made[client] = Some(socket);
            }
            // When it is filled: from then on only its peer could send to it.
            Step::Aimed { .. } | Step::Outward(_) => {}
        }
        Ok(())
    }

    /// Makes the pairs of steps that are alike; `like` is one of the sockets.
    fn make_pairs(&mut self, like: usize, steps: &[Step]) -> Result<(), Error> {
        let entry = self.entries[like];
        let (who, kind) = (entry.peer_credentials.as_ref(), entry.r#type.cast_signed());
        let make = || pairs(who, kind, steps.len()).map_err(failed("make", entry));
        let made = self.networks.within(entry.ns_id, make)?;
        for (step, (a, b)) in steps.iter().zip(made) {
            let Step::Pair(first, second) = *step else { continue };
            self.name(first, &a)?;
            self.made[first] = Some(a);
            match second {
                Some(second) => {
                    self.name(second, &b)?;
                    self.made[second] = Some(b);
                }
                None => drop(self.others.insert(first, b)),
            }
        }
        Ok(())
    }

    fn new_socket(&self, index: usize) -> Result<OwnedFd, Error> {
        let entry = self.entries[index];
        let make = || {
            sockets::create(libc::AF_UNIX, entry.r#type.cast_signed(), 0)
                .map_err(failed("make", entry))
        };
        let socket = self.networks.within(entry.ns_id, make)?;
        // Nothing here may wait: it is an error then. Its own flags come later.
        set_status_flags(&socket, O_NONBLOCK).map_err(failed("make", entry))?;
        Ok(socket)
    }

    fn name(&mut self, index: usize, socket: &OwnedFd) -> Result<(), Error> {
        let entry = self.entries[index];
        if entry.name.is_empty() { Ok(()) } else { self.names.bind(socket, entry) }
    }

    fn accept(
        &mut self,
        server: usize,
        client: Option<usize>,
        listener: Option<usize>,
    ) -> Result<(), Error> {
        let entry = self.entries[server];
        let key = name(entry);
        let socket = self.new_socket(client.unwrap_or(server))?;
        if let Some(client) = client {
            self.name(client, &socket)?;
        }
        let from = match listener {
            Some(listener) => self.made[listener].take(),
            None => Some(match self.stands.remove(&key) {
                Some(stand) => stand,
                None => {
                    let stand = self.new_socket(server)?;
                    self.names.bind(&stand, entry)?;
                    stand
                }
            }),
        };
        let from = from.ok_or_else(|| Error::image(what(entry), NO_LISTENER))?;
        // Each of them is told of the other.
        let seen = client.and_then(|client| self.entries[client].peer_credentials.as_ref());
        self.listen(&from, listener.unwrap_or(server), seen)?;
        connect(entry.peer_credentials.as_ref(), &socket, Some(&from), entry)?;
        let accepted = sockets::accept(&from).map_err(failed("accept", entry))?;
        match listener {
            Some(listener) => self.made[listener] = Some(from),
            None => drop(self.stands.insert(key, from)),
        }
        self.made[server] = Some(accepted);
        match client {
            Some(client) => self.made[client] = Some(socket),
            None => drop(self.others.insert(server, socket)),
        }
        Ok(())
    }

    /// Has somebody listen to a socket, the listener of an entry or one that stands in for it.
    fn listen(
        &mut self,
        socket: &OwnedFd,
        index: usize,
        who: Option<&'a PeerCredentials>,
    ) -> Result<(), Error> {
        let entry = self.entries[index];
        let number = socket.as_raw_fd();
        if self.listening.get(&number).is_some_and(|now| who.is_none() || *now == who) {
            return Ok(());
        }
        let backlog = if entry.state == SK_LISTEN { entry.backlog } else { 1 };
        act(who, || sockets::listen(socket, backlog)).map_err(failed("listen on", entry))?;
        self.listening.insert(number, who);
        Ok(())
    }

    /// Listeners are those again who made them listen last.
    fn listen_as_before(&mut self) -> Result<(), Error> {
        for index in 0..self.entries.len() {
            let entry = self.entries[index];
            if entry.state == SK_LISTEN
                && let Some(socket) = self.made[index].take()
            {
                self.listen(&socket, index, entry.peer_credentials.as_ref())?;
                self.made[index] = Some(socket);
            }
        }
        self.listening.clear();
        Ok(())
    }

    /// Puts back what was queued, each message from the socket that can have sent it.
    fn fill(&mut self, steps: &[Step], others: &Others<'_, '_>) -> Result<(), Error> {
        let routes = Routes::of(self.entries, steps);
        for (index, entry) in self.entries.iter().enumerate() {
            let messages = others.queues.get(&entry.id).map_or(&[][..], |messages| messages);
            if messages.is_empty() {
                continue;
            }
            // CRIU takes down what a new connection cannot have: what the old one had brought.
            if routes.outward.contains(&index) && entry.r#type.cast_signed() != libc::SOCK_DGRAM {
                tracing::warn!(socket = entry.id, "what waited in a connection to outside is lost");
                continue;
            }
            if let Some(&peer) = routes.peers.get(&index) {
                self.buffers[peer] = None;
            }
            for run in messages.chunk_by(|one, next| one.from == next.from) {
                self.send(&routes, index, run, others)?;
            }
        }
        Ok(())
    }

    /// Sends messages that have one sender to a socket.
    fn send(
        &mut self,
        routes: &Routes<'_>,
        index: usize,
        run: &[Message],
        others: &Others<'_, '_>,
    ) -> Result<(), Error> {
        let entry = self.entries[index];
        let from = run.first().map_or(&[][..], |message| &message.from);
        let (passing, address);
        let sender = if from.is_empty() {
            address = None;
            let peer = routes.peers.get(&index).and_then(|&peer| self.made[peer].as_ref());
            match peer.or_else(|| self.others.get(&index)) {
                Some(sender) => sender,
                None => {
                    passing = self.new_socket(index)?;
                    connect(None, &passing, self.made[index].as_ref(), entry)?;
                    &passing
                }
            }
        } else {
            address = Some(address_of(self.made[index].as_ref(), entry)?);
            match routes.by_name.get(from).and_then(|&at| self.made[at].as_ref()) {
                Some(sender) => sender,
                None => {
                    passing = Self::named((self.names, self.networks), from, entry)?;
                    &passing
                }
            }
        };
        let address = address.as_ref().map(|(address, _)| address);
        deliver(sender, run, entry, address, |id| match routes.places.get(&id) {
            Some(&place) => match &self.made[place] {
                Some(socket) => Ok(AtHand::Ours(socket.as_fd())),
                None => Err(Error::image(format!("Unix socket {id}"), "it was not made")),
            },
            None => (others.at_hand)(id),
        })
    }

    /// A socket that has a name for a moment, to send datagrams to that of an entry.
    fn named(
        (names, networks): (&mut Names<'_>, &Networks),
        name: &[u8],
        to: &UnixSkEntry,
    ) -> Result<OwnedFd, Error> {
        let socket = networks.within(to.ns_id, || {
            let socket = sockets::create(libc::AF_UNIX, libc::SOCK_DGRAM, 0);
            socket.map_err(failed("make a sender for", to))
        })?;
        let entry = UnixSkEntry {
            id: to.id,
            r#type: libc::SOCK_DGRAM.cast_unsigned(),
            name: name.to_vec(),
            deleted: Some(true),
            ..UnixSkEntry::default()
        };
        names.bind(&socket, &entry)?;
        Ok(socket)
    }

    /// Connects what was connected to others outside of the tree.
    fn connect_outward(
        &self,
        steps: &[Step],
        outside: &Outside<'_>,
        approver: &Approver,
    ) -> Result<(), Error> {
        for step in steps {
            if let Step::Outward(index) = *step
                && let Some(socket) = &self.made[index]
            {
                outside.connect(socket, self.entries[index], approver)?;
            }
        }
        Ok(())
    }

    /// Aims, shuts down, options and flags.
    fn finish(mut self, steps: &[Step]) -> Result<Vec<OwnedFd>, Error> {
        for step in steps {
            if let Step::Aimed { from, to } = *step
                && let Some(socket) = &self.made[from]
            {
                connect(None, socket, self.made[to].as_ref(), self.entries[to])?;
            }
        }
        // What the other end of a closed connection leaves behind is a shutdown of both ways.
        self.others.clear();
        let made = std::mem::take(&mut self.made);
        let paired = |step: &Step| match *step {
            Step::Pair(first, second) => [Some(first), second],
            _ => [None, None],
        };
        let paired: BTreeSet<usize> = steps.iter().flat_map(paired).flatten().collect();
        made.into_iter()
            .zip(self.entries)
            .zip(self.buffers)
            .enumerate()
            .map(|(index, ((socket, entry), buffers))| {
                let socket = socket.ok_or_else(|| Error::image(what(entry), "it was not made"))?;
                if let Some(shutdown) = entry.shutdown.filter(|it| (1..=3).contains(it)) {
                    // `SHUT_RD` is 0, and so on: one less than in the images.
                    match sockets::shutdown(&socket, shutdown.cast_signed() - 1) {
                        Err(error) if error.raw_os_error() != Some(libc::ENOTCONN) => {
                            return Err(failed("shut down", entry)(error));
                        }
                        _ => {}
                    }
                }
                socket_options::all(&socket, &entry.opts, buffers, &what(entry))?;
                socket_options::others(&socket, &entry.opts, &what(entry))?;
                socket_options::filter(&socket, &entry.opts, &what(entry))?;
                let flags = entry.flags & !O_ASYNC;
                match paired.contains(&index) {
                    // As it was born.
                    true => change_status_flags(&socket, 0, flags),
                    false => set_status_flags(&socket, flags),
                }
                .map_err(failed("set flags of", entry))?;
                Ok(socket)
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "unix_sockets_tests.rs"]
mod tests;
