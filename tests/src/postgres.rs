//! PostgreSQL from the distribution, with clients at work: `pgbench` beside the server, in one tree.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::machine::wait_until;
use crate::program::Program;

/// What starts both. The server makes its socket and its segment of shared memory; the clients go on until they are ended.
const SCRIPT: &str = r#"
"$BIN/postgres" -D data -k "$PWD" -c listen_addresses= -c fsync=off > server.log 2>&1 &
until "$BIN/pg_isready" -q -h "$PWD"; do sleep 0.1; done
"$BIN/pgbench" -h "$PWD" -i -q postgres > init.log 2>&1
"$BIN/pgbench" -h "$PWD" -c 3 -T 100000 postgres > clients.log 2>&1 &
wait
"#;

/// A server with a database and clients that change it.
#[derive(Debug)]
pub struct Postgres {
    /// The shell that has started server and clients.
    pub program: Program,
    dir: PathBuf,
    bin: PathBuf,
}

/// The newest that the distribution has.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let bin = versions.map(|version| version.path().join("bin"));
    bin.filter(|bin| bin.join("postgres").exists() && bin.join("pgbench").exists()).max()
}

/// A command of an ordinary user's: the server does not run as root.
fn as_user(program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command.current_dir(dir);
    command
}

impl Postgres {
    /// Starts it and waits until the clients have done something.
    ///
    /// # Panics
    /// When PostgreSQL is not there, or does not start.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        let bin = programs().expect("PostgreSQL is installed (apt-get install postgresql)");
        let work = dir.join("postgres");
        std::fs::create_dir_all(&work).expect("make the database's directory");
        // The user has to come there.
        for place in [dir, dir.parent().expect("a directory above")] {
            let open = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(place, open).expect("open the directory");
        }
        let owned = Command::new("chown").arg("postgres").arg(&work).status().expect("chown");
        assert!(owned.success(), "the user postgres is there");
        let mut init = as_user(bin.join("initdb"), &work);
        let made = init.args(["-D", "data", "-A", "trust", "-N", "--no-instructions"]).output();
        let made = made.expect("start initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut shell = as_user("sh", &work);
        let program = Program::start(shell.args(["-c", SCRIPT]).env("BIN", &bin), &dir.join("log"));
        let postgres = Self { program, dir: work, bin };
        let busy = wait_until(Duration::from_secs(60), || postgres.done().is_ok_and(|it| it > 0));
        let log = std::fs::read_to_string(postgres.dir.join("server.log")).unwrap_or_default();
        assert!(busy, "the clients do nothing: {:?}, {log}", postgres.done());
        postgres
    }

    /// Asks for one number.
    ///
    /// # Errors
    /// What the server or the client says.
    pub fn ask(&self, question: &str) -> Result<i64, String> {
        let mut client = as_user(self.bin.join("psql"), &self.dir);
        let asked = client.arg("-h").arg(&self.dir).args(["-At", "-c", question, "postgres"]);
        let output = asked.output().map_err(|error| error.to_string())?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        said(&output.stdout).parse().map_err(|_| said(&output.stderr))
    }

    /// How many transactions the clients have done.
    ///
    /// # Errors
    /// As [`Postgres::ask`].
    pub fn done(&self) -> Result<i64, String> {
        self.ask("select count(*) from pgbench_history")
    }

    /// Whether all accounts together have what the history says: nothing of a transaction is lost.
    ///
    /// # Errors
    /// If not, or as [`Postgres::ask`].
    pub fn check(&self) -> Result<(), String> {
        let difference = self.ask(
            "select (select coalesce(sum(delta), 0) from pgbench_history) \
             - (select sum(abalance) from pgbench_accounts)",
        )?;
        if difference == 0 { Ok(()) } else { Err(format!("{difference} is missing")) }
    }

    /// What the clients have complained about.
    #[must_use]
    pub fn complaints(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("clients.log")).unwrap_or_default();
        let complaints =
            text.lines().filter(|line| line.contains("error") || line.contains("FATAL"));
        complaints.collect::<Vec<_>>().join("\n")
    }

    /// Ends the server, which removes its shared memory, and by that the clients.
    pub fn stop(&self) {
        let text = std::fs::read_to_string(self.dir.join("data/postmaster.pid"));
        let pid = text.ok().and_then(|text| text.lines().next()?.parse().ok());
        let Some(pid) = pid.map(nix::unistd::Pid::from_raw) else { return };
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).ok();
        let gone = || !self.dir.join("data/postmaster.pid").exists();
        wait_until(Duration::from_secs(20), gone);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}
