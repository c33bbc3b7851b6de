//! Settings of a network namespace (`/proc/sys/net`), which shows those of the namespace of who reads.

use std::io;

use images::messages::{NetnsEntry, SYSCTL_NUMBER, SYSCTL_TEXT, SysctlEntry};
use images::network_settings::{IPV4, IPV6, OF_IPV4, STABLE_SECRET, UNIX};

/// The settings of a device, or of `default` or `all`, in the order of the images.
pub(super) fn of_device(protocol: &str, name: &str) -> io::Result<Vec<SysctlEntry>> {
    let names: &[&str] = if protocol == "ipv4" { &IPV4 } else { &IPV6 };
    let directory = format!("/proc/sys/net/{protocol}/conf/{name}");
    names
        .iter()
        .map(|setting| read(&format!("{directory}/{setting}"), *setting == STABLE_SECRET))
        .collect()
}

/// Reads again those settings of IPv6 that are texts, of which the kernel has no array.
pub(super) fn read_texts(device: &str, entries: &mut [SysctlEntry]) -> io::Result<()> {
    for (name, entry) in IPV6.iter().zip(entries) {
        if *name == STABLE_SECRET {
            *entry = read(&format!("/proc/sys/net/ipv6/conf/{device}/{name}"), true)?;
        }
    }
    Ok(())
}

/// Those of the namespace that this thread is in that have places of their own; the rest of the entry is empty.
pub(super) fn of_namespace() -> io::Result<NetnsEntry> {
    let below = |directory: &str, names: &[&str], is_text| -> io::Result<Vec<SysctlEntry>> {
        names
            .iter()
            .map(|name| read(&format!("/proc/sys/net/{directory}/{name}"), is_text))
            .collect()
    };
    let mut ipv4_sysctl = below("ipv4", &OF_IPV4, true)?;
    // Nobody is allowed to by default, which CRIU takes for no value.
    for entry in &mut ipv4_sysctl {
        entry.sarg.take_if(|value| value.split_whitespace().eq(["1", "0"]));
    }
    Ok(NetnsEntry {
        def_conf4: of_device("ipv4", "default")?,
        all_conf4: of_device("ipv4", "all")?,
        def_conf6: of_device("ipv6", "default")?,
        all_conf6: of_device("ipv6", "all")?,
        unix_conf: below("unix", &UNIX, false)?,
        ipv4_sysctl,
        ..NetnsEntry::default()
    })
}

/// The value of a setting; none where the kernel does not have it, or it has none.
fn read(path: &str, is_text: bool) -> io::Result<SysctlEntry> {
    let value = match kernel::sysctl::read(path) {
        Ok(value) => Some(value),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EIO)) => None,
        Err(error) => return Err(error),
    };
    Ok(match is_text {
        true => SysctlEntry { r#type: SYSCTL_TEXT, iarg: None, sarg: value },
        false => SysctlEntry {
            r#type: SYSCTL_NUMBER,
            iarg: value.and_then(|value| value.trim().parse().ok()),
            sarg: None,
        },
    })
}
