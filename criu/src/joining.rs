//! `--join-ns`: namespaces that are there, and that a restored tree is to be in.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where they are, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joining {
    net: Option<PathBuf>,
    ipc: Option<PathBuf>,
    uts: Option<PathBuf>,
    time: Option<PathBuf>,
}

impl Joining {
    /// Takes `KIND:PID` or `KIND:PATH`; whether that is a kind that can be joined.
    pub(crate) fn take(&mut self, value: &OsStr) -> bool {
        let Some((kind, place)) = value.to_str().and_then(|value| value.split_once(':')) else {
            return false;
        };
        let taken = match kind {
            "net" => &mut self.net,
            "ipc" => &mut self.ipc,
            "uts" => &mut self.uts,
            "time" => &mut self.time,
            _ => return false,
        };
        if !place.is_empty() {
            *taken = Some(match place.parse::<u32>() {
                Ok(pid) => format!("/proc/{pid}/ns/{kind}").into(),
                Err(_) => place.into(),
            });
        }
        !place.is_empty()
    }

    /// Moves this process into them, but for the clocks: it goes by its own, as do those who read its notes.
    pub(crate) fn join(&self) -> io::Result<Joined> {
        let kinds = [("net", &self.net), ("ipc", &self.ipc), ("uts", &self.uts)];
        let asked = kinds.into_iter().filter_map(|(kind, place)| Some((kind, place.as_deref()?)));
        let network = self.net.as_ref().map(|_| kernel::namespaces::own("net")).transpose()?;
        // Each is opened before any is entered.
        let opened: Vec<_> = asked
            .map(|(kind, place)| Ok((kind, place, File::open(place).map_err(failed(kind, place))?)))
            .collect::<io::Result<_>>()?;
        let time = self.time.as_deref().map(time).transpose()?;
        for (kind, place, file) in opened {
            kernel::namespaces::enter(kind, file).map_err(failed(kind, place))?;
        }
        let others = restorer::Joined {
            ipc: self.ipc.is_some(),
            uts: self.uts.is_some(),
            time: time.is_some(),
        };
        Ok(Joined { network, time, others })
    }
}

/// Opens a time namespace; another file is refused.
fn time(place: &Path) -> io::Result<OwnedFd> {
    let failed = failed("time", place);
    let file = OwnedFd::from(File::open(place).map_err(&failed)?);
    match kernel::user_namespaces::kind_of(&file).map_err(&failed)? {
        "time" => Ok(file),
        kind => Err(failed(io::Error::other(format!("it is a namespace of the kind {kind}")))),
    }
}

fn failed(kind: &str, place: &Path) -> impl Fn(io::Error) -> io::Error {
    let option = format!("--join-ns {kind}:{}", place.display());
    move |error| io::Error::new(error.kind(), format!("{option}: {error}"))
}

/// What has been joined.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The network namespace that this process was in, if it is in another one now.
    pub(crate) network: Option<OwnedFd>,
    /// The time namespace for the tree.
    pub(crate) time: Option<OwnedFd>,
    pub(crate) others: restorer::Joined,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_places_are_read() {
        let mut read = Joining::default();
        for value in ["net:7", "ipc:/proc/8/ns/ipc", "uts:/a:b", "time:9"] {
            assert!(read.take(OsStr::new(value)), "{value}");
        }
        assert_eq!(read.net, Some("/proc/7/ns/net".into()));
        assert_eq!(read.ipc, Some("/proc/8/ns/ipc".into()));
        assert_eq!(read.uts, Some("/a:b".into()));
        assert_eq!(read.time, Some("/proc/9/ns/time".into()));
        for other in ["net", "net:", "user:7", "mnt:/x", "pid:1", ":1", ""] {
            assert!(!read.take(OsStr::new(other)), "{other}");
        }
    }
}
