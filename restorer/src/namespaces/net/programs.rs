//! Network devices of programs (tun and tap): made without one, to stay until their files are attached to them
//! ([`crate::files`]).

use std::fs::File;

use images::messages::{NetDeviceEntry, TunLinkEntry};
use kernel::tun::{self, Settings};

use super::failed::failed;
use crate::error::Error;

/// Makes the device of an entry, in the namespace that this thread is in.
pub(super) fn make(entry: &NetDeviceEntry, link: &TunLinkEntry) -> Result<(), Error> {
    let doing = |what: &str| failed(format!("{what} network device {}", entry.name));
    let file = File::options().read(true).write(true).open("/dev/net/tun");
    let file = file.map_err(failed("open /dev/net/tun"))?;
    let id = |id: i32| Some(id.cast_unsigned()).filter(|_| id != -1);
    let settings = Settings {
        owner: id(link.owner),
        group: id(link.group),
        header: link.vnethdr,
        send_buffer: link.sndbuf,
    };
    tun::attach(&file, &entry.name, link.flags, Some(entry.ifindex)).map_err(doing("make"))?;
    tun::change(&file, settings).map_err(doing("set"))?;
    tun::persist(&file, true).map_err(doing("keep"))
}
