//! The tokens that are demanded over TCP, of which nothing else says who asks.
//!
//! They are made at the gateway's first start, of random bits, each in a file that only its owner may
//! read. Who wants another one removes the file and starts the gateway again. Who wants it nowhere in the clear puts `sha256:` and its
//! hash there (`printf %s "$TOKEN" | sha256sum`). They are never logged,
//! nor taken from a command line, which everybody can read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Where the tokens are.
#[derive(Clone, Debug, clap::Args)]
pub struct TokenSettings {
    /// File of the token that is good for everything; it is made when it is not there
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/stasis/gateway.token",
        env = "STASIS_TOKEN_FILE"
    )]
    pub token_file: PathBuf,
    /// File of the token that is good for /metrics alone; it is made when it is not there
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/stasis/metrics.token",
        env = "STASIS_METRICS_TOKEN_FILE"
    )]
    pub metrics_token_file: PathBuf,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("read the token file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be made.
    #[error(
        "make the token file {} (--token-file and --metrics-token-file name other places)",
        path.display()
    )]
    Make {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read it, or have made it.
    #[error(
        "token file {path} is open to others (owner {uid}, mode {mode:04o}): they may know the token; \
         make a new one: rm {path}, and start the gateway again", path = path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// There is no good token in it.
    #[error(
        "token file {path} holds no token of 32 to 512 printable characters in one line; make a new \
         one: rm {path}, and start the gateway again", path = path.display()
    )]
    Strange {
        /// The file.
        path: PathBuf,
    },
}

/// What a token hashes to. Tokens are random, so that nobody finds one by its hash.
pub(crate) type Hash = [u8; 32];

pub(crate) fn hash(token: &[u8]) -> Hash {
    Sha256::digest(token).into()
}

/// What a token file begins with that holds the hash alone.
const HASHED: &str = "sha256:";

/// A token, by its hash.
#[derive(Clone, Copy, Debug)]
struct Token(Hash);

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Good {
    /// For everything.
    ForAll,
    /// For the metrics.
    ForMetrics,
}

/// The gateway's tokens.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    all: Token,
    metrics: Token,
}

impl Tokens {
    /// Reads them, and makes those that are not there.
    ///
    /// # Errors
    /// If one cannot be read or made, or others may know it.
    pub fn open(settings: &TokenSettings) -> Result<Self, TokenError> {
        // A group may be given the second one to read: it is good for little.
        let all = Token::open(&settings.token_file, 0o077)?;
        let metrics = Token::open(&settings.metrics_token_file, 0o027)?;
        Ok(Self { all, metrics })
    }

    /// What a token is good for that hashes to this; `None` for nothing. How long that takes tells
    /// nothing of ours.
    pub(crate) fn good(&self, shown: &Hash) -> Option<Good> {
        let all = bool::from(self.all.0.ct_eq(shown));
        let metrics = bool::from(self.metrics.0.ct_eq(shown));
        match (all, metrics) {
            (true, _) => Some(Good::ForAll),
            (false, true) => Some(Good::ForMetrics),
            (false, false) => None,
        }
    }
}

impl Token {
    fn open(path: &Path, closed: u32) -> Result<Self, TokenError> {
        match Self::read(path, closed) {
            Err(TokenError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                make(path).map_err(|source| TokenError::Make { path: path.into(), source })?;
                Self::read(path, closed)
            }
            read => read,
        }
    }

    fn read(path: &Path, closed: u32) -> Result<Self, TokenError> {
        let failed = |source| TokenError::Read { path: path.into(), source };
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(flags.bits()).open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        let (uid, mode) = (found.uid(), found.mode() & 0o7777);
        let ours = uid == 0 || uid == nix::unistd::geteuid().as_raw();
        if !ours || mode & closed != 0 {
            return Err(TokenError::Open { path: path.into(), uid, mode });
        }
        let mut text = Vec::new();
        file.take(1024).read_to_end(&mut text).map_err(failed)?;
        let token = text.trim_ascii();
        let good = found.is_file()
            && (32..=512).contains(&token.len())
            && token.iter().all(u8::is_ascii_graphic);
        let strange = || TokenError::Strange { path: path.into() };
        let hashed = token.strip_prefix(HASHED.as_bytes());
        match hashed {
            _ if !good => Err(strange()),
            Some(digits) => from_hex(digits).map(Self).ok_or_else(strange),
            None => Ok(Self(hash(token))),
        }
    }
}

