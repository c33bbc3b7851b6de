//! Builds the blobs and checks that each is what it must be: code and constants in one piece,
//! with nothing that a loader would have to do.
//!
//! The blobs are a package of their own, built by a nested cargo because they are linked
//! as nothing else is (no start files, our linker script), into this build's own folder.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSection};

const BLOBS: [(&str, &str); 2] = [("parasite", "PARASITE"), ("restorer", "RESTORER")];

fn main() -> Result<(), Box<dyn Error>> {
    for watched in
        ["blobs/src", "blobs/Cargo.toml", "blobs/build.rs", "blobs/blob.ld", "src", "../arch/src"]
    {
        println!("cargo:rerun-if-changed={watched}");
    }
    if env::var_os("CARGO_FEATURE_BLOBS").is_none() {
        return Ok(());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let built = build(&out)?;
    let mut code = String::new();
    for (name, constant) in BLOBS {
        let (bytes, entry) = flatten(&built.join(name)).map_err(|e| format!("blob {name}: {e}"))?;
        let flat = out.join(format!("{name}.bin"));
        fs::write(&flat, bytes)?;
        writeln!(
            code,
            "/// The {name}.\npub const {constant}: Blob = \
             Blob {{ code: include_bytes!({flat:?}), entry: {entry} }};"
        )?;
    }
    fs::write(out.join("blobs.rs"), code)?;
    Ok(())
}

/// Runs the nested cargo; returns the folder that holds the linked blobs.
fn build(out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("blobs");
    let target_dir = out.join("blobs");
    let status = Command::new(env::var("CARGO")?)
        .args(["build", "--release", "--quiet", "--bins", "--manifest-path"])
        .arg(manifest.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        // Flags meant for the host programs, a wrapper such as clippy-driver, and what cargo tells this script about its own
        // package, are not for the nested build.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_FEATURE_BLOBS")
        .status()?;
    if !status.success() {
        return Err(format!("building the blobs failed: {status}").into());
    }
    Ok(target_dir.join("release"))
}

/// Takes the one section out of a linked blob, and its entry point.
fn flatten(path: &Path) -> Result<(Vec<u8>, u64), Box<dyn Error>> {
    let bytes = fs::read(path)?;
    let file = object::File::parse(&*bytes)?;
    for section in file.sections() {
        let name = section.name()?;
        let loader_work = name.starts_with(".rela") || name.starts_with(".rel.");
        let not_flat = loader_work || matches!(name, ".writable" | ".threads" | ".got");
        if not_flat && section.size() != 0 {
            return Err(format!(
                "section {name} holds {} bytes: a blob can have no relocations and no writable \
                 data (look for a static, a table of pointers, or a panic with a message)",
                section.size()
            )
            .into());
        }
    }
    let blob = file.section_by_name(".blob").ok_or("no .blob section")?;
    Ok((blob.data()?.to_vec(), file.entry() - blob.address()))
}
