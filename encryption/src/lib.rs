//! Keys of age (X25519), as `age-keygen` makes files of them: to whom checkpoints are encrypted, and who can read them.
//!
//! `images` has the stores and readers that use them, and knows them by two traits: engines link no age.

use std::fmt::{self, Debug, Display, Formatter};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use age::stream::{StreamReader, StreamWriter};
use age::x25519::Recipient;
use age::{DecryptError, Decryptor, Encryptor, Identity, IdentityFile};
use images::encryption::Decrypts;
use images::store::{Content, EncryptedOutput, Encrypts};
use images::{KeyError, keys};
use zeroize::Zeroizing;

/// A header comes in many small parts; pieces are longer than this, and go past it.
const WRITTEN_AT_ONCE: usize = 4 << 10;

/// Two pieces of age's.
const READ_AT_ONCE: usize = 128 << 10;

/// To whom checkpoints are encrypted.
#[derive(Clone)]
pub struct Recipients(Vec<Recipient>);

impl Debug for Recipients {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.debug_list().entries(self.0.iter().map(ToString::to_string)).finish()
    }
}

impl Display for Recipients {
    /// Public keys, as they stand in files.
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        for (at, recipient) in self.0.iter().enumerate() {
            write!(to, "{}{recipient}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Recipients {
    /// Reads public keys (`age1…`), one a line; empty lines and those that begin with `#` are left out. Nobody but root and us may be able
    /// to change the file.
    ///
    /// # Errors
    /// If others can, or if there is none.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = keys::public(path, "others can change it, and so who can read checkpoints")?;
        let wrong = |what| KeyError::NoKey { path: path.to_owned(), what };
        if text.contains("AGE-SECRET-KEY-") {
            return Err(wrong(
                "it has a private key: name a file with its public half (age-keygen -y FILE)",
            ));
        }
        let lines = text.lines().map(str::trim).filter(|it| !it.is_empty() && !it.starts_with('#'));
        let keys = lines.map(str::parse::<Recipient>).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(|_| {
            wrong("a line in it is no recipient of kind X25519 (age1…, as age-keygen -y prints it)")
        })?;
        match keys.is_empty() {
            false => Ok(Self(keys)),
            true => Err(wrong("there is no recipient in it (make one: age-keygen -y IDENTITIES)")),
        }
    }

    /// Reads public keys that may be asked for; `None` if they are not.
    ///
    /// # Errors
    /// As [`Recipients::read`].
    pub fn asked(path: Option<&Path>) -> Result<Option<Arc<Self>>, KeyError> {
        path.map(Self::read).map(|keys| keys.map(Arc::new)).transpose()
    }
}

impl Encrypts for Recipients {
    fn begin(&self, file: File) -> io::Result<Box<dyn EncryptedOutput>> {
        let recipients = self.0.iter().map(|it| it as &dyn age::Recipient);
        let begun = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
        let output = BufWriter::with_capacity(WRITTEN_AT_ONCE, file);
        Ok(Box::new(Output(begun.wrap_output(output)?)))
    }
}

/// A file of age's that is being written.
struct Output(StreamWriter<BufWriter<File>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl EncryptedOutput for Output {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.finish()?.flush()
    }
}

/// Who can read encrypted checkpoints.
#[derive(Clone, Default)]
pub struct Identities(Vec<Arc<dyn Identity + Send + Sync>>);

impl Debug for Identities {
    /// Never the keys themselves.
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        write!(to, "Identities({})", self.0.len())
    }
}

impl Identities {
    /// Reads private keys (`AGE-SECRET-KEY-1…`), one a line, as `age-keygen` makes files of them. Nobody but its owner may be able to read
    /// the file.
    ///
    /// # Errors
    /// If others can, or if there is none.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let what = "others than its owner can read it, and all that is encrypted to it";
        let text = keys::private(path, what)?;
        Self::of_text(&text).map_err(|what| KeyError::NoKey { path: path.to_owned(), what })
    }

    /// What is in such a file.
    ///
    /// # Errors
    /// What is wrong with it; never what is in it.
    pub fn of_text(text: &str) -> Result<Self, &'static str> {
        let lines = text.lines().map(str::trim);
        let text = Zeroizing::new(lines.fold(
            // No room is given back with a part of a key in it.
            String::with_capacity(text.len() + 1),
            |text, line| text + line + "\n",
        ));
        let file = IdentityFile::from_buffer(text.as_bytes()).map_err(|_| {
            "a line in it is no identity of kind X25519 (AGE-SECRET-KEY-1…, as age-keygen makes it)"
        })?;
        let identities = file.into_identities().map_err(|_| "an identity in it cannot be used")?;
        match identities.is_empty() {
            false => Ok(Self(identities.into_iter().map(Arc::from).collect())),
            true => Err("there is no identity in it (make one: age-keygen)"),
        }
    }

    /// Reads private keys that may be given: those in a file, and those that a command has said (`said`); `None` if none are.
    ///
    /// # Errors
    /// As [`Identities::read`].
    pub fn asked(path: Option<&Path>, said: Option<&str>) -> Result<Option<Arc<Self>>, KeyError> {
        let mut all = path.map(Self::read).transpose()?.unwrap_or_default();
        if let Some(said) = said {
            all.0.extend(Self::of_text(said).map_err(|what| KeyError::Said { what })?.0);
        }
        Ok((!all.0.is_empty()).then(|| Arc::new(all)))
    }
}

impl Decrypts for Identities {
    fn begin(&self, content: Box<dyn Content>) -> io::Result<Option<Box<dyn Content>>> {
        let wrong = |error: DecryptError| match error {
            DecryptError::Io(error) => error,
            error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
        };
        let input = BufReader::with_capacity(READ_AT_ONCE, content);
        let identities = self.0.iter().map(|it| &**it as &dyn Identity);
        match Decryptor::new_buffered(input).map_err(wrong)?.decrypt(identities) {
            Ok(reader) => Ok(Some(Box::new(Decrypted(reader)))),
            Err(DecryptError::NoMatchingKeys) => Ok(None),
            Err(error) => Err(wrong(error)),
        }
    }
}

/// A file of age's that is decrypted as it is read.
struct Decrypted(StreamReader<BufReader<Box<dyn Content>>>);

impl Debug for Decrypted {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.write_str("Decrypted")
    }
}

impl Read for Decrypted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Seek for Decrypted {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}
