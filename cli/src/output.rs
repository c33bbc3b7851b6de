//! What a command says on standard output.

use std::io::{self, Write, stdout};

/// Prints text; a reader that has heard enough (`stasis show DIR | head`) is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
