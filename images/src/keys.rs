//! Keys of signatures in files (PKCS#8 and `SubjectPublicKeyInfo` as PEM, as openssl makes them), and why what they have signed is not trusted.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The longest file of keys that is read.
const LONGEST: u64 = 1 << 20;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("read key file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than its owner can read a private key, or change whom we trust.
    #[error("key file {}: {what}; {command} {}", path.display(), path.display())]
    Open {
        /// The file, or the directory.
        path: PathBuf,
        /// What others can do.
        what: &'static str,
        /// What closes it.
        command: &'static str,
    },
    /// There is no key in what a command has said.
    #[error("what the identity command has said: {what}")]
    Said {
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is no key of ours in it.
    #[error("key file {}: {what}", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// By what a key is known: SHA-256 of its public half (`openssl pkey -pubout -outform DER | sha256sum`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 32]);

impl KeyId {
    fn of(key: &VerifyingKey) -> Option<Self> {
        let encoded = key.to_public_key_der().ok()?;
        Some(Self(Sha256::digest(encoded.as_bytes()).into()))
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Display for KeyId {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(to, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, to)
    }
}

/// Why a checkpoint is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// Nobody has signed it.
    #[error("it is not signed")]
    Unsigned,
    /// None of those who have signed it is trusted.
    #[error("it is signed by {}, which is no trusted key", Ids(.0))]
    UnknownKey(Vec<KeyId>),
    /// Something is not as it was signed.
    #[error(
        "the signature of key {0} does not fit: the manifest or the signature has been changed, or is another checkpoint's"
    )]
    DoesNotFit(KeyId),
    /// The manifest does not tell all of an image.
    #[error(
        "the signature does not cover all of {0}, of which the manifest knows samples alone, or nothing"
    )]
    NotCovered(String),
    /// The parent is another one, or there is one where there was none.
    #[error("its parent is not the one that it was signed with")]
    OtherParent,
}

struct Ids<'i>(&'i [KeyId]);

impl Display for Ids<'_> {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        for (at, id) in self.0.iter().enumerate() {
            write!(to, "{}key {id}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Who signs checkpoints.
pub struct Signer {
    key: SigningKey,
    id: KeyId,
}

impl fmt::Debug for Signer {
    /// Never the key itself.
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.debug_tuple("Signer").field(&self.id).finish()
    }
}

impl Signer {
    /// Reads a private key, which nobody but its owner may be able to read.
    ///
    /// # Errors
    /// If others can, or there is no key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = private(path, "others than its owner can read it, and sign in his name")?;
        let wrong = |what| KeyError::NoKey { path: path.to_owned(), what };
        let key = SigningKey::from_pkcs8_pem(&text).map_err(|_| {
            wrong("it is no private key of ed25519 (make one: openssl genpkey -algorithm ed25519)")
        })?;
        let id = KeyId::of(&key.verifying_key()).ok_or_else(|| wrong("its public key is none"))?;
        Ok(Self { key, id })
    }

    /// Reads a private key that may be asked for; `None` if it is not.
    ///
    /// # Errors
    /// As [`Signer::read`].
    pub fn asked(path: Option<&Path>) -> Result<Option<Arc<Self>>, KeyError> {
        path.map(Self::read).map(|key| key.map(Arc::new)).transpose()
    }

    /// By what its key is known.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn sign(&self, statement: &[u8]) -> Vec<u8> {
        self.key.sign(statement).to_bytes().to_vec()
    }
}

/// Whose signatures are taken.
#[derive(Debug, Default)]
pub struct TrustedKeys(BTreeMap<KeyId, VerifyingKey>);

