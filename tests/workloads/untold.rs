//! What a network namespace holds that nobody tells changes of: every setting, neighbours, labels of addresses, what a bridge was told,
//! what is set of devices. And what of that kind is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::networks::{await_address, enter_new, plain, run};
use crate::stage::{Findings, Outcome, Stage};

/// All settings that can be written, but for one that takes addresses away, and one that is of the whole machine.
fn settings(below: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(below).expect("read a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            settings(&path, found);
        } else if !path.ends_with("disable_ipv6")
            && !path.ends_with("nf_hooks_lwtunnel")
            && fs::OpenOptions::new().write(true).open(&path).is_ok()
            && let Ok(text) = kernel_text(&path)
        {
            found.insert(path.display().to_string(), text);
        }
    }
}

/// Read by one call: of a setting of several numbers there is nothing for a second one.
fn kernel_text(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = vec![0; 64 << 10];
    let length = fs::File::open(path)?.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).trim().to_owned())
}

fn all() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    settings(Path::new("/proc/sys/net"), &mut found);
    found
}

/// Has the first number of each setting be another one, where the kernel takes that.
fn change_all() -> usize {
    let before = all();
    for (path, text) in &before {
        let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let Ok(number) = first.parse::<i64>() else { continue };
        for other in [number + 1, number - 1] {
            if other < 0 || fs::write(path, format!("{other} {rest}")).is_err() {
                continue;
            }
            if kernel_text(Path::new(path)).is_ok_and(|now| now != *text) {
                break;
            }
        }
    }
    let after = all();
    before.iter().filter(|(path, text)| after.get(*path) != Some(text)).count()
}

fn picture() -> Vec<String> {
    let lines = [
        "ip neigh show nud permanent",
        "ip neigh show proxy",
        "ip -6 neigh show proxy",
        "ip addrlabel",
        "ip token",
        "ip -o -d link",
        "bridge -d link",
    ];
    let mut picture: Vec<String> = lines.iter().map(|line| plain(&run(line))).collect();
    let told = |line: &&str| line.contains("02:00:00:00:00:");
    picture.extend(run("bridge fdb show").lines().filter(told).map(str::to_owned));
    picture.extend(
        run("ip maddress show").lines().filter(|line| line.contains("static")).map(str::to_owned),
    );
    picture
}

pub(crate) fn run_all(stage: &Stage) -> Outcome {
    enter_new(&[]);
    for line in [
        "ip link add v0 type veth peer name v1",
        "ip link set v0 up",
        "ip link set v1 up",
        "ip address add 10.9.9.1/24 dev v0",
        "ip token set ::5 dev v0",
        "ip neigh add 10.9.9.77 lladdr 02:00:00:00:00:77 dev v0 nud permanent",
        "ip -6 neigh add fe80::99 lladdr 02:00:00:00:00:77 dev v0 nud permanent",
        "ip neigh add 10.9.9.79 lladdr 02:00:00:00:00:79 dev v0 nud reachable",
        "ip neigh add proxy 10.9.9.78 dev v0",
        "ip -6 neigh add proxy fd00::7 dev v0",
        "ip addrlabel add prefix fd00:8::/32 label 99",
        "ip addrlabel del prefix 2002::/16 label 2",
        "ip link set v0 alias hello group 7 gso_max_segs 100",
        "ip link property add dev v0 altname longer-name-of-it",
        "ip link property add dev v0 altname second",
        "ip maddress add 01:00:5e:00:00:23 dev v0",
        "ip link add v2 type veth peer name v3",
        "ip link add br0 type bridge forward_delay 0",
        "ip link set v2 master br0",
        "ip link set v2 up",
        "ip link set v3 up",
        "ip link set br0 up",
        "bridge link set dev v2 isolated on cost 77 priority 5",
        "ip link set dev v2 type bridge_slave mcast_flood off",
        "bridge fdb add 02:00:00:00:00:99 dev v2 master static",
        "bridge fdb add 02:00:00:00:00:98 dev br0 self",
        "bridge fdb add 02:00:00:00:00:97 dev v1 self",
    ] {
        run(line);
    }
    // The kernel sets some settings anew as a device comes up.
    ["v0", "v1", "v2", "v3", "br0"].into_iter().for_each(await_address);
    let changed = change_all();
    assert!(changed > 100, "{changed} settings can be changed");
    let before = (picture(), all());
    stage.ready_then_wait();
    let mut found = Findings::default();
    let after = (picture(), all());
    for (before, after) in before.0.iter().zip(&after.0) {
        found.same("a namespace", before, after);
    }
    found.same("how much there is", &before.0.len(), &after.0.len());
    for (path, value) in &before.1 {
        found.same(path, &Some(value), &after.1.get(path));
    }
    found.outcome()
}

/// Packets are queued in a way that somebody has chosen.
pub(crate) fn queue(stage: &Stage) -> Outcome {
    waits(stage, &["tc qdisc add dev v0 root pfifo limit 5"])
}

/// Packets are to be encrypted.
pub(crate) fn ipsec(stage: &Stage) -> Outcome {
    waits(
        stage,
        &["ip xfrm policy add dir out src 10.0.0.0/8 dst 10.1.0.0/16 tmpl proto esp mode tunnel"],
    )
}

/// A bridge was told who is in a group.
pub(crate) fn groups(stage: &Stage) -> Outcome {
    waits(
        stage,
        &[
            "ip link add br0 type bridge",
            "ip link set v0 master br0",
            "ip link set br0 up",
            "bridge mdb add dev br0 port v0 grp 239.1.1.1 permanent",
        ],
    )
}

fn waits(stage: &Stage, lines: &[&str]) -> Outcome {
    enter_new(&[]);
    run("ip link add v0 type veth peer name v1");
    run("ip link set v0 up");
    run("ip link set v1 up");
    lines.iter().for_each(|line| drop(run(line)));
    stage.ready_then_wait();
    Ok(())
}
