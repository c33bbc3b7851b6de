//! Who may do what: the access file (`docs/security.md`).
//!
//! Root may do everything, and a user what he could do himself, where no file says otherwise. A file grants rights to users, groups and
//! the names of clients' certificates; the first grant that names who asks is his.

use std::collections::HashSet;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use api::{Labels, Role, User};
use nix::fcntl::OFlag;
use nix::unistd::Group;
use serde::Deserialize;
use tokio::signal::unix::Signal;

use crate::callers::{Asker, Rights};
use crate::names::{Names, Silent};

/// The largest access file that is read.
const LARGEST: u64 = 1024 * 1024;
/// In between it is looked at.
const LOOKED_AT: Duration = Duration::from_secs(30);

/// Why there is no telling who may do what.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file cannot be read.
    #[error("read the access file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than root may write it.
    #[error(
        "access file {path} may be written by others than root (owner {uid}, mode {mode:04o}): chown root {path}; chmod go-w {path}",
        path = path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// It is not written as it should be.
    #[error("understand the access file {}", path.display())]
    Strange {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Who is named in it cannot be looked up.
    #[error(
        "access file {}: the machine's database of users and groups does not answer; see what getent(1) says",
        .0.display()
    )]
    Silent(PathBuf),
    /// A grant names somebody whom there is not, or grants nothing that makes sense.
    #[error("access file {}: grant {number}: {message}", path.display())]
    Grant {
        /// The file.
        path: PathBuf,
        /// Which grant, from 1.
        number: usize,
        /// What is wrong with it.
        message: String,
    },
}

/// A user or group by name or number.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Named {
    Number(u32),
    Name(String),
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// The file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// What users may do whom no grant names, as themselves.
    users: Option<Vec<Role>>,
    #[serde(default)]
    grant: Vec<WrittenGrant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGrant {
    #[serde(default)]
    users: Vec<Named>,
    #[serde(default)]
    groups: Vec<Named>,
    #[serde(default)]
    certificates: Vec<String>,
    roles: Vec<Role>,
    #[serde(default)]
    labels: Labels,
    acts_as: Option<Named>,
}

/// What is granted to some.
#[derive(Clone, Debug, Default)]
struct Grant {
    uids: HashSet<u32>,
    gids: HashSet<u32>,
    certificates: HashSet<String>,
    rights: Rights,
    /// Users act as themselves.
    as_themselves: bool,
}

/// What is granted to whom.
#[derive(Clone, Debug)]
struct Grants {
    grants: Vec<Grant>,
    /// What other users may do.
    users: Vec<Role>,
}

/// Who may do what. A clone is the same.
#[derive(Clone, Debug)]
pub struct Access(Arc<State>);

#[derive(Debug)]
struct State {
    path: Option<PathBuf>,
    grants: RwLock<Arc<Grants>>,
    names: Names,
}

