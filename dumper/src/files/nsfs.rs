//! Descriptors of namespaces: those of the dumper, which are those of a restore.

use collector::{OpenFile, Process};
use images::messages::{FileEntry, NsFileEntry, fd_type};
use kernel::namespaces::{flag, own_link};

use super::file_kind::FileKind;
use super::problem::{Doing, Problem};
use super::survey::Survey;
use crate::own_namespaces::own_number;

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
        _survey: &mut Survey<'_>,
        _process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let elsewhere = Problem::Refused(support::files::NAMESPACE_ELSEWHERE);
        let Some((ns_cflag, ns_id, name)) = kind(file) else { return Err(elsewhere) };
        if own_link(name).doing("compare with our own")? != file.target {
            return Err(elsewhere);
        }
        let nsf = NsFileEntry { id: entry.id, ns_id, ns_cflag, flags: file.flags };
        Ok(FileEntry { r#type: fd_type::NS, nsf: Some(nsf), ..entry })
    }
}

/// The kind of a namespace by its link text, `net:[4026531840]`: its flag, the number of the dumper's own in the
/// images, and its name.
fn kind(file: &OpenFile) -> Option<(u32, u32, &str)> {
    let (name, number) = file.target.to_str()?.split_once(':')?;
    let known = number.starts_with('[').then(|| flag(name)).flatten()?;
    Some((known, own_number(name)?, name))
}
