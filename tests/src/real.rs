//! Real programs from the distribution: a web server in Python, and Redis.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::machine::wait_until;
use crate::program::Program;

/// A port of 127.0.0.1 that was free a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address").port()
}

/// `tests/programs/counter.py`: a web server that counts in a thread.
#[derive(Debug)]
pub struct WebServer {
    /// The program.
    pub program: Program,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl WebServer {
    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("make the web server's directory");
        let script = dir.join("counter.py");
        std::fs::write(&script, include_str!("../programs/counter.py")).expect("write the script");
        let port = free_port();
        // Debian's own Python where there is one: others may come by wrappers.
        let debian = Path::new("/usr/bin/python3");
        let python = if debian.exists() { debian } else { Path::new("python3") };
        let mut command = Command::new(python);
        command.arg(script).arg(port.to_string()).current_dir(dir);
        let program = Program::start(&mut command, &dir.join("log"));
        let server = Self { program, port };
        let up = wait_until(Duration::from_secs(20), || server.ask("/").is_ok());
        assert!(up, "the web server does not answer");
        server
    }

    /// Asks for a path.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub fn ask(&self, path: &str) -> Result<Value, String> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let answer = reqwest::blocking::get(url).map_err(|error| error.to_string())?;
        answer.json().map_err(|error| error.to_string())
    }

    /// How far it has counted.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn count(&self) -> u64 {
        let state = self.ask("/").expect("the web server answers");
        state["count"].as_u64().expect("a count")
    }
}

/// A Redis server without persistence of its own.
#[derive(Debug)]
pub struct Redis {
    /// The program.
    pub program: Program,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl Redis {
    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("make Redis's directory");
        let port = free_port();
        let mut command = Command::new("redis-server");
        let options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"];
        command.arg("--port").arg(port.to_string()).args(options).arg(dir);
        let program = Program::start(&mut command, &dir.join("log"));
        let redis = Self { program, port };
        let up = wait_until(Duration::from_secs(20), || {
            redis.ask(&["PING"]).is_ok_and(|answer| answer == "PONG")
        });
        assert!(up, "Redis does not answer");
        redis
    }

    /// Sends one command on a connection of its own; the answer, if it is a simple one.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub fn ask(&self, words: &[&str]) -> Result<String, String> {
        let mut answers = self.ask_all(&[words.iter().map(|w| (*w).to_owned()).collect()])?;
        answers.pop().ok_or_else(|| "no answer".to_owned())
    }

    /// Sends many commands on one connection, which is closed again.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub fn ask_all(&self, commands: &[Vec<String>]) -> Result<Vec<String>, String> {
        let text = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(text)?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(text)?;
        let mut request = String::new();
        for words in commands {
            request += &format!("*{}\r\n", words.len());
            for word in words {
                request += &format!("${}\r\n{word}\r\n", word.len());
            }
        }
        // With the connection closed by Redis first it has none left when this returns: a dump
        // would be refused for it.
        request += "*1\r\n$4\r\nQUIT\r\n";
        (&stream).write_all(request.as_bytes()).map_err(text)?;
        let mut lines = BufReader::new(&stream).lines().map(|line| line.map_err(text));
        let mut next = || lines.by_ref().next().unwrap_or_else(|| Err("Redis hung up".to_owned()));
        let mut answers = Vec::new();
        for _ in commands {
            let line = next()?;
            // A bulk answer has its length first.
            answers.push(match line.as_bytes().first() {
                Some(b'$') if line != "$-1" => next()?,
                _ => line.get(1..).unwrap_or_default().to_owned(),
            });
        }
        lines.for_each(drop);
        Ok(answers)
    }

    /// Sets `key:0` … to values that [`Redis::verify`] knows.
    ///
    /// # Panics
    /// When Redis does not take them.
    pub fn fill(&self, count: usize) {
        let sets: Vec<_> =
            (0..count).map(|n| vec!["SET".to_owned(), format!("key:{n}"), value_of(n)]).collect();
        let answers = self.ask_all(&sets).expect("Redis takes the keys");
        assert!(answers.iter().all(|answer| answer == "OK"), "{answers:?}");
    }

    /// Whether every key has its value still.
    ///
    /// # Errors
    /// What is wrong.
    pub fn verify(&self, count: usize) -> Result<(), String> {
        let gets: Vec<_> = (0..count).map(|n| vec!["GET".to_owned(), format!("key:{n}")]).collect();
        let answers = self.ask_all(&gets)?;
        let wrong = answers.iter().enumerate().find(|(n, answer)| **answer != value_of(*n));
        if let Some((n, answer)) = wrong {
            return Err(format!("key:{n} is {answer:?}"));
        }
        match self.ask(&["DBSIZE"])? {
            size if size == count.to_string() => Ok(()),
            size => Err(format!("{size} keys, not {count}")),
        }
    }
}

fn value_of(n: usize) -> String {
    format!("value {n} of the house: {}", "x".repeat(n % 97))
}
