//! Messages in POSIX queues, by an iterator of its own that is run until all have been told.

use std::os::fd::{AsRawFd, BorrowedFd};

use ebpf_common::{
    Header, KIND_MESSAGE, KIND_MESSAGE_QUEUE, KIND_PIECE, MessageQueueRecord, MessageRecord,
    PAGE_BYTES,
};
use ids::HostPid;
use inventory::{Message, Messages};
use kernel::bpf::IterTarget;
use zerocopy::FromBytes;

use super::BpfError;
use super::programs::What;
use super::reading::BpfSource;
use super::records::records;

const _: () = assert!(PAGE_BYTES as u64 == arch::memory::PAGE_SIZE);

/// The most messages that a queue has (`HARD_MSGMAX`).
const MOST_MESSAGES: u64 = 1 << 16;

impl BpfSource {
    /// What is in a queue that this process has open; `None` if the programs do not tell, or if it is none.
    pub(crate) fn messages(
        &mut self,
        queue: BorrowedFd<'_>,
        most: u64,
    ) -> Result<Option<Messages>, BpfError> {
        let mut cursor = match self.programs.counting() {
            Some(counting) => counting.cursor()?,
            None => return Ok(None),
        };
        cursor.begin(queue.as_raw_fd())?;
        let of = IterTarget::Process(HostPid::own());
        let mut reading = Reading::default();
        // Each turn tells something or moves on in the tree: there are not more than these, unless the queue changes meanwhile.
        let mut turns = 0;
        loop {
            self.iterate(What::Messages, of)?;
            let bad = || BpfError::Record { what: What::Messages.text(), of };
            let told = reading.take(&self.output).ok_or_else(bad)?;
            let is_late = self.until.is_over();
            match told {
                Told::Nothing => return Ok(None),
                Told::More if reading.is_too_much(most) => {
                    return Ok(Some(Messages::More(reading.bytes())));
                }
                Told::More if turns < reading.most_turns() && !is_late => turns += 1,
                Told::More => return Ok(Some(Messages::Moves)),
                Told::All if reading.is_too_much(most) => {
                    return Ok(Some(Messages::More(reading.bytes())));
                }
                Told::All => return Ok(Some(reading.finish())),
            }
        }
    }
}

/// What a turn has told.
enum Told {
    Nothing,
    More,
    All,
}

/// What has been told of a queue.
#[derive(Default)]
struct Reading {
    /// How the queue was each time: messages and bytes.
    seen: Vec<(u64, u64)>,
    notifies: bool,
    /// Each with the number of bytes that it is to have.
    messages: Vec<(Message, u64)>,
}

impl Reading {
    fn bytes(&self) -> u64 {
        self.seen.first().map_or(0, |(_, bytes)| *bytes)
    }

    fn is_too_much(&self, most: u64) -> bool {
        let (messages, bytes) = self.seen.first().copied().unwrap_or_default();
        messages > MOST_MESSAGES || bytes > most
    }

    /// A message takes a step, and two more for a priority of its own; a turn has 64, or 24 KiB.
    fn most_turns(&self) -> u64 {
        let (messages, bytes) = self.seen.first().copied().unwrap_or_default();
        8 + messages / 8 + bytes / 4096
    }

    /// Takes what a turn has written out; `None` if that is not understood.
    fn take(&mut self, output: &[u8]) -> Option<Told> {
        let mut told = Told::Nothing;
        for record in records(output) {
            let (kind, bytes) = record?;
            match kind {
                KIND_MESSAGE_QUEUE => {
                    let (record, _) = MessageQueueRecord::read_from_prefix(bytes).ok()?;
                    let seen = (record.messages, record.bytes);
                    if self.seen.last() != Some(&seen) {
                        self.seen.push(seen);
                    }
                    self.notifies = record.notifies != 0;
                    told = if record.more == 0 { Told::All } else { Told::More };
                }
                KIND_MESSAGE => {
                    let (record, _) = MessageRecord::read_from_prefix(bytes).ok()?;
                    let priority = u32::try_from(record.priority).unwrap_or(u32::MAX);
                    self.messages.push((Message { priority, bytes: Vec::new() }, record.bytes));
                }
                KIND_PIECE => {
                    let (last, _) = self.messages.last_mut()?;
                    last.bytes.extend(bytes.get(size_of::<Header>()..)?);
                }
                _ => {}
            }
        }
        Some(told)
    }

    /// The messages in the order in which they are received, if they are what the queue has in it.
    fn finish(self) -> Messages {
        let [(messages, bytes)] = self.seen[..] else { return Messages::Moves };
        let is_whole = |(message, bytes): &(Message, u64)| message.bytes.len() as u64 == *bytes;
        let told: u64 = self.messages.iter().map(|(_, bytes)| *bytes).fold(0, u64::wrapping_add);
        if self.messages.len() as u64 != messages
            || told != bytes
            || !self.messages.iter().all(is_whole)
        {
            return Messages::Moves;
        }
        let mut messages: Vec<Message> =
            self.messages.into_iter().map(|(message, _)| message).collect();
        // Those of one priority stay as they are.
        messages.sort_by_key(|message| std::cmp::Reverse(message.priority));
        Messages::All { messages, notifies: self.notifies }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(priority: u32, text: &str) -> (Message, u64) {
        (Message { priority, bytes: text.into() }, text.len() as u64)
    }

    fn reading(seen: &[(u64, u64)], messages: &[(Message, u64)]) -> Reading {
        Reading { seen: seen.to_vec(), notifies: false, messages: messages.to_vec() }
    }

    #[test]
    fn messages_come_by_priority_and_age() {
        let all = [message(3, "old"), message(3, "new"), message(9, ""), message(0, "x")];
        let Messages::All { messages, .. } = reading(&[(4, 7)], &all).finish() else { panic!() };
        let order: Vec<_> = messages.iter().map(|it| (it.priority, &it.bytes[..])).collect();
        assert_eq!(order, [(9, &b""[..]), (3, b"old"), (3, b"new"), (0, b"x")]);
    }

    #[test]
    fn what_does_not_agree_with_the_queue_is_not_all() {
        let one = [message(1, "abc")];
        for seen in [&[(1, 3), (2, 4)][..], &[(2, 3)], &[(1, 4)], &[]] {
            assert_eq!(reading(seen, &one).finish(), Messages::Moves);
        }
        let cut = [(Message { priority: 1, bytes: b"ab".to_vec() }, 3)];
        assert_eq!(reading(&[(1, 3)], &cut).finish(), Messages::Moves);
    }
}
