//! `stasis show`: what is in a checkpoint, for people and for programs.
//!
//! [`summarize`] is a pure function of the images; [`Summary`] is what `--json` prints and what `Display` writes as
//! text. Nothing of the machine is looked at: a checkpoint can be shown anywhere.

mod describe;
mod summary;
mod text;

use images::{Checkpoint, ImageDir};

pub(crate) use summary::Summary;

/// Reads and checks the checkpoint in `dir`, and says what is in it.
pub(crate) fn summarize(dir: &ImageDir) -> Result<Summary, images::Error> {
    Summary::of(&Checkpoint::load(dir.try_clone()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str) -> Summary {
        let sets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/criu-4.2");
        summarize(&ImageDir::open(&sets.join(name)).unwrap()).unwrap()
    }

    #[test]
    fn a_family_is_shown_as_a_tree() {
        let summary = set("family");
        let text = summary.to_string();
        assert!(text.contains("6 processes, 4 threads"), "{text}");
        assert!(text.contains("├─ family (zombie, exit code 17)"), "{text}");
        assert!(text.contains("├─ family (zombie, killed by signal 9)"), "{text}");
        assert!(text.contains("└─ stopped one (stopped)"), "{text}");
        assert!(text.contains("│  └─ family"), "{text}");
    }

    #[test]
    fn files_are_said_in_words() {
        let summary = set("busy");
        let whats: Vec<_> =
            summary.processes[0].files.iter().map(|file| (file.kind, file.what.as_str())).collect();
        let has = |kind: &str, part: &str| {
            whats.iter().any(|(found, what)| *found == kind && what.contains(part))
        };
        assert!(has("pipe", "11 bytes in it"), "{whats:?}");
        assert!(has("unix socket", "listener.sock, listening"), "{whats:?}");
        assert!(has("tcp socket", "127.0.0.1:"), "{whats:?}");
        assert!(has("fifo", "/fifo"), "{whats:?}");
        assert!(has("epoll", "6 files watched"), "{whats:?}");
        assert_eq!(summary.files["pipe"], 4);
        assert_eq!(summary.queued_bytes, 11 + 11 + 13 + 13);
        assert!(summary.times.is_some());
    }

    #[test]
    fn ghosts_are_named() {
        let text = set("ghosts").to_string();
        assert!(text.contains("deleted: /tmp/stasis-sets/work/sparse (3.0 MiB)"), "{text}");
        assert!(text.contains("/ghost (deleted, contents stored) @12"), "{text}");
    }

    #[test]
    fn a_summary_is_json() {
        let json = serde_json::to_value(set("minimal")).unwrap();
        assert_eq!(json["processes"][0]["comm"], "minimal");
        assert_eq!(
            json["memory"]["stored_bytes"],
            json["memory"]["stored_pages"].as_u64().unwrap() * 4096
        );
    }
}
