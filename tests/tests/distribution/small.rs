//! Programs in small packages.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stasis_tests::at_work::{AtWork, PATIENCE, output_of};
use stasis_tests::clients::{get, say};
use stasis_tests::{Engine, Scratch, free_port, wait_until};

use crate::carried;

/// A program's own directory.
fn dir(scratch: &Scratch) -> std::path::PathBuf {
    scratch.path("work")
}

fn script(scratch: &Scratch, interpreter: &str, text: &str) -> AtWork {
    let work = dir(scratch);
    fs::write(work.join("script"), text).expect("write the script");
    AtWork::start(&work, Command::new(interpreter).arg("script"))
}

fn redis(scratch: &Scratch) -> AtWork {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--port"]);
    AtWork::start(&dir(scratch), command.arg(port.to_string()))
        .serves(port, |stream| say(stream, b"INCR x\r\n", b"\r\n").map(drop))
}

#[test]
fn redis_with_clients() {
    carried(Engine::Stasis, redis);
}

#[test]
fn redis_with_clients_through_the_criu_face() {
    carried(Engine::CriuFace, redis);
}

#[test]
fn memcached_with_clients() {
    carried(Engine::Stasis, |scratch| {
        let port = free_port();
        let mut command = Command::new("memcached");
        command.args(["-u", "root", "-l", "127.0.0.1", "-p", &port.to_string()]);
        AtWork::start(&dir(scratch), &mut command)
            .serves(port, |stream| say(stream, b"set a 0 0 3\r\nabc\r\n", b"STORED\r\n").map(drop))
    });
}

/// Master and workers.
fn nginx(scratch: &Scratch) -> AtWork {
    let (work, port) = (dir(scratch), free_port());
    fs::write(work.join("index.html"), "a page").expect("write a page");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .concat();
    let configuration = format!(
        "daemon off; user root; worker_processes 2; pid pid; error_log errors; events {{}}\n\
         http {{ access_log access; keepalive_requests 1000000; {temporary}\
         server {{ listen 127.0.0.1:{port}; root .; }} }}"
    );
    fs::write(work.join("nginx.conf"), configuration).expect("write the configuration");
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&work).args(["-c", "nginx.conf"]);
    AtWork::start(&work, &mut command).serves(port, get)
}

#[test]
fn nginx_with_workers() {
    carried(Engine::Stasis, nginx);
}

#[test]
fn nginx_with_workers_through_the_criu_face() {
    carried(Engine::CriuFace, nginx);
}

#[test]
fn python_with_pools_of_processes_and_threads() {
    carried(Engine::Stasis, |scratch| {
        let python =
            if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
        let work = script(scratch, python, include_str!("../../programs/pool.py"));
        work.writes(&dir(scratch).join("log"))
    });
}

/// Whatever is being compiled at the moment, with the compilers' temporary files.
#[test]
fn a_parallel_make_with_compilers() {
    const FILES: usize = 400;
    carried(Engine::Stasis, |scratch| {
        let work = dir(scratch);
        let functions: String = (0..40)
            .map(|n| {
                format!(
                    "int f{n}(int x) {{ for (int i = 0; i < x; i++) x ^= i * {n}; return x; }}\n"
                )
            })
            .collect();
        for n in 0..FILES {
            fs::write(work.join(format!("{n}.c")), &functions).expect("write a source");
        }
        let rules =
            "objects: $(patsubst %.c,%.o,$(wildcard *.c))\n%.o: %.c\n\tcc -O2 -c $< -o $@\n";
        fs::write(work.join("Makefile"), rules).expect("write the Makefile");
        let objects = move |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter(|entry| entry.path().extension().is_some_and(|it| it == "o")).count()
        };
        let log = work.join("log");
        AtWork::start(&work, Command::new("make").arg("-j3")).asked(move || {
            let made = objects(&work);
            let on = wait_until(PATIENCE, || objects(&work) > made + 2);
            let said = fs::read_to_string(&log).unwrap_or_default();
            match on && !said.to_lowercase().contains("error") {
                true => Ok(()),
                false => Err(format!("{made} of {FILES} are made")),
            }
        })
    });
}

#[test]
fn a_shell_with_jobs_pipelines_and_a_coprocess() {
    carried(Engine::Stasis, |scratch| {
        let text = "set -m\n\
            (while :; do echo x; sleep 0.01; done) | tee copy | (while read -r l; do echo $l >> out; done) &\n\
            sleep 1000 &\n\
            trap 'echo child >> ended' CHLD\n\
            coproc cat\n\
            n=0\n\
            while :; do n=$((n+1)); echo $n >&${COPROC[1]}; read -r -u ${COPROC[0]} back\n\
            [ $back = $n ] || exit 1; sleep 0.01 & wait $!; echo $n >> counted; done\n";
        let work = dir(scratch);
        script(scratch, "bash", text).writes(&work.join("out")).writes(&work.join("counted"))
    });
}

