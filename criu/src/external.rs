//! What `--external` names: things that a dump leaves to the world outside, and a restore is given.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Something from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum External {
    /// `unix[INODE]`: a Unix socket that is connected to a process outside.
    UnixSocket(u32),
    /// `tty[RDEV:DEV]` or `file[MOUNT:INODE]`: an open file that a restore is handed.
    File(String),
    /// `mnt[KEY]:VALUE`: to a dump, where it is mounted and a name; to a restore, the name and a path.
    Mount {
        /// What stands in the brackets.
        key: OsString,
        /// What comes after them.
        value: OsString,
    },
    /// `pid[KEY]:VALUE`: a pid namespace, to a dump its number and a name; to a restore, the name and a path.
    Pids {
        /// What stands in the brackets.
        key: String,
        /// What comes after them.
        value: String,
    },
    /// `dev[KEY]:VALUE`: a block device that is mounted, to a dump its numbers (`MAJOR/MINOR`) and a name; to a restore, the name and
    /// a path.
    Device {
        /// What stands in the brackets.
        key: String,
        /// What comes after them.
        value: String,
    },
    /// `mnt[]:FLAGS`: all mounts that are of the outside, too.
    Mounts {
        /// `s`: also those that share mounts with others.
        shared: bool,
        /// `m`: also those that receive mounts from others.
        masters: bool,
    },
}

impl External {
    /// Whether a dump can be asked for it: what it names by numbers has them.
    #[must_use]
    pub fn is_of_dump(&self) -> bool {
        match self {
            Self::Device { key, .. } => device(key).is_some(),
            Self::Pids { key, .. } => key.parse::<u64>().is_ok(),
            _ => true,
        }
    }

    /// Reads one; `None` of what is none, or is not carried.
    #[must_use]
    pub fn parse(text: &OsStr) -> Option<Self> {
        let text = text.as_bytes();
        if let Some(inode) = text.strip_prefix(b"unix[") {
            let inode = std::str::from_utf8(inode.strip_suffix(b"]")?).ok()?;
            return Some(Self::UnixSocket(inode.parse().ok()?));
        }
        if let Some(file) = file(text).or_else(|| placed(text)) {
            return Some(file);
        }
        let rest = text.strip_prefix(b"mnt[")?;
        let end = rest.iter().position(|byte| *byte == b']')?;
        let (key, rest) = (&rest[..end], &rest[end + 1..]);
        let value = match rest {
            [] => &[][..],
            [b':', value @ ..] => value,
            _ => return None,
        };
        if key.is_empty() {
            let known = value.iter().all(|flag| b"ms".contains(flag));
            let has = |flag| value.contains(&flag);
            return known.then(|| Self::Mounts { shared: has(b's'), masters: has(b'm') });
        }
        let owned = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        (!value.is_empty()).then(|| Self::Mount { key: owned(key), value: owned(value) })
    }
}

/// A pid namespace, or a block device.
fn placed(text: &[u8]) -> Option<External> {
    let (what, value) = std::str::from_utf8(text).ok()?.split_once("]:")?;
    let (kind, key) = what.split_once('[')?;
    let (key, value) = (key.to_owned(), value.to_owned());
    if key.is_empty() || value.is_empty() {
        return None;
    }
    match kind {
        "pid" => Some(External::Pids { key, value }),
        "dev" => Some(External::Device { key, value }),
        _ => None,
    }
}

/// The device that `MAJOR/MINOR` is.
fn device(key: &str) -> Option<u64> {
    let (major, minor) = key.split_once('/')?;
    Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// A kind of file with two numbers in hexadecimal digits; the name is written as the kernel's numbers are.
fn file(text: &[u8]) -> Option<External> {
    let text = std::str::from_utf8(text).ok()?;
    let (kind, numbers) = text.strip_suffix(']')?.split_once('[')?;
    let (first, second) = numbers.split_once(':')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let (first, second) = (number(first)?, number(second)?);
    matches!(kind, "tty" | "file").then(|| External::File(format!("{kind}[{first:x}:{second:x}]")))
}

/// All that is external of mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalMounts {
    /// Keys and values.
    pub named: Vec<(OsString, OsString)>,
    /// Block devices: keys and values.
    pub devices: Vec<(String, String)>,
    /// All that are of the outside are taken from there.
    pub find: bool,
    /// This also of those that share mounts with others.
    pub shared: bool,
    /// This also of those that receive mounts from others.
    pub masters: bool,
}

