//! Builds the eBPF programs for their own target, with whichever tool chain is there.

use std::env;
use std::error::Error;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";
/// Goes up when what is pinned beside the object's own programs and maps changes its meaning.
const PINS: u32 = 1;
const REMEDY: &str = "run `make deps`, which installs it";

fn main() -> Result<(), Box<dyn Error>> {
    let sources = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../ebpf");
    for name in ["Cargo.toml", "Cargo.lock", "src", "common/Cargo.toml", "common/src"] {
        println!("cargo::rerun-if-changed={}", sources.join(name).display());
    }
    println!("cargo::rerun-if-env-changed=PATH");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let target_dir = target_dir(&out);
    let object = build(&sources, &target_dir)?;
    let bytes = fs::read(&object).map_err(|error| format!("read {}: {error}", object.display()))?;
    fs::write(out.join("stasis-ebpf"), &bytes)
        .map_err(|error| format!("copy {}: {error}", object.display()))?;
    let mut hasher = DefaultHasher::new();
    (PINS, &bytes).hash(&mut hasher);
    // What the loader fills in from: the programs are others with other data.
    let processor = env::var("CARGO_CFG_TARGET_ARCH")?;
    for data in ["src/bpf/calls.rs", &format!("../arch/src/{processor}/calls.rs")] {
        println!("cargo::rerun-if-changed={data}");
        fs::read(data).map_err(|error| format!("read {data}: {error}"))?.hash(&mut hasher);
    }
    println!("cargo::rustc-env=STASIS_EBPF_VERSION={:016x}", hasher.finish());
    Ok(())
}

/// One folder for all profiles of this target directory: the programs are the same in each.
fn target_dir(out: &Path) -> PathBuf {
    // TARGET/PROFILE/build/PACKAGE/out
    out.ancestors().nth(4).unwrap_or(out).join("ebpf")
}

fn build(sources: &Path, target_dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let path = search_path()?;
    if !env::split_paths(&path).any(|folder| folder.join("bpf-linker").is_file()) {
        return Err(format!("bpf-linker is not on PATH nor in ~/.cargo/bin: {REMEDY}").into());
    }
    let mut command = tool_chain()?;
    // What cargo tells this script about its own build is not meant for that one.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let ours =
            text.starts_with("CARGO") && !matches!(&*text, "CARGO_HOME" | "CARGO_NET_OFFLINE");
        if ours || text.starts_with("RUSTC_W") || text == "RUSTFLAGS" || text == "RUSTDOC" {
            command.env_remove(&name);
        }
    }
    command
        .current_dir(sources)
        .env("PATH", path)
        // The kernel needs no type information of programs that only read.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Cdebuginfo=0")
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(target_dir);
    let status = command.status().map_err(|error| format!("start {command:?}: {error}"))?;
    if !status.success() {
        return Err(format!("build the eBPF programs: {command:?}: {status}").into());
    }
    Ok(target_dir.join(TARGET).join("release/stasis-ebpf"))
}

/// PATH, with cargo's own folder of programs behind it.
fn search_path() -> Result<std::ffi::OsString, Box<dyn Error>> {
    let mut folders: Vec<PathBuf> =
        env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    folders.extend(home.map(|home| home.join("bin")));
    Ok(env::join_paths(folders)?)
}

/// A cargo that can build for the BPF target: the distribution's, which has a ready-made core
/// library for it, or a nightly one that builds core from its sources.
fn tool_chain() -> Result<Command, Box<dyn Error>> {
    if Path::new("/usr/lib/rustlib").join(TARGET).is_dir() && Path::new("/usr/bin/cargo").is_file()
    {
        let mut command = Command::new("/usr/bin/cargo");
        // bpf-linker reads this compiler's LLVM; the switch lets its stable release build for a
        // target that is not.
        command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        command.env_remove("RUSTUP_TOOLCHAIN");
        return Ok(command);
    }
    let listed = Command::new("rustup").args(["toolchain", "list"]).output();
    let has_nightly = listed.is_ok_and(|listed| {
        String::from_utf8_lossy(&listed.stdout).lines().any(|line| line.starts_with("nightly"))
    });
    if !has_nightly {
        return Err(format!(
            "no tool chain for {TARGET}: neither the distribution's rustc with its BPF target nor a \
             nightly one with rust-src is there: {REMEDY}"
        )
        .into());
    }
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "-Zbuild-std=core"]);
    command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    Ok(command)
}
