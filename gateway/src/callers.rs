//! Who asks, and what that is good for.

use std::marker::PhantomData;
use std::sync::Arc;

use api::{Labels, Role, User};
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use futures_util::future::BoxFuture;
use service::Problem;

/// Who asks, as the door that the request came through has found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Somebody who has rights.
    Asker(Asker),
    /// Who has shown the metrics token: may read the metrics.
    Metrics,
}

/// For log lines.
impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Asker(asker) => asker.fmt(f),
            Self::Metrics => f.write_str("metrics token"),
        }
    }
}

/// Says who asks as he is known by now: for what goes on for long. He may be known no more, or have other rights.
#[derive(Clone)]
pub(crate) struct StillKnown(Arc<dyn Fn() -> BoxFuture<'static, Option<Asker>> + Send + Sync>);

impl std::fmt::Debug for StillKnown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StillKnown(…)")
    }
}

impl StillKnown {
    pub(crate) fn by<F>(ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Option<Asker>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(ask())))
    }

    /// Who it is by now, if he may see anything still.
    pub(crate) async fn now(&self) -> Option<Asker> {
        (self.0)().await.filter(|asker| asker.has(Role::View))
    }
}

/// What somebody may do, and to what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    /// What he may do.
    pub(crate) roles: Vec<Role>,
    /// On whose behalf the services are asked; `None`: of somebody who may do everything.
    pub(crate) user: Option<User>,
    /// The labels that a checkpoint must have for him to see it.
    pub(crate) labels: Labels,
}

impl Rights {
    /// Those of root.
    pub(crate) fn all() -> Self {
        Self { roles: vec![Role::Admin], ..Self::default() }
    }

    pub(crate) fn have(&self, role: Role) -> bool {
        role == Role::View && !self.roles.is_empty()
            || self.roles.contains(&role)
            || self.roles.contains(&Role::Admin)
    }

    /// Whether he is bound to nothing.
    pub(crate) fn are_unbound(&self) -> bool {
        self.user.is_none() && self.labels.is_empty()
    }
}

/// One who may see what there is. Every handler that tells or does something takes it, one of [`May`], or [`Scraper`]: without a door
/// before it, there is nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    /// Who it is, for log lines, jobs and the audit.
    pub(crate) name: Arc<str>,
    rights: Arc<Rights>,
    /// On whose behalf the services are asked; `None`: of somebody who may do everything.
    pub(crate) user: Option<User>,
}

impl std::fmt::Display for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Asker {
    pub(crate) fn new(name: impl Into<Arc<str>>, rights: Arc<Rights>) -> Self {
        Self { name: name.into(), user: rights.user, rights }
    }

    pub(crate) fn has(&self, role: Role) -> bool {
        self.rights.have(role)
    }

    /// The labels that a checkpoint must have for him to see it.
    pub(crate) fn labels(&self) -> &Labels {
        &self.rights.labels
    }

    /// Whether nobody may do more.
    pub(crate) fn is_unbound_admin(&self) -> bool {
        self.has(Role::Admin) && self.rights.are_unbound()
    }

    /// Refuses whose labels bind him, where things have none.
    pub(crate) fn bound_by_no_labels(&self, what: &str) -> Result<(), Problem> {
        if self.rights.labels.is_empty() {
            return Ok(());
        }
        let message = format!("{self} is bound to checkpoints with labels, and {what} have none");
        Err(Problem::new(StatusCode::FORBIDDEN, message)
            .remedy("ask with a token that is bound to no labels"))
    }
}

/// A role that a handler asks for.
pub(crate) trait Needs: Send + Sync {
    const ROLE: Role;
}

macro_rules! needs {
    ($($name:ident),*) => {$(
        /// Asks for the role of that name.
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $name;

        impl Needs for $name {
            const ROLE: Role = Role::$name;
        }
    )*};
}
needs!(Checkpoint, Restore, Admin);

/// One who has a role.
#[derive(Clone, Debug)]
pub(crate) struct May<R> {
    pub(crate) asker: Asker,
    role: PhantomData<R>,
}

/// One whom nothing binds, and who may do everything.
#[derive(Clone, Debug)]
pub(crate) struct Owner(pub(crate) Asker);

/// One who may read the metrics, which tell of what everybody does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scraper;

fn caller(parts: &Parts) -> Result<&Caller, Problem> {
    parts.extensions.get::<Caller>().ok_or_else(|| {
        Problem::new(StatusCode::UNAUTHORIZED, "nobody is known to ask")
            .remedy("come by the gateway's own address or socket")
    })
}

fn asker(parts: &Parts, role: Role) -> Result<Asker, Problem> {
    match caller(parts)? {
        Caller::Asker(asker) if asker.has(role) => Ok(asker.clone()),
        Caller::Asker(asker) => {
            let message = format!("{asker} has not the role {}, which this takes", role.name());
            Err(Problem::new(StatusCode::FORBIDDEN, message)
                .remedy("ask with a token that has it, or have root grant it (docs/security.md)"))
        }
        Caller::Metrics => {
            let message = "the metrics token is good for /metrics alone";
            Err(Problem::new(StatusCode::FORBIDDEN, message).remedy("send the gateway's token"))
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        asker(parts, Role::View)
    }
}

impl<R: Needs, S: Send + Sync> FromRequestParts<S> for May<R> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self { asker: asker(parts, R::ROLE)?, role: PhantomData })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Owner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let asker = asker(parts, Role::Admin)?;
        match asker.is_unbound_admin() {
            true => Ok(Self(asker)),
            false => {
                let message =
                    format!("{asker} is bound to a user or to labels, and this to nobody");
                Err(Problem::new(StatusCode::FORBIDDEN, message)
                    .remedy("have root ask, or ask with the gateway's own token"))
            }
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Scraper {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match caller(parts)? {
            Caller::Metrics => Ok(Self),
            Caller::Asker(asker) if asker.has(Role::View) && asker.rights.are_unbound() => Ok(Self),
            Caller::Asker(asker) => {
                let message = format!("{asker} may not read the metrics of all");
                Err(Problem::new(StatusCode::FORBIDDEN, message)
                    .remedy("have root ask, or ask over TCP with the metrics token"))
            }
        }
    }
}
