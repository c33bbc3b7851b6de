//! Containers of runc, checkpointed by stasis and by CRIU under the same runc, and the same trees outside of one.
//!
//! How long they were frozen is what the dump says itself: a target's own pulse would be another process of the tree. CRIU
//! says it in `stats-dump`, which it writes last; stasis in its log, as its own is an image and written before an engine's
//! tree runs on.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stasis_tests::{
    Engine, Machine, Outcome, Program, Scratch, built_program, find_criu, stasis_program,
    wait_until,
};

use crate::measure::millis;

/// A container, by the name of its row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What its shell does in `$DIR`; it makes `$DIR/ready` when all is there.
    script: &'static str,
}

/// All of them.
pub(crate) const SHAPES: [Shape; 3] = [
    Shape {
        name: "container",
        title: "a container of one shell",
        script: "mkfifo $DIR/never; exec 3<>$DIR/never; touch $DIR/ready; read x <&3",
    },
    Shape {
        name: "container-redis",
        title: "a container of Redis, 1 GiB, under load",
        script: "redis-server --port 0 --unixsocket $DIR/socket --save '' --enable-debug-command yes --dir $DIR & \
             ask() { redis-cli -s $DIR/socket \"$@\"; }; until ask ping; do sleep 0.1; done; \
             ask debug populate 1000000 key 1000; \
             redis-benchmark -s $DIR/socket -c 4 -t set -r 100000 -d 100 -n 1000000000 -q & \
             sleep 1; touch $DIR/ready; wait",
    },
    Shape {
        name: "container-processes",
        title: "a container of 100 processes, 500 threads",
        script: "exec python3 -c '\nimport os, threading, time\n\
             def wait(): time.sleep(100000)\n\
             for n in range(99):\n    if os.fork() == 0: break\n\
             [threading.Thread(target=wait).start() for n in range(4)]\n\
             open(os.environ[\"DIR\"] + \"/up.%d\" % os.getpid(), \"w\").close()\n\
             here = lambda: [f for f in os.listdir(os.environ[\"DIR\"]) if f.startswith(\"up.\")]\n\
             while len(here()) < 100: time.sleep(0.05)\n\
             open(os.environ[\"DIR\"] + \"/ready\", \"w\").close()\nwait()\n'",
    },
];

/// Times of one container, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) frozen: f64,
    pub(crate) dump: f64,
    pub(crate) restore: f64,
}

/// Why no container can be started here, if so.
pub(crate) fn lacking() -> Option<&'static str> {
    let there = Command::new("runc").arg("--version").stdout(Stdio::null()).status();
    (!there.is_ok_and(|status| status.success())).then_some("there is no runc")
}

/// Where it is measured.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) scratch: &'a Scratch,
    /// Where dumps find eBPF programs.
    pub(crate) programs: &'a Path,
}

/// One container, in a directory of its own.
struct Container<'a> {
    place: Place<'a>,
    id: String,
}

impl<'a> Container<'a> {
    fn start(place: Place<'a>, shape: Shape, by: Engine) -> Result<Self, String> {
        let container = Self { place, id: format!("stasis-bench-{}", std::process::id()) };
        let failed = |error: std::io::Error| format!("make a bundle: {error}");
        container.bundle(shape, by).map_err(failed)?;
        container.runc(&["run", "--detach"], &[])?;
        let ready = container.path("bundle/rootfs/tmp/ready");
        if wait_until(Duration::from_secs(120), || ready.exists()) {
            return Ok(container);
        }
        Err(format!("{} does not come up", shape.title))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.scratch.path("container").join(name)
    }

