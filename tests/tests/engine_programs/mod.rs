//! Programs of the distribution in containers, dumped and restored by the engines that people run: runc, Podman, Docker and LXC with
//! Redis, nginx, PostgreSQL, Node and Java. (Containers of busybox are in `containers.rs` and `engines.rs`.)
//!
//! An image is the files of the installed packages, made on the spot. Each program is asked from inside of the container's network.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stasis_tests::{Outcome, require};

use super::engine_rig::{Docker, Rig, collected, lxc, name, podman, utf8};

const PATIENCE: Duration = Duration::from_secs(60);

/// What runs in a container.
struct Program {
    /// A file of its package, as a shell finds it.
    file: &'static str,
    /// Starts it, in a shell.
    script: &'static str,
    /// What it is asked, and what it answers when it is there.
    ready: (&'static str, &'static str),
    /// What is done before the checkpoint.
    load: &'static str,
    /// What it is asked before and after it, and whether it is the same program by its answers.
    state: (&'static str, fn(&str, &str) -> bool),
}

fn counts_on(before: &str, after: &str) -> bool {
    let number = |text: &str| text.trim().parse::<u64>();
    number(before).is_ok_and(|before| number(after).is_ok_and(|after| after > before))
}

/// A count in the first line that goes on, and the same in the rest, which tells one program from another.
fn same_and_on(before: &str, after: &str) -> bool {
    let both = before.split_once('\n').zip(after.split_once('\n'));
    both.is_some_and(|(before, after)| {
        counts_on(before.0, after.0) && before.1 == after.1 && !before.1.trim().is_empty()
    })
}

const REDIS: Program = Program {
    file: "/usr/bin/redis-server",
    script: "exec redis-server --port 6379 --bind 127.0.0.1 --save '' --dir /tmp",
    ready: ("redis-cli ping", "PONG"),
    load: "seq -f 'SET k%.0f x' 1 20000 | redis-cli --pipe",
    state: ("redis-cli dbsize; redis-cli info server | grep run_id", |before, after| {
        before == after && before.starts_with("20000\n")
    }),
};

const NGINX: Program = Program {
    file: "/usr/sbin/nginx",
    script: "mkdir -p /tmp/www; echo hello > /tmp/www/index.html; echo 'daemon off; pid /tmp/pid; \
             error_log /tmp/e; worker_processes 2; events {} http { client_body_temp_path /tmp/a; \
             proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c; uwsgi_temp_path /tmp/d; \
             scgi_temp_path /tmp/f; access_log /tmp/l; server { listen 127.0.0.1:8080; root /tmp/www; \
             location /count { stub_status; } } }' > /tmp/conf; exec nginx -e /tmp/e -c /tmp/conf",
    ready: ("curl -s http://127.0.0.1:8080/", "hello"),
    load: "for i in 1 2 3; do curl -s http://127.0.0.1:8080/; done",
    // How many it has served.
    state: ("curl -s http://127.0.0.1:8080/count | sed -n '3s/.* \\([0-9]*\\) $/\\1/p'", counts_on),
};

const POSTGRES: Program = Program {
    file: "/usr/lib/postgresql/*/bin/postgres",
    script: "mkdir /tmp/pg; chown 65534:65534 /tmp/pg; P=$(echo /usr/lib/postgresql/*/bin); \
             exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c \"$P/initdb --locale=C -D /tmp/pg/data -A trust \
             -U postgres && exec $P/postgres -D /tmp/pg/data -c unix_socket_directories=/tmp/pg \
             -c listen_addresses=127.0.0.1\"",
    ready: ("psql -h 127.0.0.1 -U postgres -tc 'select 41+1'", "42"),
    load: "psql -h 127.0.0.1 -U postgres -c 'create table t as select generate_series(1,5000) i'",
    state: (
        // (The count, and when it was started.)
        "psql -h 127.0.0.1 -U postgres -tAqc \
         'insert into t values (0); select count(*) from t; select pg_postmaster_start_time()'",
        same_and_on,
    ),
};

const NODE: Program = Program {
    file: "/usr/bin/node",
    script: "exec node -e \"let n=0; require('http').createServer((q,r)=>{n++; r.end(''+n)}).listen(3000,'127.0.0.1')\"",
    ready: ("curl -s http://127.0.0.1:3000/", "1"),
    load: "for i in 1 2 3; do curl -s http://127.0.0.1:3000/; done",
    state: ("curl -s http://127.0.0.1:3000/", |before, after| {
        // Who asks whether it is there counts, too.
        counts_on(before, after) && counts_on("3", before)
    }),
};

const JAVA: Program = Program {
    file: "/usr/lib/jvm/java-*-openjdk-*/bin/java",
    script: "exec /usr/lib/jvm/java-*-openjdk-*/bin/java -Xmx128m -cp /srv Server 4000",
    ready: ("curl -s http://127.0.0.1:4000/ | grep -c '^[0-9]'", "1"),
    load: "true",
    // The count, and the virtual machine's own number.
    state: ("curl -s http://127.0.0.1:4000/; echo; curl -s http://127.0.0.1:4000/own", same_and_on),
};

/// A place for the files of an image.
fn root_of(program: &Program, scratch: &Path) -> std::path::PathBuf {
    let mut find = Command::new("sh");
    let found = Outcome::of(find.args(["-c", &format!("ls {} | tail -n 1", program.file)])).stdout;
    let file = found.trim();
    require!(!file.is_empty(), "there is no {}", program.file);
    let root = scratch.join("image");
    for directory in ["dev", "etc", "proc", "run", "srv", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory)).expect("mkdir");
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n",
    )
    .expect("write");
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").expect("write");
    let of_packages = "set -e; package=$(dpkg -S \"$1\" | cut -d: -f1); \
         all=$(apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts \
         --no-breaks --no-replaces --no-enhances $package dash coreutils util-linux | grep '^[a-z0-9]' | sort -u); \
         for one in $all; do dpkg -L $one 2>/dev/null || true; done | sort -u | \
         grep -vE '^/usr/share/(doc|man|locale|info|lintian)|^/(etc/passwd|etc/group|run|dev|proc|sys|tmp)(/|$)' | \
         while read -r file; do if [ ! -d \"$file\" ] && [ -e \"$file\" ]; then echo \"$file\"; fi; done | \
         tar -C / -c --no-recursion -T - 2>/dev/null | tar -x -C \"$2\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", of_packages, "sh", file]).arg(&root);
    Outcome::of(&mut shell).must_succeed("files of packages");
    if file.ends_with("/java") {
        let source = include_str!("../../programs/Server.java");
        fs::write(scratch.join("Server.java"), source).expect("write");
        let mut compile = Command::new("javac");
        compile.arg("-d").arg(root.join("srv")).arg(scratch.join("Server.java"));
        Outcome::of(&mut compile).must_succeed("javac");
    }
    root
}

