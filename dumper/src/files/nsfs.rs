//! Descriptors of namespaces: those of the dumper, which are those of a restore, and those that a process of the tree is in.

use collector::{OpenFile, Process};
use images::messages::{FileEntry, NsFileEntry, fd_type};
use kernel::namespaces::{flag, of_flag, own_link};

use super::file_kind::FileKind;
use super::problem::{Doing, Problem};
use super::survey::Survey;
use crate::own_namespaces::own_number;
use crate::processes::is_zombie;

/// A namespace that a descriptor keeps open.
#[derive(Debug)]
pub(super) struct Namespace;

impl FileKind for Namespace {
    fn types(&self) -> &'static [u32] {
        &[fd_type::NS]
    }

    fn is(&self, file: &OpenFile) -> bool {
        kind(file).is_some()
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        _process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let elsewhere = Problem::Refused(support::files::NAMESPACE_ELSEWHERE);
        let Some((name, id)) = kind(file) else { return Err(elsewhere) };
        let Some((ns_cflag, own)) = flag(name).zip(own_number(name)) else { return Err(elsewhere) };
        let mut living = survey.inventory.processes.values().filter(|it| !is_zombie(it));
        let is_in = |process: &Process| process.namespaces.get(name) == Some(&u64::from(id));
        let pids = own_link("pid").doing("compare with our own")?;
        let has_pids = |process: &Process| {
            let number = process.namespaces.get("pid");
            number.is_some_and(|number| format!("pid:[{number}]") != pids.to_string_lossy())
        };
        let ns_id = if own_link(name).doing("compare with our own")? == file.target {
            own
        } else if living.clone().any(is_in)
            && (name != "user" || living.all(|it| is_in(it) && has_pids(it)))
        {
            // One of users that not all are in, or that has no pids, is entered last of all.
            // Its number in the images is known in the end.
            id
        } else {
            return Err(elsewhere);
        };
        let nsf = NsFileEntry { id: entry.id, ns_id, ns_cflag, flags: file.flags };
        Ok(FileEntry { r#type: fd_type::NS, nsf: Some(nsf), ..entry })
    }
}

/// The name and the kernel's number of a namespace by its link text, `net:[4026531840]`.
fn kind(file: &OpenFile) -> Option<(&'static str, u32)> {
    let (name, number) = file.target.to_str()?.split_once(':')?;
    let number = number.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
    Some((of_flag(flag(name)?)?, number))
}