    fn bundle(&self, shape: Shape, by: Engine) -> std::io::Result<()> {
        let root = self.path("bundle/rootfs");
        for name in ["dev", "proc", "sys", "tmp", "usr"] {
            fs::create_dir_all(root.join(name))?;
        }
        fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777))?;
        for name in ["bin", "lib", "lib64", "sbin"] {
            symlink(format!("usr/{name}"), root.join(name))?;
        }
        fs::create_dir_all(self.path("path"))?;
        let criu = match by {
            Engine::Criu => find_criu().ok_or_else(|| std::io::Error::other("there is no CRIU"))?,
            _ => built_program("criu"),
        };
        symlink(criu, self.path("path/criu"))?;
        let made = Command::new("runc").arg("spec").current_dir(self.path("bundle")).status()?;
        let path = self.path("bundle/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/sh", "-c", shape.script]);
        config["process"]["env"] = json!(["PATH=/usr/sbin:/usr/bin", "DIR=/tmp"]);
        // Raising a limit takes a right that not every machine gives.
        config["process"]["rlimits"] = json!([]);
        config["root"]["readonly"] = json!(false);
        if let Some(mounts) = config["mounts"].as_array_mut() {
            let options = ["rbind", "ro"];
            mounts.push(json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": options}));
        }
        fs::write(&path, config.to_string())?;
        made.success().then_some(()).ok_or_else(|| std::io::Error::other("runc spec fails"))
    }

    /// A command of runc's; how long it took.
    fn runc(&self, verb: &[&str], options: &[&str]) -> Result<f64, String> {
        let own = self.path("path");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path)));
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.path("state")).arg("--log").arg(self.path("said"));
        command.args(verb).args(options).arg(&self.id).current_dir(self.path("bundle"));
        command.env("PATH", path.map_err(|error| error.to_string())?);
        command.env("STASIS_BPF_DIR", self.place.programs);
        // They are the container's.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        let status = command.status().map_err(|error| format!("run runc: {error}"))?;
        let time = millis(start.elapsed());
        if status.success() {
            return Ok(time);
        }
        let said = fs::read_to_string(self.path("said")).unwrap_or_default();
        Err(format!("runc {verb:?}: {said}"))
    }

    /// Options for images, with the log and the times beside them.
    fn at(images: &Path) -> [&str; 4] {
        let images = images.to_str().unwrap_or_default();
        ["--image-path", images, "--work-path", images]
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        self.runc(&["delete", "--force"], &[]).map(drop).unwrap_or_default();
        // What stays is met when it is made again.
        fs::remove_dir_all(self.place.scratch.path("container")).unwrap_or_default();
    }
}

/// How long a dump says that its tree was frozen.
fn frozen(images: &Path) -> Result<f64, String> {
    let log = fs::read_to_string(images.join("dump.log")).unwrap_or_default();
    let said = log.lines().find_map(|line| line.split_once("frozen for ")?.1.split_once(" us"));
    if let Some(micros) = said.and_then(|(micros, _)| micros.parse::<f64>().ok()) {
        return Ok(micros / 1000.0);
    }
    let mut show = Command::new(stasis_program());
    let said = Outcome::of(show.arg("show").arg(images).arg("--json"));
    let told: Value = serde_json::from_str(&said.stdout)
        .map_err(|error| format!("stasis show: {error}: {}", said.stderr))?;
    let micros = find(&told, "frozen_us").ok_or("the dump does not say for how long it froze")?;
    Ok(micros / 1000.0)
}

/// The first number of this name, wherever it is.
fn find(value: &Value, name: &str) -> Option<f64> {
    match value {
        Value::Object(fields) => fields
            .get(name)
            .and_then(Value::as_f64)
            .or_else(|| fields.values().find_map(|inner| find(inner, name))),
        Value::Array(all) => all.iter().find_map(|inner| find(inner, name)),
        _ => None,
    }
}

/// Takes a container through a checkpoint that lets it run on, one that does not, and a restore.
pub(crate) fn once(place: Place<'_>, shape: Shape, by: Engine) -> Result<Times, String> {
    let container = Container::start(place, shape, by)?;
    let (on, end) = (container.path("on"), container.path("end"));
    let dump = container.runc(&["checkpoint", "--leave-running"], &Container::at(&on))?;
    let frozen = frozen(&on)?;
    container.runc(&["checkpoint"], &Container::at(&end))?;
    place.machine.reap();
    let restore = container.runc(&["restore", "--detach"], &Container::at(&end))?;
    Ok(Times { frozen, dump, restore })
}

/// How long the same tree is frozen outside of a container.
pub(crate) fn outside(place: Place<'_>, shape: Shape, by: Engine) -> Result<f64, String> {
    let here = place.scratch.path("outside");
    fs::create_dir_all(&here).map_err(|error| format!("make {here:?}: {error}"))?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", shape.script]).env("DIR", &here).current_dir("/");
    let program = Program::start(&mut command, &here.join("log"));
    let ready = here.join("ready");
    let up = wait_until(Duration::from_secs(120), || ready.exists());
    let images = here.join("images");
    let how = stasis_tests::Dump { leave_running: true, connections: true, ..Default::default() };
    let mut dump = by.dump_command(program.pid(), &images, how);
    let outcome = up.then(|| Outcome::of(dump.env("STASIS_BPF_DIR", place.programs)));
    let frozen = match outcome {
        Some(outcome) if outcome.success => frozen(&images),
        Some(outcome) => Err(format!("{} outside: {}", shape.title, outcome.stderr)),
        None => Err(format!("{} does not come up outside", shape.title)),
    };
    place.machine.end_tree(program.pid());
    fs::remove_dir_all(&here).unwrap_or_default();
    frozen
}
