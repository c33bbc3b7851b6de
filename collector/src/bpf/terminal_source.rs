//! Terminals where all else comes from /proc.

use ids::HostPid;
use kernel::bpf::IterTarget;

use super::programs::What;
use super::reading::BpfSource;
use super::ready::{Home, chain};
use super::terminals::add;
use crate::OpenFile;

/// What tells of the terminals of processes where all else comes from /proc, as this process is in another
/// pid namespace than the programs have the numbers of: descriptors have the same numbers in all of them.
#[derive(Debug, Default)]
pub(crate) enum TerminalSource {
    /// It is not to be had.
    #[default]
    None,
    /// Nobody needed it yet.
    NotOpened(Home),
    Opened(Box<BpfSource>),
}

impl TerminalSource {
    /// Gives the files of a process their terminals, as far as that is to be had.
    pub(crate) fn add(&mut self, pid: HostPid, files: &mut [OpenFile]) {
        if let Self::NotOpened(home) = self {
            *self = home.load_unchecked().map_or_else(
                |error| {
                    tracing::info!("what waits in terminals cannot be seen: {}", chain(&error));
                    Self::None
                },
                |source| Self::Opened(Box::new(source)),
            );
        }
        let Self::Opened(source) = self else { return };
        let told = source
            .iterate(What::Files, IterTarget::Process(pid))
            .and_then(|()| add(&source.output, pid, files));
        if let Err(error) = told {
            tracing::debug!("process {pid}: {}", chain(&error));
        }
    }
}