impl TrustedKeys {
    /// Reads public keys: all of a file, or of the files of a directory that end in `.pem`. Nobody but root and us may be able to change
    /// them.
    ///
    /// # Errors
    /// If others can, or if there is none.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Read { path: path.to_owned(), source };
        let mut keys = Self::default();
        let found = fs::metadata(path).map_err(failed)?;
        if !found.is_dir() {
            keys.add(path)?;
            return Ok(keys);
        }
        check_unchanged(path, &found, WHOM_WE_TRUST)?;
        for entry in fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.extension().is_some_and(|extension| extension == "pem") {
                keys.add(&file)?;
            }
        }
        match keys.0.is_empty() {
            false => Ok(keys),
            true => Err(KeyError::NoKey {
                path: path.to_owned(),
                what: "no file in it ends in .pem, so that nobody would be trusted",
            }),
        }
    }

    /// Reads public keys that may be demanded; `None` if they are not.
    ///
    /// # Errors
    /// As [`TrustedKeys::read`].
    pub fn demanded(path: Option<&Path>) -> Result<Option<Arc<Self>>, KeyError> {
        path.map(Self::read).map(|keys| keys.map(Arc::new)).transpose()
    }

    /// Adds all keys of a file.
    fn add(&mut self, path: &Path) -> Result<(), KeyError> {
        const END: &str = "-----END PUBLIC KEY-----";
        let text = public(path, WHOM_WE_TRUST)?;
        let wrong = |what| KeyError::NoKey { path: path.to_owned(), what };
        if text.contains("PRIVATE KEY") {
            return Err(wrong(
                "it is a private key: name a file with its public half (openssl pkey -in FILE -pubout)",
            ));
        }
        let blocks: Vec<&str> = text.split_inclusive(END).filter(|it| it.ends_with(END)).collect();
        if blocks.is_empty() {
            return Err(wrong("it has no public key (make one: openssl pkey -in FILE -pubout)"));
        }
        for block in blocks {
            let key = VerifyingKey::from_public_key_pem(block.trim_start());
            let key = key.ok().filter(|key| !key.is_weak());
            let key = key.ok_or_else(|| wrong("a public key in it is none of ed25519"))?;
            let id = KeyId::of(&key).ok_or_else(|| wrong("a public key in it is none"))?;
            self.0.insert(id, key);
        }
        Ok(())
    }

    /// The ids of all.
    pub fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.0.keys()
    }

    pub(crate) fn has(&self, id: &KeyId) -> bool {
        self.0.contains_key(id)
    }

    /// Whether a signature is the key's, of these bytes.
    pub(crate) fn fits(&self, id: &KeyId, statement: &[u8], signature: &[u8]) -> bool {
        let signature = Signature::from_slice(signature);
        let key = self.0.get(id).zip(signature.ok());
        key.is_some_and(|(key, signature)| key.verify_strict(statement, &signature).is_ok())
    }
}

/// What is in a file of private keys, which nobody but its owner may be able to read; `what` tells what others could do.
///
/// # Errors
/// If others can read it, or it cannot be read.
pub fn private(path: &Path, what: &'static str) -> Result<Zeroizing<String>, KeyError> {
    let (mut file, found) = open(path)?;
    match found.mode() & 0o077 == 0 {
        true => Ok(Zeroizing::new(text(&mut file, path)?)),
        false => Err(open_to_others(path, what, "chmod 600")),
    }
}

/// What is in a file of public keys, which nobody but root and us may be able to change; `what` tells what others could do.
///
/// # Errors
/// If others can change it, or it cannot be read.
pub fn public(path: &Path, what: &'static str) -> Result<Zeroizing<String>, KeyError> {
    let (mut file, found) = open(path)?;
    check_unchanged(path, &found, what)?;
    Ok(Zeroizing::new(text(&mut file, path)?))
}

fn open(path: &Path) -> Result<(File, Metadata), KeyError> {
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    // Who puts a fifo there is not to hold anything up.
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = options.open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(KeyError::NoKey { path: path.to_owned(), what: "it is no regular file" });
    }
    if !is_ours(&found) {
        return Err(open_to_others(path, "it is neither root's nor yours", "chown root"));
    }
    Ok((file, found))
}

fn text(file: &mut File, path: &Path) -> Result<String, KeyError> {
    // No room is given back with a part of a key in it.
    let mut text = String::with_capacity(8 << 10);
    let read = file.take(LONGEST).read_to_string(&mut text);
    read.map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
    Ok(text)
}

fn is_ours(found: &Metadata) -> bool {
    found.uid() == 0 || found.uid() == geteuid().as_raw()
}

/// What others can do who can change trusted keys.
const WHOM_WE_TRUST: &str = "others can change it, and so whom you trust";

/// Checks that nobody but root and us can change keys; `what` tells what others could do.
fn check_unchanged(path: &Path, found: &Metadata, what: &'static str) -> Result<(), KeyError> {
    match is_ours(found) && found.mode() & 0o022 == 0 {
        true => Ok(()),
        false => Err(open_to_others(path, what, "chmod go-w")),
    }
}

fn open_to_others(path: &Path, what: &'static str, command: &'static str) -> KeyError {
    KeyError::Open { path: path.to_owned(), what, command }
}