/// A hash in hexadecimal digits.
fn from_hex(digits: &[u8]) -> Option<Hash> {
    let good = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| good)?;
    let mut hash = Hash::default();
    for (place, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// 244 bits that nobody guesses.
pub(crate) fn random() -> String {
    let half = || uuid::Uuid::new_v4().simple().to_string();
    half() + &half()
}

/// Makes a token file that is whole when it appears; of two that make it, one does.
fn make(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| *parent != Path::new(""));
    if let Some(directory) = directory {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}", uuid::Uuid::new_v4().simple()));
    let new = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = write(&mut file, &format!("{}\n", random()));
    let linked = written.and_then(|()| fs::hard_link(&new, path));
    fs::remove_file(&new)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

fn write(file: &mut File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn settings(directory: &Path) -> TokenSettings {
        TokenSettings {
            token_file: directory.join("below/gateway.token"),
            metrics_token_file: directory.join("below/metrics.token"),
        }
    }

    #[test]
    fn tokens_are_made_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let tokens = Tokens::open(&settings).unwrap();
        let text = fs::read_to_string(&settings.token_file).unwrap();
        assert_eq!(text.trim().len(), 64);
        let mode = fs::metadata(&settings.token_file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(fs::read_dir(directory.path().join("below")).unwrap().count(), 2);
        let again = Tokens::open(&settings).unwrap();
        for tokens in [&tokens, &again] {
            assert_eq!(tokens.good(&hash(text.trim().as_bytes())), Some(Good::ForAll));
            assert_eq!(tokens.good(&hash(b"")), None);
            assert_eq!(tokens.good(&hash(&text.as_bytes()[..32])), None);
        }
        let metrics = fs::read_to_string(&settings.metrics_token_file).unwrap();
        assert_ne!(metrics, text);
        assert_eq!(again.good(&hash(metrics.trim().as_bytes())), Some(Good::ForMetrics));
        assert!(!format!("{tokens:?}").contains(text.trim()), "not in a log");
    }

    #[test]
    fn a_token_that_others_may_know_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        Tokens::open(&settings).unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for open in [0o644, 0o640, 0o660, 0o622] {
            mode(&settings.token_file, open);
            assert!(matches!(Tokens::open(&settings), Err(TokenError::Open { .. })), "{open:o}");
        }
        mode(&settings.token_file, 0o400);
        mode(&settings.metrics_token_file, 0o640);
        Tokens::open(&settings).unwrap();
        mode(&settings.metrics_token_file, 0o604);
        assert!(matches!(Tokens::open(&settings), Err(TokenError::Open { .. })));
    }

    #[test]
    fn a_file_may_hold_the_hash_alone() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        Tokens::open(&settings).unwrap();
        let digits = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        fs::write(&settings.token_file, format!("sha256:{digits}\n")).unwrap();
        let tokens = Tokens::open(&settings).unwrap();
        assert_eq!(tokens.good(&hash(b"test")), Some(Good::ForAll));
        assert_eq!(tokens.good(&hash(format!("sha256:{digits}").as_bytes())), None);
        for wrong in [&digits[1..], &format!("+{}", &digits[1..]), &format!("{digits}0")] {
            fs::write(&settings.token_file, format!("sha256:{wrong}")).unwrap();
            assert!(matches!(Tokens::open(&settings), Err(TokenError::Strange { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        Tokens::open(&settings).unwrap();
        for text in ["", "short\n", &"x y ".repeat(20), &"x".repeat(600)] {
            fs::write(&settings.token_file, text).unwrap();
            assert!(matches!(Tokens::open(&settings), Err(TokenError::Strange { .. })), "{text}");
        }
        fs::remove_file(&settings.token_file).unwrap();
        std::os::unix::fs::symlink(&settings.metrics_token_file, &settings.token_file).unwrap();
        assert!(matches!(Tokens::open(&settings), Err(TokenError::Read { .. })), "a link");
    }
}
