//! The five services, started from this build, and the gateway's REST API.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::built::built_program;
use crate::machine::wait_until;
use crate::real::free_port;

/// A connection to the gateway that nobody has used for so long is closed.
const IDLE: Duration = Duration::from_secs(2);

/// The services and their sockets; stopped when dropped.
#[derive(Debug)]
pub struct Services {
    children: Vec<(&'static str, Child)>,
    dir: PathBuf,
    port: u16,
    asker: Asker,
    /// What services that are started from now on find in their environment.
    settings: Vec<(&'static str, String)>,
}

/// A collector of a test's own, whose eBPF programs dumps can use; stopped when dropped.
#[derive(Debug)]
pub struct Collector {
    child: Child,
    programs: PathBuf,
    dir: PathBuf,
}

impl Collector {
    /// Starts it, its socket and log under `dir`, and waits until its programs are there.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("make the collector's directory");
        let log = dir.join("collector.log");
        let output = std::fs::File::create(&log).expect("make a log");
        let programs = PathBuf::from(format!("/sys/fs/bpf/stasis-test-{}", std::process::id()));
        let child = Command::new(built_program("stasis-collector"))
            .env("STASIS_RUN_DIR", dir)
            .arg("--bpf-dir")
            .arg(&programs)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("dup"))
            .stderr(output)
            .spawn()
            .expect("start the collector");
        let collector = Self { child, programs, dir: dir.to_owned() };
        let socket = dir.join("collector.sock");
        // A socket has its name before anybody listens.
        let listens = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
        let up = wait_until(Duration::from_secs(30), || listens() && collector.programs.exists());
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(up, "the collector does not come up with its programs:\n{}", said());
        collector
    }

    /// Has a tree tracked, its system calls too.
    ///
    /// # Panics
    /// When that is refused.
    pub fn track(&self, pid: i32) {
        let mut command = Command::new(built_program("stasis"));
        command.args(["track", "--tree", "--files", &pid.to_string(), "--run-dir"]).arg(&self.dir);
        let output = command.output().expect("start stasis");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Folder of the BPF file system with its programs.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        stop(&mut self.child);
        std::fs::remove_dir_all(&self.programs).ok();
    }
}

/// Who asks the gateway; for threads of its own, too. A clone is the same.
#[derive(Clone, Debug)]
pub struct Asker {
    client: reqwest::blocking::Client,
    address: String,
    token_file: PathBuf,
}

impl Asker {
    fn of(port: u16, token_file: PathBuf) -> Self {
        let client = reqwest::blocking::Client::builder();
        // Whoever looks what the gateway keeps open is to see nothing of ours.
        let client = client.timeout(Duration::from_secs(90)).pool_idle_timeout(IDLE);
        let client = client.build().expect("an HTTP client");
        Self { client, address: format!("http://127.0.0.1:{port}"), token_file }
    }

    /// Asks once. A request with a name (`Idempotency-Key`) may be sent again.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        key: Option<&str>,
    ) -> Result<Answer, String> {
        let method = method.parse().map_err(|_| "no such method".to_owned())?;
        let mut request = self.client.request(method, format!("{}{path}", self.address));
        // There is none before the gateway has made it.
        if let Ok(token) = std::fs::read_to_string(&self.token_file) {
            request = request.bearer_auth(token.trim());
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body.to_owned());
        }
        let answer = request.send().map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let text = answer.text().map_err(|error| error.to_string())?;
        Ok(Answer { status, body: serde_json::from_str(&text).unwrap_or_default(), text })
    }
}

/// An answer of the gateway.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body, `null` when it is not JSON.
    pub body: Value,
    /// The body as it came.
    pub text: String,
}

