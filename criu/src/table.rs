//! The names, letters and kinds of all of CRIU 4.2's options, and which commands carry them out.

use crate::command::Command::{
    self, Check, CpuinfoCheck, CpuinfoDump, Dedup, Dump, PageServer, PreDump, Restore, Service,
};

/// Whether an option takes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No value.
    Plain,
    /// No value, and `--no-NAME` takes it back.
    Switch,
    /// A value, attached or as the next word.
    Required,
    /// A value only when it is attached.
    Optional,
}

/// One option of CRIU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) kind: Kind,
    /// The commands that carry it out.
    pub(crate) commands: &'static [Command],
    /// The commands that would have to, and do not: they refuse it. To any other it means nothing, which the
    /// log says.
    pub(crate) refused: &'static [Command],
}

/// An option that no command carries out: each refuses it.
const fn known(long: &'static str, short: Option<char>, kind: Kind) -> Known {
    Known { long, short, kind, commands: &[], refused: ALL }
}

const fn carried(
    long: &'static str,
    short: Option<char>,
    kind: Kind,
    commands: &'static [Command],
) -> Known {
    Known { long, short, kind, commands, refused: &[] }
}

const ALL: &[Command] =
    &[Dump, PreDump, Restore, Check, Dedup, PageServer, Service, CpuinfoDump, CpuinfoCheck];
/// What a dump would refuse, a pre-dump refuses as well: so it takes a dump's options.
const DUMPS: &[Command] = &[Dump, PreDump];
const IMAGES: &[Command] = &[Dump, PreDump, Restore];
/// Both sides of a page server.
const SERVED: &[Command] = &[Dump, PreDump, PageServer];

use Kind::{Optional, Plain, Required, Switch};

pub(crate) const OPTIONS: &[Known] = &[
    carried("action-script", None, Required, &[Dump, Restore, PageServer, Service]),
    carried("address", None, Required, &[Dump, PreDump, PageServer, Service]),
    carried("all", None, Plain, &[Check]),
    carried("allow-uprobes", None, Switch, &[Dump, PreDump, Restore]),
    carried("auto-dedup", None, Switch, &[Dump, PreDump, Restore, PageServer]),
    carried("cgroup-dump-controller", None, Required, DUMPS),
    carried("cgroup-props", None, Required, DUMPS),
    carried("cgroup-props-file", None, Required, DUMPS),
    carried("cgroup-root", None, Required, IMAGES),
    carried("cgroup-yard", None, Required, IMAGES),
    known("close", None, Required),
    carried("config", None, Required, ALL),
    carried("cpu-cap", None, Optional, &[Dump, Restore, CpuinfoDump, CpuinfoCheck]),
    carried("daemon", None, Switch, &[Restore, PageServer, Service]),
    carried("deprecated", None, Switch, ALL),
    carried("display-stats", None, Switch, IMAGES),
    carried("empty-ns", None, Required, IMAGES),
    carried("enable-external-masters", None, Plain, IMAGES),
    carried("enable-external-sharing", None, Plain, IMAGES),
    carried("enable-fs", None, Required, DUMPS),
    carried("evasive-devices", None, Switch, DUMPS),
    carried("exec-cmd", None, Plain, &[Restore]),
    carried("experimental", None, Switch, &[Check]),
    carried("ext-mount-map", Some('M'), Required, IMAGES),
    carried("ext-unix-sk", Some('x'), Optional, IMAGES),
    // External can be what `External::parse` and `Networks::take_external` know: Unix sockets, mounts, open files, terminals,
    // network and pid namespaces. Anything else is refused by name.
    carried("external", None, Required, ALL),
    carried("extra", None, Switch, &[Check]),
    carried("feature", None, Required, &[Check]),
    carried("file-locks", Some('l'), Switch, IMAGES),
    carried("file-validation", None, Required, IMAGES),
    carried("force-irmap", None, Switch, DUMPS),
    carried("freeze-cgroup", None, Required, DUMPS),
    carried("ghost-fiemap", None, Switch, DUMPS),
    carried("ghost-limit", None, Required, DUMPS),
    carried("help", Some('h'), Plain, ALL),
    carried("images-dir", Some('D'), Required, ALL),
    carried("inherit-fd", None, Required, &[Restore]),
    carried("irmap-scan-path", None, Required, DUMPS),
    carried("join-ns", Some('J'), Required, &[Restore]),
    known("lazy-pages", None, Plain),
    carried("leave-running", Some('R'), Plain, IMAGES),
    carried("leave-stopped", Some('s'), Plain, &[Dump, Restore]),
    known("libdir", Some('L'), Required),
    carried("link-remap", None, Switch, DUMPS),
    carried("log-file", Some('o'), Required, ALL),
    known("log-pid", None, Switch),
    known("lsm-mount-context", None, Required),
    known("lsm-profile", None, Required),
    carried("manage-cgroups", None, Optional, IMAGES),
    carried("mntns-compat-mode", None, Switch, &[Restore]),
    carried("ms", None, Plain, &[Check]),
    carried("network-lock", None, Required, DUMPS),
    carried("no-default-config", None, Plain, ALL),
    carried("page-server", None, Switch, DUMPS),
    carried("pidfile", None, Required, &[Restore, PageServer, Service]),
    carried("port", None, Required, SERVED),
    carried("pre-dump-mode", None, Required, &[PreDump]),
    carried("prev-images-dir", None, Required, SERVED),
    carried("ps-socket", None, Required, SERVED),
    carried("restore-detached", Some('d'), Switch, &[Restore, Service]),
    carried("restore-sibling", Some('S'), Switch, &[Restore]),
    carried("root", Some('r'), Required, IMAGES),
    carried("shell-job", Some('j'), Switch, IMAGES),
    carried("skip-file-rwx-check", None, Switch, &[Restore]),
    carried("skip-in-flight", None, Switch, DUMPS),
    carried("skip-mnt", None, Required, IMAGES),
    carried("status-fd", None, Required, &[PageServer, Service]),
    known("stream", None, Switch),
    carried("tcp-close", None, Switch, IMAGES),
    carried("tcp-established", None, Switch, IMAGES),
    carried("timeout", None, Required, DUMPS),
    known("tls", None, Switch),
    known("tls-cacert", None, Required),
    known("tls-cacrl", None, Required),
    known("tls-cert", None, Required),
    known("tls-key", None, Required),
    known("tls-no-cn-verify", None, Plain),
    carried("track-mem", None, Switch, DUMPS),
    carried("tree", Some('t'), Required, IMAGES),
    carried("unprivileged", None, Switch, ALL),
    carried("verbosity", Some('v'), Optional, ALL),
    carried("version", Some('V'), Plain, ALL),
    carried("veth-pair", None, Required, &[Restore]),
    carried("weak-sysctls", None, Switch, &[Restore]),
    carried("work-dir", Some('W'), Required, ALL),
];

