//! Sets of semaphores.

use std::io;

use crate::procfs::Status;

use super::{Kind, Owner, done, make_with_id};

/// What the kernel says of a set, and what its semaphores are at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its id.
    pub id: i32,
    /// Whose it is.
    pub owner: Owner,
    /// The value of each.
    pub values: Vec<u16>,
}

impl Set {
    /// All of the namespace.
    ///
    /// # Errors
    /// If one of them is another's (`CAP_IPC_OWNER`).
    pub fn all() -> io::Result<Vec<Self>> {
        // SAFETY: of integers all zeros are a value.
        let mut info: libc::seminfo = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes a `seminfo`.
        let last = done(unsafe { libc::semctl(0, 0, libc::SEM_INFO, &raw mut info) })?;
        let mut found = Vec::new();
        for place in 0..=last {
            match stat(place, libc::SEM_STAT) {
                Ok((id, stat)) => found.push(Self::of(id, &stat)?),
                Err(error) if super::is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The one with this id.
    ///
    /// # Errors
    /// If there is none ([`super::is_gone`]), or it is another's (`CAP_IPC_OWNER`).
    pub fn read(id: i32) -> io::Result<Self> {
        let (_, stat) = stat(id, libc::IPC_STAT)?;
        Self::of(id, &stat)
    }

    /// Whether a task may change its semaphores, by the rules of the kernel (ipcperms). Its capabilities count where it `has_rights` over
    /// the namespace of the set.
    #[must_use]
    pub fn may_be_changed_by(&self, task: &Status, has_rights: bool) -> bool {
        const CAP_IPC_OWNER: u32 = 15;
        const CHANGES: u32 = 0o2;
        let Owner { uid, gid, cuid, cgid, .. } = self.owner;
        let is_in = |group: u32| task.gid.fs == group || task.groups.contains(&group);
        let shift = if [uid, cuid].contains(&task.uid.effective) {
            6
        } else if is_in(gid) || is_in(cgid) {
            3
        } else {
            0
        };
        let granted = self.owner.permissions() >> shift & CHANGES != 0;
        granted || has_rights && task.cap_effective >> CAP_IPC_OWNER & 1 != 0
    }

    fn of(id: i32, stat: &libc::semid_ds) -> io::Result<Self> {
        let count = usize::try_from(stat.sem_nsems).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut values = vec![0u16; count];
        // SAFETY: the kernel writes as many values as the set has, which never changes.
        done(unsafe { libc::semctl(id, 0, libc::GETALL, values.as_mut_ptr()) })?;
        Ok(Self { id, owner: Owner::from(&stat.sem_perm), values })
    }

    /// Removes the one with this id.
    ///
    /// # Errors
    /// If there is none, or it is another's.
    pub fn remove(id: i32) -> io::Result<()> {
        remove(id)
    }

    /// Makes the set; whether its id was to be had.
    ///
    /// # Errors
    /// If there is one with that key, a value is none, the limits leave no room, or the rights are missing.
    pub fn make(&self) -> io::Result<bool> {
        let count = i32::try_from(self.values.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = self.owner.permissions().cast_signed() | libc::IPC_CREAT | libc::IPC_EXCL;
        // SAFETY: takes integers.
        let get = |key| done(unsafe { libc::semget(key, count, flags) });
        if !make_with_id(Kind::Set, self.id, (&self.owner, 0), get, remove)? {
            return Ok(false);
        }
        // SAFETY: the kernel reads as many values as the set has, which was made with so many.
        done(unsafe { libc::semctl(self.id, 0, libc::SETALL, self.values.as_ptr()) })?;
        let (_, mut stat) = stat(self.id, libc::IPC_STAT)?;
        (stat.sem_perm.uid, stat.sem_perm.gid) = (self.owner.uid, self.owner.gid);
        // SAFETY: the kernel reads a `semid_ds`.
        done(unsafe { libc::semctl(self.id, 0, libc::IPC_SET, &raw mut stat) })?;
        Ok(true)
    }
}

/// Removes a set.
fn remove(id: i32) -> io::Result<()> {
    // SAFETY: takes integers.
    done(unsafe { libc::semctl(id, 0, libc::IPC_RMID) }).map(drop)
}

fn stat(id: i32, command: i32) -> io::Result<(i32, libc::semid_ds)> {
    // SAFETY: of integers all zeros are a value.
    let mut stat: libc::semid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the two commands that it is called with write a `semid_ds`.
    let answer = done(unsafe { libc::semctl(id, 0, command, &raw mut stat) })?;
    Ok((answer, stat))
}