impl Services {
    /// Starts all five, their sockets, logs and checkpoints under `dir`, and waits until the
    /// gateway says that all are well.
    ///
    /// # Panics
    /// When they do not come up.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// The same, with variables of the environment.
    ///
    /// # Panics
    /// When they do not come up.
    #[must_use]
    pub fn start_with(dir: &Path, settings: &[(&'static str, &str)]) -> Self {
        std::fs::create_dir_all(dir.join("checkpoints")).expect("make the services' directory");
        let port = free_port();
        let asker = Asker::of(port, token_file_in(dir));
        let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let mut services =
            Self { children: Vec::new(), dir: dir.to_owned(), port, asker, settings };
        for name in ["collector", "freezer", "dumper", "restorer", "gateway"] {
            services.spawn(name);
        }
        let up = wait_until(Duration::from_secs(30), || {
            services.try_call("GET", "/healthz", None).is_ok_and(|answer| answer.status == 200)
        });
        assert!(up, "the services do not come up:\n{}", services.logs());
        services
    }

    fn spawn(&mut self, name: &'static str) {
        let log = std::fs::File::create(self.dir.join(format!("{name}.log"))).expect("make a log");
        let mut command = Command::new(built_program(&format!("stasis-{name}")));
        command
            .env("STASIS_RUN_DIR", &self.dir)
            .env("STASIS_CHECKPOINTS", self.checkpoints())
            .env("STASIS_BPF_DIR", self.programs())
            .env("STASIS_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("STASIS_TOKEN_FILE", self.token_file())
            .env("STASIS_METRICS_TOKEN_FILE", self.metrics_token_file())
            .env("STASIS_STATE_DIR", self.dir.join("gateway"))
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {name}: {error}"));
        self.children.push((name, child));
    }

    /// Folder of the BPF file system with the collector's programs: its own, so that no other
    /// collector takes them away.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        PathBuf::from(format!("/sys/fs/bpf/stasis-services-{}", std::process::id()))
    }

    /// Where the checkpoints are.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    /// The file of the gateway's token.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        token_file_in(&self.dir)
    }

    /// The file of the token for the metrics.
    #[must_use]
    pub fn metrics_token_file(&self) -> PathBuf {
        self.dir.join("metrics.token")
    }

    /// The gateway's address.
    #[must_use]
    pub fn address(&self) -> String {
        self.asker.address.clone()
    }

    /// What the services logged.
    #[must_use]
    pub fn logs(&self) -> String {
        let log = |(name, _): &(&str, Child)| {
            let text = std::fs::read_to_string(self.dir.join(format!("{name}.log")));
            format!("--- {name}\n{}", text.unwrap_or_default())
        };
        self.children.iter().map(log).collect()
    }

    /// Asks the gateway.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn call(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        self.try_call(method, path, body).unwrap_or_else(|error| {
            panic!("{method} {path}: {error}\n{}", self.logs());
        })
    }

    fn try_call(&self, method: &str, path: &str, body: Option<&str>) -> Result<Answer, String> {
        self.asker.ask(method, path, body, None)
    }

    /// Who asks the gateway.
    #[must_use]
    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }

    /// Asks for a job; its id.
    ///
    /// # Errors
    /// The error of the request for it.
    pub fn begin(&self, path: &str, body: &Value) -> Result<String, Value> {
        let answer = self.call("POST", path, Some(&body.to_string()));
        match answer.status {
            202 => Ok(answer.body["id"].as_str().expect("a job has an id").to_owned()),
            _ => Err(answer.body),
        }
    }

    /// Waits for the end of a job; the job when it is done.
    ///
    /// # Errors
    /// The error of the job.
    pub fn ended(&self, id: &str) -> Result<Value, Value> {
        let job = self.call("GET", &format!("/v1/jobs/{id}?wait=60s"), None).body;
        if job["state"] == "done" { Ok(job) } else { Err(job["error"].clone()) }
    }

    /// Asks for a job and waits for its end; the job when it is done.
    ///
    /// # Errors
    /// The error of the job, or of the request for it.
    pub fn job(&self, path: &str, body: &Value) -> Result<Value, Value> {
        self.ended(&self.begin(path, body)?)
    }

    /// Takes a checkpoint.
    ///
    /// # Errors
    /// The error of the job, or of the request for it.
    pub fn checkpoint(&self, pid: i32, directory: &str, stay: bool) -> Result<Value, Value> {
        let body = json!({"pid": pid, "directory": directory, "leave_running": stay});
        self.job("/v1/checkpoints", &body)
    }

    /// Restores a checkpoint.
    ///
    /// # Errors
    /// The error of the job, or of the request for it.
    pub fn restore(&self, directory: &str) -> Result<Value, Value> {
        self.job("/v1/restores", &json!({"directory": directory}))
    }

    /// Sets a variable of the environment for services that are started from now on.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.settings.push((name, value.to_owned()));
    }

    /// Where a service listens.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.sock"))
    }

    /// Kills a service by SIGKILL. It is a zombie until [`Services::start_again`].
    ///
    /// # Panics
    /// When there is no such service.
    pub fn kill(&self, name: &str) {
        kill(Pid::from_raw(self.pid(name)), Signal::SIGKILL).expect("kill a service");
    }

    /// Starts a service that was killed, and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_again(&mut self, name: &'static str) {
        let index = self.children.iter().position(|(known, _)| *known == name);
        let (_, mut dead) = self.children.remove(index.expect("a service"));
        dead.wait().expect("wait for what was killed");
        self.spawn(name);
        let socket = self.socket(name);
        // The gateway's socket is there before anybody answers.
        let up = wait_until(Duration::from_secs(30), || match name {
            "gateway" => self.try_call("GET", "/v1/jobs?limit=1", None).is_ok(),
            _ => std::os::unix::net::UnixStream::connect(&socket).is_ok(),
        });
        assert!(up, "{name} does not come up again:\n{}", self.logs());
    }

    /// The pid of a service.
    ///
    /// # Panics
    /// When there is no such service.
    #[must_use]
    pub fn pid(&self, name: &str) -> i32 {
        let service = self.children.iter().find(|(known, _)| *known == name).expect("a service");
        i32::try_from(service.1.id()).expect("a pid")
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        for (_, child) in self.children.iter_mut().rev() {
            stop(child);
        }
        // A collector that was killed left its programs, and the one after it used them.
        std::fs::remove_dir_all(self.programs()).ok();
    }
}

fn token_file_in(dir: &Path) -> PathBuf {
    dir.join("gateway.token")
}

fn stop(child: &mut Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    // It may have ended by itself; then there is nothing to stop.
    kill(pid, Signal::SIGTERM).ok();
    let ended = wait_until(Duration::from_secs(5), || !matches!(child.try_wait(), Ok(None)));
    if !ended {
        child.kill().and_then(|()| child.wait()).ok();
    }
}