impl ExternalMounts {
    /// Adds one; it is given back if it is no mount.
    ///
    /// # Errors
    /// With what is no mount.
    pub fn add(&mut self, external: External) -> Result<(), External> {
        match external {
            External::Mount { key, value } => self.named.push((key, value)),
            External::Device { key, value } => self.devices.push((key, value)),
            External::Mounts { shared, masters } => {
                self.find = true;
                self.shared |= shared;
                self.masters |= masters;
            }
            other @ (External::UnixSocket(_) | External::File(_) | External::Pids { .. }) => {
                return Err(other);
            }
        }
        Ok(())
    }

    /// Whether all block devices have numbers, as a dump needs them.
    #[must_use]
    pub fn devices_have_numbers(&self) -> bool {
        self.devices.iter().all(|(key, _)| device(key).is_some())
    }

    /// What a dump is asked for by it.
    #[must_use]
    pub fn of_dump(&self) -> dumper::MountOptions {
        let of_devices = self.devices.iter();
        let name = |name: &OsString| name.to_string_lossy().into_owned();
        dumper::MountOptions {
            external: self.named.iter().map(|(key, value)| (key.into(), name(value))).collect(),
            devices: of_devices
                .filter_map(|(key, name)| Some((device(key)?, name.clone())))
                .collect(),
            find_outside: self.find,
            shared_outside: self.shared,
            masters_outside: self.masters,
            ..dumper::MountOptions::default()
        }
    }

    /// What a restore is asked for by it.
    #[must_use]
    pub fn of_restore(&self) -> restorer::MountOptions {
        let name = |name: &OsString| name.to_string_lossy().into_owned();
        // No path is none: whoever needs it says that it is not given.
        let given = self.named.iter().filter(|(_, value)| !value.is_empty());
        restorer::MountOptions {
            // Paths begin at the root, whatever the current directory is.
            external: given.map(|(key, value)| (name(key), Path::new("/").join(value))).collect(),
            devices: self.devices.iter().map(|(name, path)| (name.clone(), path.into())).collect(),
            find_outside: self.find,
            ..restorer::MountOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_the_root() {
        let mut mounts = ExternalMounts::default();
        for text in ["mnt[a]:relative", "mnt[b]:/absolute"] {
            mounts.add(External::parse(text.as_ref()).unwrap()).unwrap();
        }
        let found: Vec<_> = mounts.of_restore().external.into_values().collect();
        assert_eq!(found, [Path::new("/relative"), Path::new("/absolute")]);
    }

    #[test]
    fn what_is_external_is_read() {
        let parse = |text: &str| External::parse(text.as_ref());
        assert_eq!(parse("unix[7]"), Some(External::UnixSocket(7)));
        assert_eq!(parse("tty[8803:18]"), Some(External::File("tty[8803:18]".to_owned())));
        assert_eq!(parse("file[0F:1038]"), Some(External::File("file[f:1038]".to_owned())));
        assert_eq!((parse("tty[8803]"), parse("file[g:1]"), parse("tty[1:2")), (None, None, None));
        let pids = External::Pids { key: "4026".to_owned(), value: "n".to_owned() };
        assert_eq!(parse("pid[4026]:n"), Some(pids));
        assert_eq!((parse("pid[]:n"), parse("pid[1]:"), parse("pid[1]")), (None, None, None));
        let (key, value) = ("/a".into(), "b".into());
        assert_eq!(parse("mnt[/a]:b"), Some(External::Mount { key, value }));
        let all = |shared, masters| Some(External::Mounts { shared, masters });
        assert_eq!(parse("mnt[]"), all(false, false));
        assert_eq!(parse("mnt[]:sm"), all(true, true));
        let device = External::Device { key: "8/1".to_owned(), value: "x".to_owned() };
        assert_eq!(parse("dev[8/1]:x"), Some(device));
        for other in ["mnt[/a]", "mnt[/a]b", "mnt[]:x", "unix[x]"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
