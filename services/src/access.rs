//! Keys by which checkpoints are read, and to whom they are encrypted, as settings have them; `stasis` has the same settings.
//!
//! They are read anew for each dump and each restore, so that another key is used as soon as its file is there.

use std::path::Path;
use std::sync::Arc;

use api::Code;
use axum::http::StatusCode;
use encryption::{Identities, Recipients};
use images::{Access, Destination, DirectoryKind, EncryptedDirectory, KeyError, TrustedKeys};
use service::{
    CommandError, DemandSettings, IdentitySettings, Problem, RecipientSettings, SigningSettings,
    TrustSettings, chain,
};

use crate::trust::REMEDY;

/// The keys of a service that dumps.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct KeySettings {
    #[command(flatten)]
    pub(crate) signing: SigningSettings,
    #[command(flatten)]
    pub(crate) trust: TrustSettings,
    #[command(flatten)]
    pub(crate) recipients: RecipientSettings,
    #[command(flatten)]
    pub(crate) identities: IdentitySettings,
    #[command(flatten)]
    pub(crate) demand: DemandSettings,
}

impl KeySettings {
    /// What it opens checkpoints with whose signatures do not matter, as they are only looked at.
    pub(crate) fn to_look(&self) -> Result<Access, Problem> {
        let demand = DemandSettings::default();
        access(None, &self.identities, demand).map_err(|error| no_access(&error))
    }
}

/// That keys cannot be used which could when the service started.
pub(crate) fn no_access(error: &AccessError) -> Problem {
    let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, chain(error));
    problem.remedy(error.remedy().unwrap_or(REMEDY))
}

/// The kind of problem that an error of images is which are encrypted, or are not as they have to be.
pub(crate) fn code(error: &images::Error) -> Option<Code> {
    use images::Error::{Encrypted, NotARecipient, Plain, Unsealed, Untrusted};
    match error {
        Encrypted { .. } | NotARecipient { .. } => Some(Code::Encrypted),
        Plain { .. } | Untrusted { .. } => Some(Code::Untrusted),
        Unsealed { .. } => Some(Code::Damaged),
        _ => None,
    }
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// They cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The command that says them does not.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Nothing may be written that is not encrypted.
    #[error(
        "checkpoints must be encrypted here (--demand-encryption), and no recipients are named"
    )]
    Demanded,
    /// The engine of a container encrypts nothing.
    #[error(
        "checkpoints are to be encrypted here, and the engine of a container writes its images itself, as they are"
    )]
    OfEngine,
}

impl AccessError {
    /// What helps, where the message does not say it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Demanded => Some(
                "name a file of recipients (--recipients FILE), or leave --demand-encryption out",
            ),
            Self::OfEngine => Some(
                "dump it where neither --recipients nor --demand-encryption is set, into a directory on an encrypted file system",
            ),
            Self::Key(_) | Self::Command(_) => None,
        }
    }
}

/// What a checkpoint is opened with.
///
/// # Errors
/// If keys cannot be read, or the command that says them fails.
pub fn access(
    trusted_keys: Option<&Path>,
    identities: &IdentitySettings,
    demand: DemandSettings,
) -> Result<Access, AccessError> {
    let said = identities.said()?;
    let said = said.as_ref().map(|said| said.as_str());
    Ok(Access {
        keys: TrustedKeys::demanded(trusted_keys)?,
        identities: Identities::asked(identities.identities.as_deref(), said)?.map(|it| it as _),
        encrypted_only: demand.demand_encryption,
    })
}

/// To whom checkpoints are encrypted; `None` if to nobody.
///
/// # Errors
/// If the keys cannot be read, or if there are none and checkpoints must be encrypted.
pub fn recipients(
    settings: &RecipientSettings,
    demand: DemandSettings,
) -> Result<Option<Arc<Recipients>>, AccessError> {
    let recipients = Recipients::asked(settings.recipients.as_deref())?;
    match recipients.is_none() && demand.demand_encryption {
        false => Ok(recipients),
        true => Err(AccessError::Demanded),
    }
}

/// Where a checkpoint comes to.
#[must_use]
pub fn destination(
    directory: impl Into<DirectoryKind>,
    recipients: Option<Arc<Recipients>>,
) -> Box<dyn Destination> {
    match (directory.into(), recipients) {
        (directory, Some(recipients)) => Box::new(EncryptedDirectory { directory, recipients }),
        (DirectoryKind::Alone(directory), None) => Box::new(directory),
        (DirectoryKind::InGroup(directory), None) => Box::new(directory),
    }
}

/// Refuses the checkpoint of a container if it is to be encrypted, or must be: its engine writes it.
///
/// # Errors
/// If that is so.
pub fn check_engine(
    settings: &RecipientSettings,
    demand: DemandSettings,
) -> Result<(), AccessError> {
    match demand.demand_encryption || settings.recipients.is_some() {
        true => Err(AccessError::OfEngine),
        false => Ok(()),
    }
}
