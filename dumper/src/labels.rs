//! Labels of security modules (SELinux, AppArmor, Smack): `/proc/PID/attr/current`, and one file for each
//! module where several give labels. Where none does, these files cannot be read.

use std::collections::BTreeMap;

use ids::HostPid;
use kernel::procfs::Dir;
use support::Unsupported;
use support::settings::of_label;

/// The labels of a thread, by the files that have them.
#[derive(Debug, Default)]
pub(crate) struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Those of this process; none where no module gives labels.
    pub(crate) fn own() -> Self {
        let modules = std::fs::read_dir("/proc/self/attr").into_iter().flatten().flatten();
        let modules = modules.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = modules.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let files = names.map(|name| format!("attr/{name}/current"));
        let files = std::iter::once("attr/current".to_owned()).chain(files);
        match Dir::open(HostPid::own()) {
            Ok(dir) => Self::read(&dir, files),
            Err(_) => Self::default(),
        }
    }

    /// Those that a thread has of the same modules.
    pub(crate) fn of(dir: &Dir, own: &Self) -> Self {
        Self::read(dir, own.0.keys().cloned())
    }

    fn read(dir: &Dir, files: impl Iterator<Item = String>) -> Self {
        let mut text = Vec::new();
        let label = |file: String| {
            dir.read(&file, &mut text).ok()?;
            let label = String::from_utf8_lossy(&text);
            let label = label.trim_end_matches(['\0', '\n']);
            (!label.is_empty()).then(|| (file, label.to_owned()))
        };
        Self(files.filter_map(label).collect())
    }

    /// What of them a restore by a process with `own` ones would not give back.
    pub(crate) fn unsupported(&self, task: HostPid, own: &Self) -> Vec<Unsupported> {
        let pairs = self.0.iter().filter_map(|(file, label)| Some((label, own.0.get(file)?)));
        let mut found: Vec<_> =
            pairs.filter_map(|(label, own)| of_label(task, label, own)).collect();
        // One module's label is in two files.
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> HostPid {
        HostPid::new(number).unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels(pairs.iter().map(|(file, label)| ((*file).into(), (*label).into())).collect())
    }

    #[test]
    fn a_label_in_two_files_is_one() {
        let own = labels(&[("attr/apparmor/current", "a"), ("attr/current", "a")]);
        let other = labels(&[("attr/apparmor/current", "b"), ("attr/current", "b")]);
        assert_eq!(other.unsupported(pid(7), &own).len(), 1);
        assert!(own.unsupported(pid(7), &own).is_empty());
        assert!(other.unsupported(pid(7), &Labels::default()).is_empty());
    }

    #[test]
    fn a_thread_of_this_process_has_its_labels() {
        let own = Labels::own();
        let dir = Dir::open(HostPid::own()).unwrap();
        assert!(Labels::of(&dir, &own).unsupported(pid(7), &own).is_empty());
    }
}
