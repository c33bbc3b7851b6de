//! `download` and `upload`: checkpoints as archives on standard output and input.

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use api::{CheckpointList, CheckpointSummary, Directory, UPLOADS};
use criu::Failure;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use service::Pieces;

use super::client::Client;
use crate::list;
use crate::voice::Voice;

/// Read at a time.
const PIECE: usize = 256 << 10;

pub(super) async fn download(
    client: &Client,
    directory: &Directory,
    voice: Voice,
) -> Result<ExitCode, Failure> {
    if voice.json {
        let error = "download with --json: it writes an archive, and no text";
        return Err(Failure::with_remedy(error, "leave it out"));
    }
    if io::stdout().is_terminal() {
        return Err(Failure::with_remedy(
            format!("download {directory}: an archive is not for a terminal"),
            format!("have it go to a file: stasis … download {directory} > checkpoint.tar"),
        ));
    }
    let mut body = client.stream(&format!("/v1/downloads/{directory}")).await?;
    let mut to = io::stdout().lock();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken_off(directory, &error))?;
        if let Ok(piece) = frame.into_data() {
            to.write_all(&piece).map_err(|error| format!("write the archive: {error}"))?;
        }
    }
    to.flush().map_err(|error| format!("write the archive: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

fn broken_off(directory: &Directory, error: &hyper::Error) -> Failure {
    Failure::with_remedy(
        format!("download {directory}: it broke off, and what was written is not whole: {error}"),
        "download it again; the log of the gateway's dumper says why",
    )
}

pub(super) async fn upload(
    client: &Client,
    directory: &Directory,
    voice: Voice,
) -> Result<ExitCode, Failure> {
    if io::stdin().is_terminal() {
        return Err(Failure::with_remedy(
            format!("upload {directory}: an archive does not come from a terminal"),
            format!("have it come from a file: stasis … upload {directory} < checkpoint.tar"),
        ));
    }
    let (mut sender, pieces) = Pieces::made();
    // A thread of its own, which nobody waits for: the gateway may say no before all is read.
    std::thread::spawn(move || {
        let mut from = io::stdin().lock();
        let mut piece = vec![0; PIECE];
        loop {
            match from.read(&mut piece) {
                Ok(0) => return,
                // Who took it has gone, and says why.
                Ok(read) if sender.write_all(&piece[..read]).is_err() => return,
                Ok(_) => {}
                Err(error) => return sender.fail(error),
            }
        }
    });
    let path = format!("{UPLOADS}{directory}");
    let body = UnsyncBoxBody::new(pieces.into_body());
    let taken: CheckpointSummary = client.send_stream(&path, body).await?;
    voice.print(&taken, || {
        let checkpoints = vec![taken.clone()];
        list::text(&CheckpointList { checkpoints, ..CheckpointList::default() })
    })?;
    Ok(ExitCode::SUCCESS)
}