impl Access {
    /// What a file says; without one, root may do everything, and a user what he could do himself.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn open(path: Option<&Path>) -> Result<Self, AccessError> {
        let grants = path.map_or_else(|| Ok(Grants::without_a_file()), read)?;
        let grants = RwLock::new(Arc::new(grants));
        Ok(Self(Arc::new(State {
            path: path.map(Path::to_owned),
            grants,
            names: Names::default(),
        })))
    }

    /// Reads the file again when it changes, for as long as this runs. `hup` says so, too.
    pub async fn keep_up(self, mut hup: Signal) {
        let changed = |path: &Path| -> Option<SystemTime> { path.metadata().ok()?.modified().ok() };
        let mut seen = self.0.path.as_deref().and_then(changed);
        loop {
            let told = tokio::select! {
                told = hup.recv() => told.is_some(),
                () = tokio::time::sleep(LOOKED_AT) => false,
            };
            let Some(path) = &self.0.path else { continue };
            let now = changed(path);
            if !told && now == seen {
                continue;
            }
            let file = path.clone();
            let read = self.0.names.ask(move || read(&file)).await;
            match read.unwrap_or_else(|Silent| Err(AccessError::Silent(path.clone()))) {
                Ok(grants) => {
                    let mut current = self.0.grants.write().unwrap_or_else(PoisonError::into_inner);
                    *current = Arc::new(grants);
                    tracing::info!("read the access file {} again", path.display());
                    seen = now;
                }
                Err(error) => {
                    tracing::error!("keep what was granted: {}", service::chain(&error));
                }
            }
        }
    }

    fn grants(&self) -> Arc<Grants> {
        self.0.grants.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The machine's database of users.
    pub(crate) fn names(&self) -> &Names {
        &self.0.names
    }

    /// Who a user on the Unix socket is: the gateway's owner may do everything; `None`: nothing is granted to the user.
    pub(crate) async fn user(&self, user: User, owner: bool) -> Result<Option<Asker>, Silent> {
        let name = format!("uid {}", user.uid);
        if owner {
            return Ok(Some(Asker::new(name, Arc::new(Rights::all()))));
        }
        let grants = self.grants();
        // Who belongs to which group may have to be asked over a network.
        let asks = grants.grants.iter().any(|grant| !grant.gids.is_empty());
        let groups = if asks { self.0.names.groups(user).await? } else { Arc::default() };
        let rights = grants.of_user(user, &groups);
        Ok((!rights.roles.is_empty()).then(|| Asker::new(name, Arc::new(rights))))
    }

    /// Who is meant by the names of a client's certificate.
    pub(crate) fn certificate(&self, names: &[String]) -> Option<Asker> {
        let grants = self.grants();
        let (name, grant) = grants.grants.iter().find_map(|grant| {
            let name = names.iter().find(|name| grant.certificates.contains(*name))?;
            Some((name, grant))
        })?;
        let rights = Arc::new(grant.rights.clone());
        (!rights.roles.is_empty()).then(|| Asker::new(format!("certificate {name}"), rights))
    }
}

impl Grants {
    fn without_a_file() -> Self {
        Self { grants: Vec::new(), users: vec![Role::Admin] }
    }

    fn of_user(&self, user: User, groups: &[u32]) -> Rights {
        let named = |grant: &&Grant| {
            grant.uids.contains(&user.uid) || groups.iter().any(|gid| grant.gids.contains(gid))
        };
        match self.grants.iter().find(named) {
            Some(grant) if grant.as_themselves => {
                Rights { user: Some(user), ..grant.rights.clone() }
            }
            Some(grant) => grant.rights.clone(),
            None => {
                Rights { roles: self.users.clone(), user: Some(user), labels: Labels::default() }
            }
        }
    }
}

fn read(path: &Path) -> Result<Grants, AccessError> {
    let failed = |source| AccessError::Read { path: path.into(), source };
    let mut options = std::fs::OpenOptions::new();
    let options = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = options.open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    let (uid, mode) = (found.uid(), found.mode() & 0o7777);
    let ours = uid == 0 || uid == nix::unistd::geteuid().as_raw();
    if !ours || mode & 0o022 != 0 {
        return Err(AccessError::Open { path: path.into(), uid, mode });
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).map_err(failed)?;
    let written: Written = toml::from_str(&text)
        .map_err(|error| AccessError::Strange { path: path.into(), source: Box::new(error) })?;
    let wrong = |(number, message)| AccessError::Grant { path: path.into(), number, message };
    understand(written).map_err(wrong)
}

/// What is written, with the numbers of who is named. The error is which grant is wrong, and why.
fn understand(written: Written) -> Result<Grants, (usize, String)> {
    let mut grants = Vec::new();
    for (index, it) in written.grant.into_iter().enumerate() {
        let grant = grant(it).map_err(|message| (index + 1, message))?;
        grants.push(grant);
    }
    Ok(Grants { grants, users: written.users.unwrap_or_else(|| vec![Role::Admin]) })
}

