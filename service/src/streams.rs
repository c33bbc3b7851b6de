//! Bodies that are passed on piece by piece, however long they are.

use std::io::{self, Read};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;

/// A client has so long for the next piece.
const IDLE: Duration = Duration::from_secs(30);
/// So much of what nobody wants is let go by before who sends it is hung up on.
const DRAINED: u64 = 1 << 30;
/// So many pieces wait to be taken.
const WAITING: usize = 8;

/// Why a body ends before its end: it is the fault of who sends it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenOff {
    /// Nothing came for long.
    #[error("nothing came for {0:?}")]
    Late(Duration),
    /// Who sends it has gone.
    #[error("the body breaks off")]
    Gone(#[source] axum::Error),
}

impl BrokenOff {
    /// What of it is among the causes of an error.
    pub(crate) fn among<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(found) = inner.and_then(|inner| inner.downcast_ref()) {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }
}

/// What comes in a body, piece by piece, up to its end or to what went wrong.
#[derive(Debug)]
pub struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

/// The other end of [`Pieces`]: who has it makes them.
#[derive(Debug)]
pub struct PiecesSender(mpsc::Sender<io::Result<Bytes>>);

impl Pieces {
    /// Pieces that somebody is going to make.
    #[must_use]
    pub fn made() -> (PiecesSender, Self) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (PiecesSender(sender), Self(receiver))
    }

    /// Takes those of a body, as long as somebody wants them. One that does not come for 30 s is waited for no more.
    #[must_use]
    pub fn of(body: Body) -> Self {
        Self::within(IDLE, body)
    }

    fn within(idle: Duration, mut body: Body) -> Self {
        let (PiecesSender(sender), pieces) = Self::made();
        tokio::spawn(async move {
            loop {
                let piece = tokio::select! {
                    () = sender.closed() => return,
                    piece = tokio::time::timeout(idle, body.frame()) => match piece {
                        Ok(None) => return,
                        Ok(Some(Ok(frame))) => Ok(frame.into_data().unwrap_or_default()),
                        Ok(Some(Err(error))) => Err(io::Error::other(BrokenOff::Gone(error))),
                        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, BrokenOff::Late(idle))),
                    },
                };
                let is_last = piece.is_err();
                if sender.send(piece).await.is_err() || is_last {
                    return;
                }
            }
        });
        pieces
    }

    /// Lets them go by, as far as that is worth it, for who would not read an answer before he has sent all.
    pub async fn drain(mut self) {
        let mut left = DRAINED;
        while let Some(Ok(piece)) = self.0.recv().await
            && left > 0
        {
            left = left.saturating_sub(piece.len() as u64);
        }
    }

    /// A body of them. It breaks off where something went wrong.
    pub fn into_body(
        self,
    ) -> impl http_body::Body<Data = Bytes, Error = io::Error> + Send + Sync + 'static {
        StreamBody::new(stream::unfold(self.0, |mut pieces| async move {
            let piece = pieces.recv().await?;
            Some((piece.map(Frame::data), pieces))
        }))
    }

    /// To be read where one may wait.
    #[must_use]
    pub fn into_reader(self) -> PiecesReader {
        PiecesReader { pieces: self.0, piece: Bytes::new() }
    }
}

/// [`Pieces`] to be read where one may wait.
#[derive(Debug)]
pub struct PiecesReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl PiecesReader {
    /// As [`Pieces::drain`].
    pub fn drain(self) {
        // What comes is wanted no more, nor why it does not.
        drop(io::copy(&mut self.take(DRAINED), &mut io::sink()));
    }
}

impl Read for PiecesReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

impl PiecesSender {
    /// Has them end with what went wrong, where one may wait.
    pub fn fail(self, error: io::Error) {
        // Nobody may be left to be told.
        drop(self.0.blocking_send(Err(error)));
    }
}

impl io::Write for PiecesSender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Ok(Bytes::copy_from_slice(bytes));
        let sent = self.0.blocking_send(piece);
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn what_is_written_at_one_end_is_read_at_the_other() {
        let (mut sender, pieces) = Pieces::made();
        let writer = tokio::task::spawn_blocking(move || {
            for number in 0_u8..100 {
                sender.write_all(&[number; 1000]).unwrap();
            }
            sender.fail(io::Error::other("broken off"));
        });
        let mut reader = Pieces::of(Body::new(pieces.into_body())).into_reader();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            let error = reader.read_to_end(&mut bytes).unwrap_err();
            (bytes, error.to_string())
        });
        writer.await.unwrap();
        let (bytes, error) = read.await.unwrap();
        assert_eq!(bytes.len(), 100_000);
        assert!(bytes.chunks(1000).zip(0_u8..).all(|(piece, number)| piece == [number; 1000]));
        assert!(error.contains("breaks off"), "{error}");
    }

    #[tokio::test]
    async fn who_sends_nothing_for_long_is_not_waited_for() {
        let (sender, pieces) = Pieces::made();
        let body = Body::new(pieces.into_body());
        let Pieces(mut received) = Pieces::within(Duration::from_millis(20), body);
        let error = received.recv().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(matches!(BrokenOff::among(&error), Some(BrokenOff::Late(_))));
        assert!(received.recv().await.is_none());
        drop(sender);
    }
}
