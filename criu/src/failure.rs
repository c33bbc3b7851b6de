//! An error as a person reads it: the chain of causes once, and what to do about it.

use std::error::Error;
use std::fmt;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    error: Box<dyn Error + Send + Sync>,
    remedy: Option<String>,
}

impl Failure {
    /// With something that the user can do about it.
    pub fn with_remedy(
        error: impl Into<Box<dyn Error + Send + Sync>>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { error: error.into(), remedy: Some(remedy.into()) }
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let remedy = (!nix::unistd::geteuid().is_root() && is_denied(&*error))
            .then(|| "run it as root (sudo)".to_owned());
        Self { error, remedy }
    }
}

/// Whether any of the causes is that the kernel does not let us.
fn is_denied(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let of_io = error.downcast_ref::<std::io::Error>();
        let denied = std::io::ErrorKind::PermissionDenied;
        if of_io.is_some_and(|error| error.kind() == denied)
            || matches!(error.downcast_ref(), Some(nix::Error::EPERM | nix::Error::EACCES))
        {
            return true;
        }
        next = error.source();
    }
    false
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let mut cause = self.error.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\nremedy: {remedy}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("dump process 7")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn what_is_denied_is_seen_below_other_causes() {
        let outer = |errno| Outer(std::io::Error::from_raw_os_error(errno));
        assert!(is_denied(&outer(libc::EPERM)) && is_denied(&outer(libc::EACCES)));
        assert!(!is_denied(&outer(libc::ENOENT)));
    }

    #[test]
    fn the_chain_is_said_once_and_the_remedy_last() {
        let error = Outer(std::io::Error::other("disk full"));
        assert_eq!(Failure::from(error).to_string(), "dump process 7: disk full");
        let error = Outer(std::io::Error::other("disk full"));
        let failure = Failure::with_remedy(error, "make room");
        assert_eq!(failure.to_string(), "dump process 7: disk full\nremedy: make room");
    }
}
