//! Keys of session keyrings, by an iterator of its own: few processes have such.

use ebpf_common::{KIND_KEY, KIND_KEYRING, KeyHead, KeyRecord, KeyringRecord};
use ids::HostPid;
use inventory::{Key, SessionKeyring};
use kernel::bpf::IterTarget;
use zerocopy::FromBytes;

use super::BpfError;
use super::programs::What;
use super::reading::BpfSource;
use super::records::records;

impl BpfSource {
    /// The session keyrings of the threads of a process that are neither their users' nor empty.
    pub(crate) fn session_keyrings(
        &mut self,
        pid: HostPid,
    ) -> Result<Vec<SessionKeyring>, BpfError> {
        let of = IterTarget::Process(pid);
        match self.iterate(What::Keys, of) {
            // It has ended.
            Err(BpfError::Iterate { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {
                return Ok(Vec::new());
            }
            done => done?,
        }
        let bad = || BpfError::Record { what: What::Keys.text(), of };
        let mut found: Vec<SessionKeyring> = Vec::new();
        // How many keys the last one holds.
        let mut holds = 0;
        for record in records(&self.output) {
            match record.ok_or_else(bad)? {
                (KIND_KEYRING, bytes) => {
                    let (record, _) = KeyringRecord::read_from_prefix(bytes).map_err(|_| bad())?;
                    let tid = HostPid::new(record.tid).ok_or_else(bad)?;
                    holds = record.keys as usize;
                    found.push(keyring(tid, &record));
                }
                (KIND_KEY, bytes) => {
                    let (record, _) = KeyRecord::read_from_prefix(bytes).map_err(|_| bad())?;
                    let last = found.last_mut().ok_or_else(bad)?;
                    last.keys.push(key(&record));
                    last.more = last.keys.len() < holds;
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn keyring(tid: HostPid, record: &KeyringRecord) -> SessionKeyring {
    let name = up_to_zero(&record.name).unwrap_or(&record.name).to_vec();
    SessionKeyring {
        tid,
        itself: of_head(&record.itself),
        name,
        restricted: record.restriction != 0,
        keys: Vec::new(),
        more: true,
    }
}

fn key(record: &KeyRecord) -> Key {
    let payload = record.payload.get(..record.head.payload_bytes as usize);
    Key {
        description: up_to_zero(&record.description).map(<[u8]>::to_vec),
        payload: payload.map(<[u8]>::to_vec),
        ..of_head(&record.head)
    }
}

fn of_head(head: &KeyHead) -> Key {
    /// `KEY_IS_POSITIVE`.
    const MADE: i32 = 1;
    /// `KEY_FLAG_IN_QUOTA`, `KEY_FLAG_USER_CONSTRUCT` and `KEY_FLAG_USER_ALIVE`: they change nothing for who uses it.
    const OF_ANY: u64 = 1 << 2 | 1 << 3 | 1 << 10;
    Key {
        serial: head.serial,
        kind: up_to_zero(&head.kind).unwrap_or(&head.kind).to_vec(),
        uid: head.uid,
        gid: head.gid,
        permissions: head.permissions,
        // 0 before Linux 6.7.
        ends: !matches!(head.expires, 0 | i64::MAX),
        is_plain: head.state == MADE && head.flags & !OF_ANY == 0,
        description: None,
        payload: None,
    }
}

fn up_to_zero(bytes: &[u8]) -> Option<&[u8]> {
    bytes.iter().position(|byte| *byte == 0).map(|end| &bytes[..end])
}
