//! Programs in large packages, which `make test-all` installs.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use stasis_tests::at_work::{AtWork, PATIENCE, output_of};
use stasis_tests::clients::{Outside, get, say};
use stasis_tests::{Engine, Scratch, free_port, wait_until};

use crate::carried;

fn dir(scratch: &Scratch) -> std::path::PathBuf {
    scratch.path("work")
}

/// A body of HTTP.
fn page(port: u16, path: &str) -> Result<String, String> {
    let answer = reqwest::blocking::get(format!("http://127.0.0.1:{port}{path}"));
    answer.and_then(reqwest::blocking::Response::text).map_err(|error| error.to_string())
}

/// A number that grows.
fn grows(mut number: impl FnMut() -> Result<u64, String>) -> Result<(), String> {
    let before = number()?;
    match wait_until(PATIENCE, || number().is_ok_and(|now| now > before)) {
        true => Ok(()),
        false => Err(format!("it stands at {before}")),
    }
}

/// A server with a session: a shell on a terminal of its own, at the end of a connection.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn sshd_with_a_session() {
    carried(Engine::Stasis, |scratch| {
        let (work, port) = (dir(scratch), free_port().to_string());
        for key in ["host", "user"] {
            let mut keys = Command::new("ssh-keygen");
            keys.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(work.join(key));
            output_of(&mut keys).expect("make a key");
        }
        // Where it puts itself before it knows who comes.
        fs::create_dir_all("/run/sshd").expect("make a directory");
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f", "/dev/null", "-p", &port]);
        for option in
            ["ListenAddress=127.0.0.1", "StrictModes=no", "UsePAM=no", "PermitRootLogin=yes"]
        {
            command.args(["-o", option]);
        }
        for (name, file) in
            [("HostKey", "host"), ("AuthorizedKeysFile", "user.pub"), ("PidFile", "pid")]
        {
            command.arg("-o").arg(format!("{name}={}", work.join(file).display()));
        }
        let mut sshd = AtWork::start(&work, &mut command);
        let said = work.join("said");
        let mut session = Command::new("ssh");
        session.args([
            "-tt",
            "-p",
            &port,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "LogLevel=ERROR",
        ]);
        session.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectionAttempts=30", "-i"]);
        session.arg(work.join("user")).args(["root@127.0.0.1", "sh"]);
        session.stdout(fs::File::create(&said).expect("make a file"));
        let mut client = Outside::start(&mut session);
        let mut keys = client.input();
        let mut asked = 0;
        sshd.connections = true;
        sshd.asked(move || {
            asked += 1;
            let sum = format!("sum{}", 1000 + asked);
            writeln!(keys, "echo sum$((1000+{asked}))").map_err(|error| error.to_string())?;
            let heard = || fs::read_to_string(&said).unwrap_or_default();
            match wait_until(PATIENCE, || heard().contains(&sum)) {
                true => Ok(()),
                false => Err(format!("the session says {}; client {client:?}", heard())),
            }
        })
    });
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn mariadb_with_clients() {
    carried(Engine::Stasis, |scratch| {
        let (work, port) = (dir(scratch), free_port().to_string());
        let data = format!("--datadir={}", work.join("data").display());
        let socket = format!("--socket={}", work.join("socket").display());
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--user=root", "--skip-test-db", &data]);
        output_of(install.arg("--auth-root-authentication-method=normal"))
            .expect("make the tables");
        let mut command = Command::new("mariadbd");
        // It reads and writes by an io_uring, as it comes.
        command.args(["--no-defaults", "--user=root", &data, &socket]);
        command.args([
            "--bind-address=127.0.0.1",
            "--innodb-buffer-pool-size=32M",
            "--port",
            &port,
        ]);
        let ask = move |words: &str| {
            let mut client = Command::new("mariadb");
            client.args(["--no-defaults", "-uroot", "-N", &socket, "-e", words]);
            output_of(&mut client)
        };
        let mut server = AtWork::start(&work, &mut command).asked({
            let ask = ask.clone();
            move || ask("select 1").map(drop)
        });
        ask("create database t; create table t.a (i int auto_increment primary key, b text) engine=innodb")
            .expect("make a table");
        let mut client = Command::new("mariadb");
        client.args([
            "--no-defaults",
            "-uroot",
            "-h127.0.0.1",
            "--protocol=tcp",
            "-n",
            "-P",
            &port,
            "t",
        ]);
        let mut client = Outside::start(client.stdout(Stdio::null()));
        let mut to = client.input();
        std::thread::spawn(move || {
            // Until the client is ended with the test.
            while to.write_all(b"insert into a (b) values (repeat('x', 100));\n").is_ok() {
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        });
        server.connections = true;
        server.asked(move || {
            let _outside = &client;
            grows(|| {
                let count = ask("select count(*) from t.a")?;
                count.trim().parse().map_err(|_| format!("{count:?} is no count"))
            })
        })
    });
}

/// Worker threads, child processes with channels, a server with clients.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn node_with_workers_children_and_clients() {
    carried(Engine::Stasis, |scratch| {
        let (work, port) = (dir(scratch), free_port());
        fs::write(work.join("server.js"), include_str!("../../programs/server.js")).expect("write");
        let mut command = Command::new("node");
        command.args(["server.js", &port.to_string()]);
        AtWork::start(&work, &mut command).serves(port, get).asked(move || {
            for part in ["worker", "child", "pipe"] {
                grows(|| page(port, &format!("/{part}"))?.parse().map_err(|_| part.to_owned()))?;
            }
            Ok(())
        })
    });
}

