//! A client of CRIU's RPC. Messages are put together and taken apart here, by the numbers of their fields, so
//! that the messages of what is tested are not used for it.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket, socketpair,
};

use crate::built::{built_program, criu_program};

/// A message that is put together.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// With a number.
    #[must_use]
    pub fn number(mut self, field: u32, value: i64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value.cast_unsigned());
        self
    }

    /// With bytes.
    #[must_use]
    pub fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    /// With a message.
    #[must_use]
    pub fn message(self, field: u32, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    /// As it is sent.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.0
    }
}

/// A message that was received: its fields in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(u64, Value)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Fields {
    /// Takes a message apart.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn of(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let value = match tag & 7 {
                0 => Value::Number(varint(&mut bytes)),
                2 => {
                    let length = varint(&mut bytes) as usize;
                    let (value, rest) = bytes.split_at(length);
                    bytes = rest;
                    Value::Bytes(value.to_vec())
                }
                other => panic!("a field of wire type {other}"),
            };
            fields.push((tag >> 3, value));
        }
        Self(fields)
    }

    /// A number.
    #[must_use]
    pub fn number(&self, field: u64) -> Option<i64> {
        self.0.iter().find_map(|(number, value)| match value {
            Value::Number(value) if *number == field => Some(value.cast_signed()),
            _ => None,
        })
    }

    /// Text.
    #[must_use]
    pub fn text(&self, field: u64) -> Option<String> {
        self.bytes(field).map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    /// A message.
    #[must_use]
    pub fn message(&self, field: u64) -> Option<Self> {
        self.bytes(field).map(|value| Self::of(&value))
    }

    fn bytes(&self, field: u64) -> Option<Vec<u8>> {
        self.0.iter().find_map(|(number, value)| match value {
            Value::Bytes(value) if *number == field => Some(value.clone()),
            _ => None,
        })
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a whole number");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

/// The kinds of requests.
#[allow(missing_docs, reason = "they are CRIU's, by its names")]
pub mod kind {
    pub const EMPTY: i64 = 0;
    pub const DUMP: i64 = 1;
    pub const RESTORE: i64 = 2;
    pub const CHECK: i64 = 3;
    pub const PRE_DUMP: i64 = 4;
    pub const PAGE_SERVER: i64 = 5;
    pub const NOTIFY: i64 = 6;
    pub const CPUINFO_DUMP: i64 = 7;
    pub const CPUINFO_CHECK: i64 = 8;
    pub const FEATURE_CHECK: i64 = 9;
    pub const VERSION: i64 = 10;
    pub const WAIT_PID: i64 = 11;
    pub const PAGE_SERVER_CHLD: i64 = 12;
    pub const SINGLE_PRE_DUMP: i64 = 13;
}

/// A request with options.
#[must_use]
pub fn request(kind: i64, options: &Message) -> Message {
    Message::new().number(1, kind).message(2, options)
}

/// What a client hears.
#[derive(Debug)]
pub struct Heard {
    /// The points that it was told of, in order.
    pub points: Vec<String>,
    /// The pids that it was told with them.
    pub pids: Vec<(String, i64)>,
    /// The descriptors that came with them.
    pub passed: Vec<OwnedFd>,
    /// The answer; `None` if there was none, but an end.
    pub answer: Option<Fields>,
}

impl Heard {
    /// Fails the test unless the answer is that of a request that succeeded.
    ///
    /// # Panics
    /// If it is not.
    pub fn must_succeed(self, kind: i64) -> Fields {
        let answer = self.answer.expect("an answer");
        assert_eq!((answer.number(1), answer.number(2)), (Some(kind), Some(1)), "{answer:?}");
        answer
    }

    /// What is said of a request that failed, and the number that goes with it.
    ///
    /// # Panics
    /// If it did not fail.
    #[must_use]
    pub fn must_fail(self, kind: i64) -> (String, Option<i64>) {
        let answer = self.answer.expect("an answer");
        assert_eq!((answer.number(1), answer.number(2)), (Some(kind), Some(0)), "{answer:?}");
        (answer.text(9).unwrap_or_default(), answer.number(7))
    }
}

/// A client, and the worker that it has started.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    worker: Option<Child>,
}

impl Client {
    /// Starts `criu swrk` as a child.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(|_| ())
    }

    /// The same of CRIU itself.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_criu() -> Self {
        Self::started(&mut Command::new(criu_program()))
    }

    /// The same with something changed before.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_with(change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(built_program("criu"));
        change(&mut command);
        Self::started(&mut command)
    }

    /// Starts `criu swrk`, which is handed descriptors, two at most, as numbers 7 and 8.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_handing(handed: &[OwnedFd]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$0" "$@" 7<>"$A" 8<>"$B""#]).arg(built_program("criu"));
        let own = std::process::id();
        for (name, handed) in ["A", "B"].iter().zip(handed) {
            command.env(name, format!("/proc/{own}/fd/{}", handed.as_raw_fd()));
        }
        Self::started(&mut command)
    }

    fn started(command: &mut Command) -> Self {
        let kind = SockType::SeqPacket;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).expect("sockets");
        // With a number of its own, as clients give it one; standard input is no socket then.
        let mut whole = Command::new("sh");
        whole.args(["-c", r#"exec "$0" "$@" swrk 9 9<&0 </dev/null"#]);
        whole.arg(command.get_program()).args(command.get_args());
        whole.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(directory) = command.get_current_dir() {
            whole.current_dir(directory);
        }
        let worker = whole.stdin(Stdio::from(theirs)).spawn().expect("start a worker");
        Self { socket: ours, worker: Some(worker) }
    }

    /// Connects to a service.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn connect(address: &Path) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("socket");
        connect(socket.as_raw_fd(), &UnixAddr::new(address).expect("an address")).expect("connect");
        Self { socket, worker: None }
    }

    /// Kills the worker.
    ///
    /// # Panics
    /// If there is no worker of ours.
    pub fn kill(&self) {
        let worker = self.worker.as_ref().expect("a worker of ours");
        let pid = nix::unistd::Pid::from_raw(worker.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    }

    /// The number of the socket.
    #[must_use]
    pub fn number(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Sends bytes in one packet; whether somebody takes them.
    pub fn send(&self, bytes: &[u8]) -> bool {
        send(self.number(), bytes, MsgFlags::MSG_NOSIGNAL).is_ok()
    }

    /// The next packet; `None` at the end.
    #[must_use]
    pub fn receive(&self) -> Option<Fields> {
        self.receive_with().0
    }

    /// The same, and the descriptor that comes with it.
    ///
    /// # Panics
    /// When a packet is longer than clients have room for.
    #[must_use]
    pub fn receive_with(&self) -> (Option<Fields>, Option<OwnedFd>) {
        let mut bytes = [0; 1024];
        let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        let length = recv(self.number(), &mut bytes, look).unwrap_or(0);
        assert!(length <= bytes.len(), "a packet of {length} bytes");
        let passed = kernel::passing::receive(&self.socket, &mut bytes).unwrap_or_default();
        let passed = passed.into_iter().next();
        ((length > 0).then(|| Fields::of(&bytes[..length])), passed)
    }

    /// Asks, and agrees to all that it is told until the answer comes.
    #[must_use]
    pub fn ask(&self, request: &Message) -> Heard {
        self.ask_and(request, |_| Some(true))
    }

    /// Asks, and says of each point whether it agrees; `None` ends the conversation.
    #[must_use]
    pub fn ask_and(
        &self,
        request: &Message,
        mut agrees: impl FnMut(&str) -> Option<bool>,
    ) -> Heard {
        self.send(request.encoded());
        let mut heard =
            Heard { points: Vec::new(), pids: Vec::new(), passed: Vec::new(), answer: None };
        while let (Some(fields), passed) = self.receive_with() {
            heard.passed.extend(passed);
            if fields.number(1) != Some(kind::NOTIFY) {
                heard.answer = Some(fields);
                break;
            }
            let told = fields.message(5).unwrap_or_default();
            let point = told.text(1).unwrap_or_default();
            heard.pids.extend(told.number(2).map(|pid| (point.clone(), pid)));
            heard.points.push(point.clone());
            let Some(agreed) = agrees(&point) else { break };
            let answer = Message::new().number(1, kind::NOTIFY).number(3, agreed.into());
            self.send(answer.encoded());
        }
        heard
    }

    /// Ends the conversation, and waits for the worker: its exit status.
    ///
    /// # Panics
    /// If there is no worker of ours.
    pub fn end(self) -> Option<i32> {
        let Self { socket, worker } = self;
        drop(socket);
        let status = worker.expect("a worker of ours").wait().expect("wait for the worker");
        status.code()
    }
}