/// A container of an engine.
trait Running {
    /// The number of its first process.
    fn pid(&self) -> Option<i64>;
    /// Dumped to its end.
    fn checkpoint(&self);
    fn restore(&self);
}

/// Asks a program, in the network of its container.
fn ask(running: &dyn Running, what: &str) -> Option<String> {
    let pid = running.pid().filter(|pid| *pid > 0)?;
    let net = format!("--net=/proc/{pid}/ns/net");
    let mut command = Command::new("timeout");
    command.args(["10", "nsenter", &net, "sh", "-c", what]);
    let outcome = Outcome::of(&mut command);
    outcome.success.then_some(outcome.stdout)
}

/// What a program answers in time, if `is_right`.
fn answer(running: &dyn Running, what: &str, is_right: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let said = ask(running, what);
        match said {
            Some(said) if is_right(&said) => return said,
            said if Instant::now() > end => {
                panic!("{what}: {said:?} of process {:?}", running.pid())
            }
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Starts the loopback device: not all engines do, whoever restores.
fn loopback_is_up(running: &dyn Running) {
    answer(running, "ip link set lo up; ip link show lo", |said| said.contains("UP"));
}

/// It answers after a restore as the same program does.
fn comes_back(program: &Program, running: &dyn Running) {
    loopback_is_up(running);
    answer(running, program.ready.0, |said| said.trim().starts_with(program.ready.1));
    ask(running, program.load).expect("the load");
    let before = ask(running, program.state.0).expect("an answer");
    running.checkpoint();
    running.restore();
    // Engines have an empty network namespace made (--empty-ns).
    loopback_is_up(running);
    // The first answer is judged: another program would come to the same count later.
    let after = answer(running, program.state.0, |said| !said.trim().is_empty());
    assert!((program.state.1)(&before, &after), "{before:?} before, {after:?} after");
}

struct OfRunc(Rig);

impl OfRunc {
    fn call(&self, arguments: &[&str]) -> Outcome {
        let state = self.0.scratch.path("state");
        // The container has the streams of who starts it: a file of outside would be in none of its mounts.
        let silent = "exec \"$@\" </dev/null >/dev/null 2>&1";
        let said = self.0.scratch.path("said");
        let mut command = Command::new("sh");
        command.args(["-c", silent, "sh", "runc", "--root"]).arg(&state);
        let mut outcome = self.0.run(command.arg("--log").arg(&said).args(arguments));
        for log in ["said", "work/dump.log", "work/restore.log"] {
            let text = fs::read(self.0.scratch.path(log)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let errors = text.lines().filter(|line| line.to_lowercase().contains("error"));
            errors.for_each(|line| outcome.stderr += &format!("{log}: {line}\n"));
        }
        outcome
    }

    fn with_images(&self, what: &[&str]) {
        let place = |name| utf8(&self.0.scratch.path(name));
        let (images, work) = (place("images"), place("work"));
        let places = ["--image-path", &images, "--work-path", &work, &name()];
        self.call(&[what, &places].concat()).must_succeed("runc");
    }
}

impl Running for OfRunc {
    fn pid(&self) -> Option<i64> {
        let state = self.0.scratch.path("state").join(name()).join("state.json");
        let state: Value = serde_json::from_slice(&fs::read(state).ok()?).ok()?;
        state["init_process_pid"].as_i64()
    }

    fn checkpoint(&self) {
        self.with_images(&["checkpoint"]);
    }

    fn restore(&self) {
        let bundle = utf8(&self.0.scratch.path(""));
        self.with_images(&["restore", "--detach", "--bundle", &bundle]);
    }
}

fn by_runc(program: &Program) {
    let rig = Rig::prepare("runc", |rig| {
        let mut runc = Command::new("runc");
        rig.run(runc.arg("--root").arg(rig.scratch.path("state")).args(["delete", "-f", &name()]));
    });
    let root = root_of(program, &rig.scratch.path(""));
    let bundle = utf8(&rig.scratch.path(""));
    let mut spec = Command::new("runc");
    Outcome::of(spec.args(["spec", "--bundle", &bundle])).must_succeed("runc spec");
    let file = rig.scratch.path("config.json");
    let mut config: Value =
        serde_json::from_slice(&fs::read(&file).expect("read")).expect("a configuration");
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/sh", "-c", program.script]);
    // Raising a limit takes a right that not every machine gives.
    config["process"]["rlimits"] = json!([]);
    config["root"] = json!({ "path": root, "readonly": false });
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] =
            json!(["CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_KILL", "CAP_DAC_OVERRIDE"]);
    }
    fs::write(&file, config.to_string()).expect("write");
    let running = OfRunc(rig);
    running.call(&["run", "--detach", "--bundle", &bundle, &name()]).must_succeed("runc run");
    comes_back(program, &running);
}

/// An archive of the files.
fn archive(root: &Path, rig: &Rig) -> String {
    let archive = rig.scratch.path("image.tar");
    let mut tar = Command::new("tar");
    Outcome::of(tar.arg("-C").arg(root).arg("-cf").arg(&archive).arg(".")).must_succeed("tar");
    utf8(&archive)
}

/// A number in what an engine prints.
fn number(outcome: &Outcome) -> Option<i64> {
    outcome.stdout.trim().parse().ok()
}

struct OfPodman(Rig);

impl Running for OfPodman {
    fn pid(&self) -> Option<i64> {
        number(&podman(&self.0, &["inspect", "--format", "{{.State.Pid}}", "at-work"]))
    }

    fn checkpoint(&self) {
        podman(&self.0, &["container", "checkpoint", "at-work"]).must_succeed("podman checkpoint");
    }

    fn restore(&self) {
        podman(&self.0, &["container", "restore", "at-work"]).must_succeed("podman restore");
    }
}

fn by_podman(program: &Program) {
    let rig = Rig::prepare("podman", |rig| drop(podman(rig, &["rm", "-af", "-t", "0"])));
    let root = root_of(program, &rig.scratch.path(""));
    let archive = archive(&root, &rig);
    podman(&rig, &["import", &archive, "at-work:1"]).must_succeed("podman import");
    let run = ["run", "-d", "--name", "at-work", "--network", "none", "at-work:1", "/bin/sh", "-c"];
    podman(&rig, &[&run[..], &[program.script]].concat()).must_succeed("podman run");
    comes_back(program, &OfPodman(rig));
}

struct OfDocker {
    docker: Docker,
    rig: Rig,
    name: String,
}

impl Running for OfDocker {
    fn pid(&self) -> Option<i64> {
        let inspect = ["inspect", "--format", "{{.State.Pid}}", &self.name];
        number(&self.docker.call(&self.rig, &inspect))
    }

    fn checkpoint(&self) {
        let create = ["checkpoint", "create", &self.name, "one"];
        self.docker.call(&self.rig, &create).must_succeed("docker checkpoint create");
    }

    fn restore(&self) {
        let start = ["start", "--checkpoint", "one", &self.name];
        let started = collected(|| self.docker.call(&self.rig, &start));
        started.must_succeed("docker start --checkpoint");
    }
}

impl Drop for OfDocker {
    fn drop(&mut self) {
        self.docker.call(&self.rig, &["rm", "-f", &self.name]);
    }
}

fn by_docker(program: &Program) {
    let rig = Rig::prepare("dockerd", |_| ());
    let root = root_of(program, &rig.scratch.path(""));
    let archive = archive(&root, &rig);
    let docker = Docker::start(&rig);
    docker.call(&rig, &["import", &archive, "at-work:1"]).must_succeed("docker import");
    let of_docker = OfDocker { docker, rig, name: name() };
    let run = ["run", "-d", "--name", &of_docker.name, "--network", "none", "at-work:1"];
    let run = [&run[..], &["/bin/sh", "-c", program.script]].concat();
    of_docker.docker.call(&of_docker.rig, &run).must_succeed("docker run");
    comes_back(program, &of_docker);
}

struct OfLxc(Rig);

impl OfLxc {
    fn images(&self) -> String {
        utf8(&self.0.scratch.path("images"))
    }
}

impl Running for OfLxc {
    fn pid(&self) -> Option<i64> {
        // Its output goes where the rig cannot read it: the kernel knows whose child it is.
        let list = fs::read_dir("/proc").ok()?.flatten();
        let numbers = list.filter_map(|entry| entry.file_name().to_str()?.parse::<i64>().ok());
        let place = self.0.scratch.path("image");
        let mut inside = numbers.filter(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let is_first = status.lines().any(|line| {
                line.strip_prefix("NSpid:")
                    .is_some_and(|all| all.split_whitespace().nth(1) == Some("1"))
            });
            let root = fs::metadata(format!("/proc/{pid}/root/srv"));
            is_first && same_file(root, fs::metadata(place.join("srv")))
        });
        inside.next()
    }

    fn checkpoint(&self) {
        lxc(&self.0, "lxc-checkpoint", &["-s", "-D", &self.images()])
            .must_succeed("lxc-checkpoint");
    }

    fn restore(&self) {
        lxc(&self.0, "lxc-checkpoint", &["-r", "-D", &self.images()])
            .must_succeed("lxc-checkpoint");
    }
}