fn java(scratch: &Scratch, collector: &str) -> AtWork {
    let (work, port) = (dir(scratch), free_port());
    fs::write(work.join("Server.java"), include_str!("../../programs/Server.java")).expect("write");
    output_of(Command::new("javac").arg("Server.java").current_dir(&work)).expect("compile");
    let mut command = Command::new("java");
    command.args([collector, "-Xmx256m", "-cp", ".", "Server", &port.to_string()]);
    AtWork::start(&work, &mut command)
        .serves(port, get)
        .asked(move || grows(|| page(port, "/")?.parse().map_err(|_| "no number".to_owned())))
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn a_java_server_with_g1() {
    carried(Engine::Stasis, |scratch| java(scratch, "-XX:+UseG1GC"));
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn a_java_server_with_zgc() {
    carried(Engine::Stasis, |scratch| java(scratch, "-XX:+UseZGC"));
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn a_go_server() {
    carried(Engine::Stasis, |scratch| {
        let (work, port) = (dir(scratch), free_port());
        fs::write(work.join("server.go"), include_str!("../../programs/server.go")).expect("write");
        let mut build = Command::new("go");
        build.args(["build", "-o", "server", "server.go"]).current_dir(&work);
        output_of(build.env("GOCACHE", work.join("cache")).env("GO111MODULE", "off"))
            .expect("build");
        let mut command = Command::new(work.join("server"));
        AtWork::start(&work, command.arg(port.to_string()))
            .serves(port, get)
            .asked(move || grows(|| page(port, "/")?.parse().map_err(|_| "no number".to_owned())))
    });
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn ffmpeg_that_encodes() {
    carried(Engine::Stasis, |scratch| {
        let work = dir(scratch);
        let mut command = Command::new("ffmpeg");
        command.args([
            "-loglevel",
            "error",
            "-re",
            "-f",
            "lavfi",
            "-i",
            "testsrc=size=640x360:rate=30",
        ]);
        command.args(["-f", "lavfi", "-i", "sine", "-c:v", "libx264", "-preset", "ultrafast"]);
        command.args(["-flush_packets", "1", "-t", "10000", "out.mkv"]);
        AtWork::start(&work, &mut command).writes(&work.join("out.mkv"))
    });
}

/// A guest that says something over its serial line for ever, from a boot sector.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn qemu_that_runs_a_guest() {
    carried(Engine::Stasis, |scratch| {
        let work = dir(scratch);
        // cli; mov dx, 0x3f8; again: mov al, 'A'; out dx, al; mov cx, 0xff00; loop $; jmp again
        let code =
            [0xfa, 0xba, 0xf8, 0x03, 0xb0, 0x41, 0xee, 0xb9, 0x00, 0xff, 0xe2, 0xfe, 0xeb, 0xf6];
        let mut disk = vec![0; 1 << 20];
        disk[..code.len()].copy_from_slice(&code);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        fs::write(work.join("disk"), disk).expect("write the disk");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-display", "none", "-m", "64", "-smp", "2"]);
        command.args(["-serial", "file:said", "-drive", "format=raw,file=disk"]);
        command.args(["-monitor", "unix:monitor,server,nowait", "-netdev", "user,id=n"]);
        command.args(["-device", "e1000,netdev=n"]);
        AtWork::start(&work, &mut command).writes(&work.join("said"))
    });
}

/// With its crash handler, which leaves its parent: so it is below one that adopts orphans.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn chromium_headless() {
    carried(Engine::Stasis, |scratch| {
        let (work, port) = (dir(scratch), free_port());
        let html = "<script>var n = 0; setInterval(() => { document.title = ++n }, 20)</script>";
        fs::write(work.join("page.html"), html).expect("write the page");
        let adopt = "import ctypes, subprocess, sys\n\
                     ctypes.CDLL(None).prctl(36, 1)\n\
                     sys.exit(subprocess.call(sys.argv[1:]))\n";
        fs::write(work.join("adopt.py"), adopt).expect("write the script");
        let mut command = Command::new("/usr/bin/python3");
        command.args(["adopt.py", "/usr/lib/chromium/chromium", "--headless=new", "--no-sandbox"]);
        command.args(["--disable-gpu", "--user-data-dir=user", "--remote-allow-origins=*"]);
        command.arg(format!("--remote-debugging-port={port}"));
        command.arg(format!("file://{}", work.join("page.html").display()));
        let mut chromium = AtWork::start(&work, command.env("HOME", &work));
        chromium.connections = true;
        chromium.asked(move || {
            grows(|| {
                let tabs: serde_json::Value = serde_json::from_str(&page(port, "/json")?)
                    .map_err(|error| error.to_string())?;
                let mut titles = tabs.as_array().into_iter().flatten().map(|tab| &tab["title"]);
                titles
                    .find_map(|title| title.as_str()?.parse().ok())
                    .ok_or_else(|| format!("no title counts: {tabs}"))
            })
        })
    });
}

/// A server with a kernel that computes, asked over HTTP and a script of its own.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn jupyter_with_a_kernel() {
    carried(Engine::Stasis, |scratch| {
        let (work, port) = (dir(scratch), free_port());
        // Where `make test-all` puts it.
        let home = std::env::var("STASIS_JUPYTER").expect("STASIS_JUPYTER: run `make test-all`");
        let mut command = Command::new(format!("{home}/bin/jupyter-server"));
        command.args(["--allow-root", "--no-browser", "--ServerApp.ip=127.0.0.1"]);
        command.args(["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]);
        command.arg(format!("--ServerApp.port={port}"));
        let cell = "import itertools, threading, time\n\
                    def tick():\n    for n in itertools.count():\n        \
                    print(n, file=open('ticks', 'a'))\n        time.sleep(0.01)\n\
                    threading.Thread(target=tick).start()";
        fs::write(work.join("start.py"), cell).expect("write");
        let server =
            AtWork::start(&work, command.env("HOME", &work).env("PYTHONSTARTUP", "start.py"))
                .asked(move || page(port, "/api").map(drop));
        let client = reqwest::blocking::Client::new();
        let url = format!("http://127.0.0.1:{port}/api/kernels");
        client.post(&url).body("{}").send().expect("start a kernel");
        server.writes(&work.join("ticks")).asked(move || {
            let kernels = page(port, "/api/kernels")?;
            kernels.contains("\"id\"").then_some(()).ok_or(kernels)
        })
    });
}

fn apache(scratch: &Scratch, module: &str) -> AtWork {
    const MODULES: &str = "/usr/lib/apache2/modules";
    let (work, port) = (dir(scratch), free_port());
    let root = work.display();
    fs::write(work.join("index.html"), "a page").expect("write a page");
    let configuration = format!(
        "ServerRoot {root}\nPidFile {root}/pid\nServerName x\nListen 127.0.0.1:{port}\n\
         LoadModule mpm_{module}_module {MODULES}/mod_mpm_{module}.so\n\
         LoadModule authz_core_module {MODULES}/mod_authz_core.so\n\
         LoadModule dir_module {MODULES}/mod_dir.so\n\
         DocumentRoot {root}\nDirectoryIndex index.html\nUser www-data\nGroup www-data\n\
         ErrorLog {root}/errors\nMaxKeepAliveRequests 0\nKeepAliveTimeout 100\n"
    );
    fs::write(work.join("configuration"), configuration).expect("write the configuration");
    for path in [scratch.path(""), work.clone()] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("chmod");
    }
    let mut command = Command::new("apache2");
    command.arg("-DFOREGROUND").arg("-f").arg(work.join("configuration"));
    AtWork::start(&work, &mut command).serves(port, get)
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn apache_with_processes() {
    carried(Engine::Stasis, |scratch| apache(scratch, "prefork"));
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn apache_with_threads() {
    carried(Engine::Stasis, |scratch| apache(scratch, "event"));
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn haproxy_before_a_server() {
    carried(Engine::Stasis, |scratch| {
        let (work, port, behind) = (dir(scratch), free_port(), free_port());
        fs::write(work.join("index.html"), "a page").expect("write a page");
        let mut server = Command::new("/usr/bin/python3");
        server.args(["-m", "http.server", &behind.to_string(), "--protocol", "HTTP/1.1"]);
        server
            .args(["--bind", "127.0.0.1"])
            .current_dir(&work)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Outside::start(&mut server);
        assert!(wait_until(PATIENCE, || TcpStream::connect(("127.0.0.1", behind)).is_ok()));
        let configuration = format!(
            "global\n master-worker\ndefaults\n mode http\n timeout client 100s\n timeout server 100s\n \
             timeout connect 5s\nfrontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n \
             server a 127.0.0.1:{behind}\n"
        );
        fs::write(work.join("configuration"), configuration).expect("write the configuration");
        let mut command = Command::new("haproxy");
        command.args(["-W", "-db", "-f", "configuration"]);
        AtWork::start(&work, &mut command).serves(port, get).asked(move || {
            let _outside = &server;
            Ok(())
        })
    });
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn puma_with_workers() {
    carried(Engine::Stasis, |scratch| {
        let (work, port) = (dir(scratch), free_port());
        let app = "run ->(e) { [200, {'Content-Length' => '2'}, ['ok']] }\n";
        fs::write(work.join("config.ru"), app).expect("write the application");
        let mut command = Command::new("puma");
        command.args([
            "-w",
            "2",
            "-t",
            "2:4",
            "-b",
            &format!("tcp://127.0.0.1:{port}"),
            "config.ru",
        ]);
        AtWork::start(&work, &mut command).serves(port, get)
    });
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn rabbitmq() {
    carried(Engine::Stasis, |scratch| {
        let (work, port) = (dir(scratch), free_port());
        let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
        for (name, value) in [
            ("RABBITMQ_MNESIA_BASE", work.join("mnesia").display().to_string()),
            ("RABBITMQ_LOG_BASE", work.join("logs").display().to_string()),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", work.join("plugins").display().to_string()),
            ("RABBITMQ_PID_FILE", work.join("pid").display().to_string()),
            ("RABBITMQ_NODENAME", format!("test{port}@localhost")),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_DIST_PORT", free_port().to_string()),
            ("ERL_EPMD_PORT", free_port().to_string()),
            ("HOME", work.display().to_string()),
        ] {
            command.env(name, value);
        }
        let mut server = AtWork::start(&work, &mut command);
        server.connections = true;
        server.asked(move || {
            let failed = |error: std::io::Error| error.to_string();
            let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(failed)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
            // It begins with what it is, in a frame that ends so.
            say(&mut stream, b"AMQP\0\0\x09\x01", b"\xce").map(drop).map_err(failed)
        })
    });
}

/// A master, and processes for each of its jobs, which find each other by sockets and locks.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn postfix_with_sessions() {
    carried(Engine::Stasis, |scratch| {
        let (work, port) = (dir(scratch), free_port());
        let root = work.display();
        let main = format!(
            "compatibility_level=3.6\nqueue_directory={root}/queue\ndata_directory={root}/data\n\
             myhostname=x.local\nmydestination=localhost\ninet_interfaces=127.0.0.1\n\
             maillog_file=/var/log/postfix.log\nsmtpd_timeout=3000s\n\
             smtpd_junk_command_limit=1000000\n"
        );
        let jobs = ["pickup unix n", "qmgr unix n"].map(|job| (job, "300", "1"));
        let others = ["cleanup unix n", "tlsmgr unix -", "rewrite unix -", "proxymap unix -"];
        let others = others.map(|job| (job, "-", "0"));
        let more = [("anvil unix -", "-", "1"), ("postlog unix-dgram n", "-", "1")];
        let mut table = format!("127.0.0.1:{port} inet n - n - - smtpd\n");
        for (job, wakes, most) in jobs.into_iter().chain(others).chain(more) {
            let name = job.split(' ').next().unwrap_or_default();
            let program = match name {
                "rewrite" => "trivial-rewrite",
                "postlog" => "postlogd",
                name => name,
            };
            table += &format!("{job} - n {wakes} {most} {program}\n");
        }
        fs::write(work.join("main.cf"), main).expect("write the configuration");
        fs::write(work.join("master.cf"), table).expect("write the table");
        for directory in ["queue", "data"] {
            fs::create_dir(work.join(directory)).expect("mkdir");
        }
        for path in [scratch.path(""), work.clone()] {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .expect("chmod");
        }
        output_of(Command::new("chown").arg("postfix").arg(work.join("data"))).expect("chown");
        let mut command = Command::new("postfix");
        command.arg("-c").arg(&work).arg("start-fg");
        AtWork::start(&work, &mut command).serves(port, |stream| {
            // It says who it is first, in a session that begins.
            say(stream, b"NOOP\r\n", b"250 2.0.0 Ok\r\n")?;
            say(stream, b"MAIL FROM:<a@b.c>\r\n", b"Ok\r\n")?;
            say(stream, b"RSET\r\n", b"Ok\r\n").map(drop)
        })
    });
}

/// With a shell on a terminal in it.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn emacs_with_a_shell() {
    carried(Engine::Stasis, |scratch| {
        let work = dir(scratch);
        let socket = work.join("server");
        let mut command = Command::new("emacs");
        command.arg("-Q").arg(format!("--fg-daemon={}", socket.display()));
        let server = AtWork::start(&work, command.env("HOME", &work));
        let lisp = move |text: &str| {
            output_of(Command::new("emacsclient").arg("-s").arg(&socket).args(["-e", text]))
        };
        assert!(wait_until(PATIENCE, || lisp("(shell)").is_ok()), "no shell");
        let (lines, mut line) = (work.join("lines"), 0);
        server.asked(move || {
            line += 1;
            let said = format!("echo {line} >> {}", lines.display());
            lisp(&format!("(comint-send-string (get-process \"shell\") \"{said}\\n\")"))?;
            let written = || fs::read_to_string(&lines).unwrap_or_default();
            match wait_until(PATIENCE, || written().ends_with(&format!("{line}\n"))) {
                true => Ok(()),
                false => Err(format!("{line} is not the last of {:?}", written())),
            }
        })
    });
}

/// Under seccomp, with rights that it has given up.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn tor_in_its_sandbox() {
    carried(Engine::Stasis, |scratch| {
        let (work, port) = (dir(scratch), free_port());
        let data = work.join("data");
        fs::create_dir(&data).expect("mkdir");
        for path in [scratch.path(""), work.clone()] {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .expect("chmod");
        }
        fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .expect("chmod");
        output_of(Command::new("chown").arg("debian-tor").arg(&data)).expect("chown");
        let configuration = format!(
            "SocksPort 0\nControlPort 127.0.0.1:{port}\nDataDirectory {}\nDisableNetwork 1\n\
             CookieAuthentication 0\nSandbox 1\nUser debian-tor\n",
            data.display()
        );
        fs::write(work.join("torrc"), configuration).expect("write the configuration");
        let mut command = Command::new("tor");
        command.args(["-f", "torrc"]);
        AtWork::start(&work, &mut command).serves(port, |stream| {
            say(stream, b"AUTHENTICATE\r\n", b"250 OK\r\n")?;
            say(stream, b"GETINFO version\r\n", b"250 OK\r\n").map(drop)
        })
    });
}

/// Supervisors with services that end and begin again, and one that writes to its log's program.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn runit_with_services() {
    carried(Engine::Stasis, |scratch| {
        let work = dir(scratch);
        let out = work.join("out").display().to_string();
        for (service, text) in [
            ("ticks", format!("while :; do echo x; echo x >> {out}; sleep 0.05; done")),
            ("ticks/log", format!("exec cat > {out}.log")),
            ("again", "exec sleep 0.2".to_owned()),
        ] {
            let run = work.join("services").join(service).join("run");
            fs::create_dir_all(run.parent().expect("a directory")).expect("mkdir");
            fs::write(&run, format!("#!/bin/sh\n{text}\n")).expect("write the program");
            fs::set_permissions(&run, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .expect("chmod");
        }
        let mut command = Command::new("runsvdir");
        let out = work.join("out");
        let log = work.join("out.log");
        AtWork::start(&work, command.args(["-P", "services"])).writes(&out).writes(&log)
    });
}

/// A packet comes into the ring of a socket, which it reads. `mode` chooses the version of the ring.
fn tcpdump(scratch: &Scratch, mode: &[&str]) -> AtWork {
    let (work, port) = (dir(scratch), free_port());
    // Its output is a file, and not a pipe of ours.
    let script = "exec tcpdump -Z root -i lo -n -l \"$@\" > packets";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).args(mode).arg(format!("udp port {port}"));
    let packets = work.join("packets");
    let mut bytes = 0;
    AtWork::start(&work, &mut command).asked(move || {
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let count = |length: usize| {
            let text = fs::read_to_string(&packets).unwrap_or_default();
            text.lines().filter(|line| line.ends_with(&format!("length {length}"))).count()
        };
        // When it begins to listen is not to be seen: so the first packets may be lost, and no later ones.
        let tries = if bytes == 0 { 100 } else { 1 };
        for _ in 0..tries {
            bytes += 1;
            let sent = sender.send_to(&vec![0; bytes], ("127.0.0.1", port));
            sent.map_err(|error| error.to_string())?;
            let patience = if tries > 1 { PATIENCE / 50 } else { PATIENCE };
            if wait_until(patience, || count(bytes) == 1) {
                return Ok(());
            }
        }
        Err(format!("it has seen no packet of {bytes} bytes"))
    })
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn tcpdump_with_a_ring_of_blocks() {
    carried(Engine::Stasis, |scratch| tcpdump(scratch, &[]));
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn tcpdump_with_a_ring_of_frames() {
    carried(Engine::Stasis, |scratch| tcpdump(scratch, &["--immediate-mode"]));
}
