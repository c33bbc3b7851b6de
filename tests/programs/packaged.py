"""The life of the package, on a machine that has systemd: installed, started, used, upgraded, removed, purged.

Run in the directory with first.deb and second.deb, by booted.sh.
"""

import http.client
import json
import os
import socket
import subprocess
import time

SERVICES = ["gateway", "collector", "freezer", "dumper", "restorer"]


def run(*command, good=True):
    """What a command says."""
    print("+", *command, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    assert (done.returncode == 0) == good, f"{command} ended with {done.returncode}"
    return done.stdout


def ask(method, path, body=None):
    """The gateway's answer."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect("/run/stasis/gateway.sock")
    text = json.dumps(body) if body is not None else None
    connection.request(method, path, text, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    print(method, path, answer.status, text[:2000], flush=True)
    assert answer.status < 300, text
    return json.loads(text)


def job(path, body):
    """A job that ends well."""
    begun = ask("POST", path, body)
    done = ask("GET", f"/v1/jobs/{begun['id']}?wait=60s")
    assert done["state"] == "done", done
    return done


def files():
    """All files of the machine, but for what dpkg and the tools for users keep, and what Podman makes when it is asked for containers."""
    found = set()
    kept = ("/var/lib/dpkg", "/var/log", "/var/lib/cni", "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock")
    for base in ["/etc", "/usr", "/var", "/opt", "/srv", "/root"]:
        for directory, below, names in os.walk(base):
            found.update(os.path.join(directory, name) for name in below + names)
    return {path for path in found if not path.startswith(kept)}


def pids():
    return {name: run("systemctl", "show", "-P", "MainPID", f"stasis-{name}").strip() for name in SERVICES}


def status(pid, key):
    with open(f"/proc/{pid}/status") as text:
        return next(line.split(":")[1].strip() for line in text if line.startswith(key))


def counted():
    with open("/tmp/count") as text:
        return len(text.readlines())


def goes_on():
    before, patience = counted(), time.monotonic() + 60
    while counted() <= before:
        assert time.monotonic() < patience, "the program does not run on"
        time.sleep(0.05)


before = files()
run("dpkg", "-i", "first.deb")
assert run("systemctl", "list-units", "--no-legend", "--state=active", "stasis*").strip() == "", "something was started"
run("systemctl", "is-enabled", "stasis.target", good=False)
run("stasis", "config", "check")

run("systemctl", "enable", "--now", "stasis.target")
started = pids()
for name, pid in started.items():
    assert run("systemctl", "is-active", f"stasis-{name}").strip() == "active"
    assert run("systemctl", "show", "-P", "StatusText", f"stasis-{name}").startswith("listening on"), name
gateway = started["gateway"]
assert status(gateway, "Uid").split()[0] != "0" and status(gateway, "CapBnd") == "0" * 16
run("systemd-analyze", "security", "--offline=true", "--threshold=30", "/usr/lib/systemd/system/stasis-gateway.service")
ask("GET", "/healthz")

# In a session of its own, away from this unit's descriptors.
count = "import time\nwhile True: print('.', flush=True); time.sleep(0.05)"
with open("/tmp/count", "wb") as out:
    program = subprocess.Popen(["python3", "-c", count], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
time.sleep(0.5)
job("/v1/checkpoints", {"pid": program.pid, "directory": "test/count", "leave_running": False})
program.wait()
assert os.stat("/var/lib/stasis/checkpoints").st_mode & 0o777 == 0o700
job("/v1/restores", {"directory": "test/count"})
goes_on()

with open("/etc/stasis/stasis.toml", "a") as config:
    config.write("\n# The administrator's own.\n")
run("dpkg", "-i", "second.deb")
assert "The administrator's own." in open("/etc/stasis/stasis.toml").read()
restarted = pids()
assert all(restarted[name] not in ("0", started[name]) for name in SERVICES), (started, restarted)
goes_on()
assert ask("GET", "/v1/checkpoints")["checkpoints"][0]["directory"] == "test/count"

run("dpkg", "-r", "stasis")
assert run("systemctl", "list-units", "--no-legend", "--state=active", "stasis*").strip() == ""
assert not any(os.path.exists(f"/proc/{pid}") for pid in restarted.values()), "a service runs on"
goes_on()
assert os.path.exists("/var/lib/stasis/checkpoints/test/count/inventory.img"), "removal took checkpoints away"
assert os.path.exists("/etc/stasis/stasis.toml")
assert not [name for name in os.listdir("/run/stasis") if name.endswith(".sock")], "a socket stays"

run("dpkg", "-P", "stasis")
left = sorted(files() - before)
assert left == [], f"left behind: {left}"
assert before - files() == set(), f"taken along: {before - files()}"
assert not os.path.exists("/run/stasis")
run("getent", "passwd", "stasis", good=False)
run("getent", "group", "stasis", good=False)