fn same_file(one: std::io::Result<fs::Metadata>, other: std::io::Result<fs::Metadata>) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |file: std::io::Result<fs::Metadata>| file.ok().map(|file| (file.dev(), file.ino()));
    let (one, other) = (id(one), id(other));
    one.is_some() && one == other
}

fn by_lxc(program: &Program) {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::prepare("lxc-start", |rig| drop(lxc(rig, "lxc-stop", &["-k"])));
    let root = root_of(program, &rig.scratch.path(""));
    let init = root.join("start");
    fs::write(&init, format!("#!/bin/sh\n{}\n", program.script)).expect("write");
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("chmod");
    let config = format!(
        "lxc.rootfs.path = dir:{}\nlxc.init.cmd = /start\nlxc.net.0.type = empty\nlxc.tty.max = 0\n\
         lxc.pty.max = 1\nlxc.console.path = none\nlxc.mount.auto = proc:rw sys:ro\n\
         lxc.mount.entry = tmpfs dev/shm tmpfs create=dir 0 0\n\
         lxc.environment = PATH=/usr/sbin:/usr/bin:/sbin:/bin\n",
        root.display(),
    );
    let place = rig.scratch.path(&name());
    fs::create_dir(&place).expect("mkdir");
    fs::write(place.join("config"), config).expect("write");
    lxc(&rig, "lxc-start", &["-d"]).must_succeed("lxc-start");
    comes_back(program, &OfLxc(rig));
}