/// Interval timers, signals and children.
#[test]
fn perl_with_a_timer_and_children() {
    carried(Engine::Stasis, |scratch| {
        let text = "use Time::HiRes qw(setitimer ITIMER_REAL); $SIG{CHLD} = sub { wait };\n\
            $SIG{ALRM} = sub { open F, '>>ticks'; print F \"x\\n\"; close F };\n\
            setitimer(ITIMER_REAL, 0.01, 0.01);\n\
            while (1) { my $c = fork; if (defined $c && !$c) { exit } select undef, undef, undef, 0.02;\n\
            open F, '>>turns'; print F \"x\\n\"; close F }\n";
        let work = dir(scratch);
        script(scratch, "perl", text).writes(&work.join("ticks")).writes(&work.join("turns"))
    });
}

#[test]
fn screen_with_vim() {
    carried(Engine::Stasis, |scratch| {
        let (work, sockets) = (dir(scratch), scratch.path("sockets"));
        fs::DirBuilder::new().create(&sockets).expect("make a directory");
        fs::set_permissions(&sockets, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .expect("chmod");
        let screen = move |words: &[&str]| {
            let mut command = Command::new("screen");
            command.env("SCREENDIR", &sockets).env("TERM", "vt100").env("SCREENRC", "/dev/null");
            output_of(command.args(words).current_dir(&work))
        };
        screen(&["-dmS", "s", "vim", "-u", "NONE", "-n", "text"]).expect("screen");
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        let pid = || {
            let mut entries =
                fs::read_dir(scratch.path("sockets")).ok()?.flatten().filter_map(name);
            entries.next()?.split('.').next()?.parse().ok()
        };
        assert!(wait_until(PATIENCE, || pid().is_some()), "no screen");
        let (text, mut lines) = (dir(scratch).join("text"), 0);
        AtWork::of(pid().expect("screen's number"), scratch.path("none")).asked(move || {
            lines += 1;
            let line = format!("line {lines}");
            screen(&["-S", "s", "-p", "0", "-X", "stuff", &format!("o{line}\u{1b}:w\r")])?;
            let written = || fs::read_to_string(&text).unwrap_or_default();
            match wait_until(Duration::from_secs(10), || written().contains(&line)) {
                true => Ok(()),
                false => Err(format!("{line:?} is not in {:?}", written())),
            }
        })
    });
}

#[test]
fn dnsmasq_with_questions() {
    carried(Engine::Stasis, |scratch| {
        let (work, port) = (dir(scratch), free_port());
        let mut command = Command::new("dnsmasq");
        command.args([
            "-k",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--no-resolv",
            "--no-hosts",
        ]);
        command.args(["--address=/x.test/1.2.3.4", "--conf-file=/dev/null", "--user=root"]);
        command
            .arg(format!("--port={port}"))
            .arg(format!("--pid-file={}", work.join("pid").display()));
        AtWork::start(&work, &mut command).asked(move || {
            let failed = |error: std::io::Error| error.to_string();
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
            socket.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed)?;
            let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01x\x04test\0\0\x01\0\x01";
            socket.send_to(question, (Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer).map_err(failed)?;
            match answer[..length].ends_with(&[1, 2, 3, 4]) {
                true => Ok(()),
                false => Err(format!("it answers {:?}", &answer[..length])),
            }
        })
    });
}

#[test]
fn rsyslogd_with_messages() {
    carried(Engine::Stasis, |scratch| {
        let (work, port) = (dir(scratch), free_port());
        let at = |name: &str| work.join(name).display().to_string();
        let configuration = format!(
            "module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             input(type=\"imuxsock\" Socket=\"{}\" CreatePath=\"on\")\n\
             module(load=\"imtcp\")\n\
             input(type=\"imtcp\" port=\"{port}\" address=\"127.0.0.1\")\n\
             *.* action(type=\"omfile\" file=\"{}\" queue.type=\"linkedlist\")\n",
            at("socket"),
            at("out"),
        );
        fs::write(work.join("configuration"), configuration).expect("write the configuration");
        let mut command = Command::new("rsyslogd");
        command.args(["-n", "-f", &at("configuration"), "-i", &at("pid")]);
        let (socket, out, mut sent) = (at("socket"), at("out"), 0);
        AtWork::start(&work, &mut command).asked(move || {
            sent += 1;
            let message = format!("message {sent} of many");
            let to = UnixDatagram::unbound().map_err(|error| error.to_string())?;
            let told = to.send_to(format!("<13>{message}").as_bytes(), &socket);
            told.map_err(|error| error.to_string())?;
            let heard = || fs::read_to_string(&out).is_ok_and(|text| text.contains(&message));
            match wait_until(PATIENCE, heard) {
                true => Ok(()),
                false => Err(format!("{message:?} is not written")),
            }
        })
    });
}

/// A process for each connection, with another program at pipes.
#[test]
fn socat_with_a_program_for_each_client() {
    carried(Engine::Stasis, |scratch| {
        let port = free_port();
        let listen = format!("TCP-LISTEN:{port},fork,reuseaddr,bind=127.0.0.1");
        AtWork::start(&dir(scratch), Command::new("socat").args([&listen, "EXEC:cat"]))
            .serves(port, |stream| say(stream, b"hello", b"hello").map(drop))
    });
}
