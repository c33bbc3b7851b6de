//! `/proc/PID/ns`.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use super::parse::{dec, split_once};
use super::{Dir, Error, Malformed};

/// The entries of `/proc/PID/ns`.
pub const NAMESPACES: [&str; 10] = [
    "cgroup",
    "ipc",
    "mnt",
    "net",
    "pid",
    "pid_for_children",
    "time",
    "time_for_children",
    "user",
    "uts",
];

/// Ids of a task's namespaces by their names; without those that the kernel does not have, and
/// without `pid_for_children` while that names none yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(pub BTreeMap<&'static str, u64>);

/// `KIND:[ID]`.
fn parse(target: &[u8]) -> Result<u64, Malformed> {
    split_once(target, b':')
        .and_then(|(_, id)| dec(id.strip_prefix(b"[")?.strip_suffix(b"]")?))
        .ok_or(Malformed("namespace id"))
}

impl Namespaces {
    /// Reads them.
    ///
    /// # Errors
    /// If the task has gone or may not be looked into. A zombie has none, and gives an empty map.
    pub fn read(dir: &Dir) -> Result<Self, Error> {
        let mut ids = BTreeMap::new();
        for name in NAMESPACES {
            let path = format!("ns/{name}");
            match dir.link(&path) {
                Ok(target) => {
                    let id =
                        parse(target.as_bytes()).map_err(|source| dir.malformed(&path, source))?;
                    ids.insert(name, id);
                }
                Err(error) if error.is_gone() && dir.exists("stat") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(ids))
    }
}

#[cfg(test)]
mod tests {
    use ids::HostPid;

    use super::*;

    #[test]
    fn own_namespaces() {
        let own = Namespaces::read(&Dir::open(HostPid::own()).unwrap()).unwrap();
        assert!(own.0.contains_key("mnt") && own.0.contains_key("pid"));
        assert_eq!(parse(b"mnt:[12]"), Ok(12));
        assert!(parse(b"mnt:12").is_err());
    }
}