/// A test for each program under an engine.
macro_rules! under {
    ($engine:ident: $($(#[$attribute:meta])? $program:ident)*) => {
        mod $engine {
            $(
                #[test]
                $(#[$attribute])?
                #[allow(non_snake_case, reason = "the name is that of the program above")]
                fn $program() {
                    super::$engine(&super::$program);
                }
            )*
        }
    };
}

under! { by_runc: REDIS NGINX POSTGRES
#[ignore = "needs packages of its own: make test-all"] NODE
#[ignore = "needs packages of its own: make test-all"] JAVA }
under! { by_podman:
#[ignore = "needs packages of its own: make test-all"] REDIS
#[ignore = "needs packages of its own: make test-all"] NGINX
#[ignore = "needs packages of its own: make test-all"] POSTGRES
#[ignore = "needs packages of its own: make test-all"] NODE
#[ignore = "needs packages of its own: make test-all"] JAVA }
under! { by_docker:
#[ignore = "needs packages of its own: make test-all"] REDIS
#[ignore = "needs packages of its own: make test-all"] NGINX
#[ignore = "needs packages of its own: make test-all"] POSTGRES
#[ignore = "needs packages of its own: make test-all"] NODE
#[ignore = "needs packages of its own: make test-all"] JAVA }
under! { by_lxc:
#[ignore = "needs packages of its own: make test-all"] REDIS
#[ignore = "needs packages of its own: make test-all"] NGINX
#[ignore = "needs packages of its own: make test-all"] POSTGRES
#[ignore = "needs packages of its own: make test-all"] NODE
#[ignore = "needs packages of its own: make test-all"] JAVA }