fn grant(written: WrittenGrant) -> Result<Grant, String> {
    let WrittenGrant { users, groups, certificates, roles, labels, acts_as } = written;
    if users.is_empty() && groups.is_empty() && certificates.is_empty() {
        return Err("it names no users, groups or certificates".to_owned());
    }
    if !certificates.is_empty() && acts_as.is_none() {
        return Err(
            "it names certificates, and not as which user they act: acts_as = \"root\" is everybody"
                .to_owned(),
        );
    }
    let mut grant = Grant { as_themselves: acts_as.is_none(), ..Grant::default() };
    for name in &users {
        grant.uids.insert(known(name)?.uid);
    }
    for name in &groups {
        grant.gids.insert(match name {
            Named::Number(gid) => *gid,
            Named::Name(name) => match Group::from_name(name) {
                Ok(Some(group)) => group.gid.as_raw(),
                Ok(None) => return Err(format!("there is no group {name}")),
                Err(error) => return Err(format!("look up group {name}: {error}")),
            },
        });
    }
    grant.certificates = certificates.into_iter().collect();
    let user = acts_as.as_ref().map(known).transpose()?.filter(|user| user.uid != 0);
    grant.rights = Rights { roles, user, labels: scope(labels)? };
    Ok(grant)
}

/// Labels that somebody can be bound to.
pub(crate) fn scope(labels: Labels) -> Result<Labels, String> {
    if let Some((key, _)) = labels.iter().find(|(_, value)| value.contains(',')) {
        return Err(format!("label {key} has a comma, by which nothing can be bound"));
    }
    Ok(labels)
}

fn known(name: &Named) -> Result<User, String> {
    user_named(&name.to_string())
}

/// A user by name or number.
pub(crate) fn user_named(name: &str) -> Result<User, String> {
    let found = match name.parse::<u32>() {
        Ok(uid) => nix::unistd::User::from_uid(uid.into()),
        Err(_) => nix::unistd::User::from_name(name),
    };
    match found {
        Ok(Some(user)) => Ok(User { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        Ok(None) => Err(format!("there is no user {name}")),
        Err(error) => Err(format!("look up user {name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(text: &str) -> Result<Grants, (usize, String)> {
        understand(toml::from_str(text).unwrap())
    }

    #[test]
    fn the_first_grant_that_names_who_asks_is_his() {
        let grants = grants(
            r#"
            users = ["view"]
            [[grant]]
            users = ["daemon"]
            roles = ["checkpoint"]
            labels = { team = "web" }
            [[grant]]
            groups = [1]
            certificates = ["deploy.example.org"]
            roles = ["admin"]
            acts_as = "root"
            "#,
        )
        .unwrap();
        let daemon = User { uid: 1, gid: 1 };
        let rights = grants.of_user(daemon, &[1]);
        assert_eq!((&rights.roles[..], rights.user), (&[Role::Checkpoint][..], Some(daemon)));
        assert!(rights.have(Role::View) && !rights.have(Role::Restore) && !rights.are_unbound());
        let of_group = grants.of_user(User { uid: 77, gid: 5 }, &[5, 1]);
        assert!(of_group.have(Role::Admin) && of_group.are_unbound());
        let other = User { uid: 77, gid: 5 };
        let rights = grants.of_user(other, &[5]);
        assert_eq!((&rights.roles[..], rights.user), (&[Role::View][..], Some(other)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, message) in [
            ("[[grant]]\nroles = [\"view\"]", "names no users"),
            ("[[grant]]\nusers = [\"no-such-user\"]\nroles = []", "no user no-such-user"),
            ("[[grant]]\ngroups = [\"no-such-group\"]\nroles = []", "no group no-such-group"),
            ("[[grant]]\ncertificates = [\"x\"]\nroles = [\"view\"]", "acts_as"),
            ("[[grant]]\nusers = [0]\nroles = []\nlabels = { a = \"b,c\" }", "comma"),
        ] {
            let (number, found) = grants(text).unwrap_err();
            assert!(number == 1 && found.contains(message), "{text}: {found}");
        }
        assert!(toml::from_str::<Written>("grants = []").is_err());
        assert!(toml::from_str::<Written>("[[grant]]\nusers = [0]\nroles = [\"root\"]").is_err());
    }

    #[tokio::test]
    async fn without_a_file_users_act_as_themselves() {
        let access = Access::open(None).unwrap();
        let user = User { uid: 12345, gid: 12345 };
        let asker = access.user(user, false).await.unwrap().unwrap();
        assert_eq!(asker.user, Some(user));
        assert!(asker.has(Role::Admin) && !asker.is_unbound_admin());
        let root = access.user(User { uid: 0, gid: 0 }, true).await.unwrap().unwrap();
        assert!(root.is_unbound_admin());
        assert_eq!(access.certificate(&["x".to_owned()]), None);
    }
}
