//! Notifications: at each of CRIU's points the client is told, and the dump or restore goes on when it has agreed.

use hooks::{Hooks, Moment, Point, Refusal};
use ids::HostPid;
use tracing::debug;

use super::connection::Connection;
use super::messages::{Kind, Notification, Request, Response};

/// A client that is told.
#[derive(Debug)]
pub(crate) struct Notifications<'c> {
    pub(crate) connection: &'c mut Connection,
    /// Whether it takes the masters of terminals that no task has.
    pub(crate) takes_masters: bool,
}

/// Why a client's answer is none.
#[derive(Debug, thiserror::Error)]
enum NotAgreed {
    /// It is gone.
    #[error("the client has gone")]
    Gone,
    /// It says no.
    #[error("RPC client reported script error")]
    Refused,
    /// It asks for more than can be given by then.
    #[error(
        "the client names external objects in its answer, when it is too late for them: name them in the \
         options of the request"
    )]
    TooLate,
}

impl Notifications<'_> {
    fn agreed(answer: Option<Request>) -> Result<(), NotAgreed> {
        let answer = answer.ok_or(NotAgreed::Gone)?;
        if answer.kind() != Kind::Notify || answer.notify_success != Some(true) {
            return Err(NotAgreed::Refused);
        }
        match answer.options.is_some_and(|options| !options.external.is_empty()) {
            true => Err(NotAgreed::TooLate),
            false => Ok(()),
        }
    }
}

impl Hooks for Notifications<'_> {
    fn hang_on(&self, point: Point) -> bool {
        point.is_crius() && (point != Point::OrphanPtsMaster || self.takes_masters)
    }

    /// Engines take `post-dump` for the news that the images are there, and what they go on to do with a container that
    /// runs on they do when it runs. A client that wants it frozen then names an action script as well.
    fn keep_frozen(&self) -> bool {
        false
    }

    fn at(&mut self, moment: Moment<'_>) -> Result<(), Refusal> {
        let point = moment.point;
        debug!("RPC notification {}", point.name());
        let told = matches!(point, Point::SetupNamespaces | Point::PostRestore);
        let notification = Notification {
            script: Some(point.name().to_owned()),
            pid: moment.root.filter(|_| told).map(HostPid::get),
        };
        let message = Response {
            kind: Kind::Notify.into(),
            success: true,
            notify: Some(notification),
            ..Response::default()
        };
        self.connection.answer(&message, moment.descriptor)?;
        Ok(Self::agreed(self.connection.next()?)?)
    }
}
