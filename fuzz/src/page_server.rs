//! What a dump sends to a page server, over a connection that gives the input and then ends.

use std::io::{self, Read, Write};
use std::time::Duration;

use images::page_server::{Serving, Wire, receive};

use crate::used;

#[derive(Debug)]
struct Input(io::Cursor<Vec<u8>>);

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Input {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for Input {
    fn wait_for(&mut self, _time: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// Serves `input`. What is not whole leaves nothing.
pub fn page_server(input: &[u8]) {
    let directory = std::env::temp_dir().join(format!("stasis-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let serving = Serving { sync: false, ..Serving::into_directory(directory.clone()) };
    let received = receive(&mut Input(io::Cursor::new(input.to_vec())), &serving);
    let left = std::fs::read_dir(&directory).expect("list").count();
    if received.is_err() {
        assert_eq!(left, 0, "something is left");
    }
    used(received);
    std::fs::remove_dir_all(&directory).expect("remove");
}