/// The option of a letter.
pub(crate) fn find_short(letter: char) -> Option<&'static Known> {
    OPTIONS.iter().find(|known| known.short == Some(letter))
}

/// The option of a name or of an unambiguous beginning of one, and whether it is set or, with
/// `--no-`, taken back. The error tells whether several options begin so.
pub(crate) fn find_long(name: &str) -> Result<(&'static Known, bool), bool> {
    let negated = name.strip_prefix("no-");
    let exact = OPTIONS.iter().find_map(|known| match known.kind {
        _ if known.long == name => Some((known, true)),
        Switch if Some(known.long) == negated => Some((known, false)),
        _ => None,
    });
    if let Some(found) = exact {
        return Ok(found);
    }
    let mut begun = OPTIONS.iter().filter_map(|known| match known.kind {
        _ if known.long.starts_with(name) => Some((known, true)),
        Switch if negated.is_some_and(|name| known.long.starts_with(name)) => Some((known, false)),
        _ => None,
    });
    match (begun.next(), begun.next()) {
        (Some(found), None) => Ok(found),
        (found, _) => Err(found.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whole_and_begun() {
        let long = |name| find_long(name).map(|(known, on)| (known.long, on));
        assert_eq!(long("leave-running"), Ok(("leave-running", true)));
        assert_eq!(long("leave-r"), Ok(("leave-running", true)));
        assert_eq!(long("leave-"), Err(true));
        assert_eq!(long("tls"), Ok(("tls", true)));
        assert_eq!(long("no-shell-job"), Ok(("shell-job", false)));
        assert_eq!(long("no-tree"), Err(false));
        assert_eq!(long("bogus"), Err(false));
        assert_eq!(find_short('R').map(|known| known.long), Some("leave-running"));
        assert_eq!(find_short('Z'), None);
    }
}
