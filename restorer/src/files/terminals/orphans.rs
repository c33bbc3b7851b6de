//! Terminals whose masters are outside of the tree, made anew for a caller who takes the masters: an engine, whose
//! container has its console on one.

use std::collections::BTreeMap;
use std::io;

use images::messages::{RegFileEntry, TtyInfoEntry, tty_type};
use kernel::tty;

use super::super::Error;
use super::super::approve::Purpose;
use super::super::opening::{Opening, flagged};
use super::super::reopen;
use super::known::{Controlling, File, is_led, number};
use super::numbers::{self, Wanted};
use super::settings;

const MASTER: u32 = (libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK).cast_unsigned();

/// Makes those of the terminals that are slaves. The others are returned.
pub(super) fn open<'a>(
    opening: &mut Opening<'_>,
    outside: Vec<(File<'a>, &'a TtyInfoEntry)>,
    controlling: &mut BTreeMap<u32, Controlling>,
) -> Result<Vec<(File<'a>, &'a TtyInfoEntry)>, Error> {
    let is_slave = |(_, info): &(File<'_>, &TtyInfoEntry)| info.r#type == tty_type::PTY;
    let (slaves, rest): (Vec<_>, Vec<_>) = outside.into_iter().partition(is_slave);
    let mut by_number: BTreeMap<u32, Vec<(File<'_>, &TtyInfoEntry)>> = BTreeMap::new();
    for (file, info) in slaves {
        by_number.entry(number(info)?).or_default().push((file, info));
    }
    for (number, files) in by_number {
        make(opening, number, &files, controlling)?;
    }
    Ok(rest)
}

/// The file by which masters are opened, beside a slave.
fn multiplexer(slave: &RegFileEntry) -> RegFileEntry {
    let directory = slave.name.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let name = [&slave.name[..directory], b"/ptmx"].concat();
    RegFileEntry { name, mnt_id: slave.mnt_id, flags: MASTER, ..RegFileEntry::default() }
}

fn make(
    opening: &mut Opening<'_>,
    number: u32,
    files: &[(File<'_>, &TtyInfoEntry)],
    controlling: &mut BTreeMap<u32, Controlling>,
) -> Result<(), Error> {
    let what = format!("terminal /dev/pts/{number}");
    let failed = |doing: &'static str| {
        let operation = format!("{doing} {what}");
        move |source: io::Error| Error::Kernel { operation, source }
    };
    let Some((first, _)) = files.first() else { return Ok(()) };
    let path = multiplexer(first.path()?);
    let approved = opening.opener.approve(&path, Purpose::Access(MASTER))?;
    let open = |flags: u32| {
        let opened = opening.opener.open_again(&path, &approved, flags)?;
        opening.keep.keep(opened).map_err(failed("keep"))
    };
    let masters = numbers::masters(&[Wanted { number, flags: MASTER, file: first.id }], open)?;
    for master in masters {
        tty::lock_slave(&master, false).map_err(failed("unlock"))?;
        for (file, info) in files {
            let slave = tty::open_slave(&master, reopen::flags(file.entry.flags));
            let slave = slave.map_err(failed("open"))?;
            settings::apply(&slave, info, &what)?;
            if is_led(opening, info) && !controlling.contains_key(&info.sid) {
                let fd = slave.try_clone().map_err(failed("duplicate"))?;
                controlling.insert(info.sid, Controlling { fd, group: info.pgrp });
            }
            opening.add(file.id, flagged(slave, file.entry.flags, &what)?)?;
        }
        // The caller gets it as anybody does who opens one.
        let master = flagged(master, MASTER & !libc::O_NONBLOCK.cast_unsigned(), &what)?;
        opening.orphans.push(opening.keep.keep(master).map_err(failed("keep"))?);
    }
    Ok(())
}
