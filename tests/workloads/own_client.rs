//! A program that has itself dumped by a service: it hears that it was, and its copy that it is restored.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use stasis_tests::rpc::{Client, Message, kind, request};

use crate::stage::{Outcome, Stage};

pub(crate) fn run(stage: &Stage) -> Outcome {
    stage.ready_then_wait();
    let of = |name: &str| PathBuf::from(std::env::var_os(name).expect("a variable"));
    let images = File::open(of("IMAGES")).expect("open");
    let number = images.as_raw_fd().into();
    let options = Message::new().number(1, number).number(3, 1).number(9, 4).bytes(10, b"dump.log");
    let answer = Client::connect(&of("ADDRESS")).ask(&request(kind::DUMP, &options)).answer;
    let answer = answer.ok_or("nobody answers")?;
    match (answer.number(2), answer.message(3).and_then(|dump| dump.number(1))) {
        (Some(1), Some(1)) => Ok(()),
        (Some(1), Some(0)) => {
            stage.publish("dumped", "");
            std::process::exit(0);
        }
        _ => Err(format!("{:?}", answer.text(9))),
    }
}
