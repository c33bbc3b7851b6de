//! What a request's options say, as words of a command line: so there is one place that knows what an option
//! means, and one that refuses what is not carried, by name.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use ids::HostPid;

use super::connection::Connection;
use super::messages::Fields;
use crate::Error;
use crate::command::Command;
use crate::configuration::{self, ConfigurationError};
use crate::options::{Options, UsageError};
use crate::reading::Reading;

/// The log of a request that names none.
const LOG: &str = "criu.log";

/// The kinds of namespaces that a container may leave empty (`CLONE_NEWNET`).
const EMPTY_NETWORK: u32 = 0x4000_0000;

/// By whom a worker was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// By its client.
    Client,
    /// By a service, for a client that is no relation of it.
    Service,
}

/// Why options cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FieldsError {
    /// A directory or descriptor is not there.
    #[error("{what} (descriptor {number} of the client): {source}")]
    Descriptor { what: &'static str, number: i32, source: io::Error },
    /// They contradict each other, or the request.
    #[error("{0}")]
    Usage(&'static str),
    /// A number stands for nothing.
    #[error("invalid value for {field}: {value}")]
    Value { field: &'static str, value: u32 },
    #[error(transparent)]
    Option(#[from] UsageError),
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
}

/// The words of a command line that are gathered.
#[derive(Debug, Default)]
struct Words(Vec<OsString>);

impl Words {
    /// An option that may also be taken back.
    fn switch(&mut self, name: &str, on: Option<bool>) {
        match on {
            Some(true) => self.plain(name, on),
            Some(false) => self.0.push(format!("--no-{name}").into()),
            None => {}
        }
    }

    /// An option that is there or not.
    fn plain(&mut self, name: &str, on: Option<bool>) {
        if on == Some(true) {
            self.0.push(format!("--{name}").into());
        }
    }

    fn value(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let mut word = format!("--{name}=").into_bytes();
        word.extend(value.as_ref());
        self.0.push(OsString::from_vec(word));
    }

    fn values<V: AsRef<[u8]>>(&mut self, name: &str, values: impl IntoIterator<Item = V>) {
        for value in values {
            self.value(name, value);
        }
    }
}

/// The options of a request: those that were read before it, then its own, then those of the file that it names.
pub(crate) fn options(
    base: &Reading,
    fields: &Fields,
    command: Command,
    connection: &Connection,
    origin: Origin,
) -> Result<Options, FieldsError> {
    let mut reading = base.clone();
    let mut words = Words::default();
    log(&mut words, fields, &mut reading.options)?;
    directories(&mut words, fields, connection)?;
    if command != Command::Check {
        check(fields, connection, origin)?;
        switches(&mut words, fields, command);
        lists(&mut words, fields);
        modes(&mut words, fields)?;
        page_server(&mut words, fields, command);
        tree(&mut words, fields, command, connection)?;
    }
    let Words(mut words) = words;
    if let Some(file) = &fields.config_file {
        words.extend(configuration::read(OsStr::from_bytes(file).as_ref())?);
    }
    reading.read(words)?;
    reading.options.client = connection.inode();
    reading.options.gives_masters = fields.orphan_pts_master == Some(true);
    reading.options.exec = fields.exec_cmd.iter().cloned().map(OsString::from_vec).collect();
    Ok(reading.options_for(command))
}

fn log(words: &mut Words, fields: &Fields, before: &mut Options) -> Result<(), FieldsError> {
    let to_stderr = fields.log_to_stderr == Some(true);
    words.value("verbosity", fields.log_level.unwrap_or(2).max(0).to_string());
    match &fields.log_file {
        Some(name) if name.contains(&b'/') => {
            return Err(FieldsError::Usage("No subdirs are allowed in log_file name"));
        }
        Some(name) => words.value("log-file", name),
        None if to_stderr => before.log_file = None,
        None if before.log_file.is_none() => words.value("log-file", LOG),
        None => {}
    }
    Ok(())
}

fn directories(
    words: &mut Words,
    fields: &Fields,
    connection: &Connection,
) -> Result<(), FieldsError> {
    let directory = |what, number| {
        let found: io::Result<PathBuf> = connection.directory(number);
        found.map_err(|source| FieldsError::Descriptor { what, number, source })
    };
    match (fields.images_dir_fd, &fields.images_dir) {
        (-1, None) => {}
        (-1, Some(path)) => {
            let path = connection.began_in().join(OsStr::from_bytes(path));
            words.value("images-dir", path.as_os_str().as_bytes());
        }
        (number, _) => {
            let path = directory("open the images directory", number)?;
            words.value("images-dir", path.as_os_str().as_bytes());
        }
    }
    if let Some(number) = fields.work_dir_fd {
        let path = directory("open the work directory", number)?;
        words.value("work-dir", path.as_os_str().as_bytes());
    }
    Ok(())
}

/// What cannot be so.
fn check(fields: &Fields, connection: &Connection, origin: Origin) -> Result<(), FieldsError> {
    if origin == Origin::Service {
        let socket = fields.ps.as_ref().and_then(|server| server.descriptor);
        let alone = [
            (fields.rst_sibling.is_some(), "rst_sibling is not allowed in standalone service"),
            (!fields.inherit_fd.is_empty(), "inherit_fd is not allowed in standalone service"),
            (socket.is_some(), "ps.fd is not allowed in standalone service"),
        ];
        if let Some((_, what)) = alone.into_iter().find(|(given, _)| *given) {
            return Err(FieldsError::Usage(what));
        }
    }
    let failed = |what, number| move |source| FieldsError::Descriptor { what, number, source };
    if let Some(number) = fields.status_fd {
        let what = "open the status descriptor";
        // A page server says by it that it is ready; nothing else gets there.
        connection
            .descriptor(number)
            .and_then(|path| std::fs::File::options().write(true).open(path))
            .map_err(failed(what, number))?;
    }
    if let Some(number) = fields.pidfd_store_sk {
        let what = "look at the socket for pidfds";
        // Nothing is kept in it: whether a number is another process's by now, the images tell.
        connection
            .descriptor(number)
            .and_then(|path| std::fs::metadata(path).map(drop))
            .map_err(failed(what, number))?;
    }
    Ok(())
}

fn switches(words: &mut Words, fields: &Fields, command: Command) {
    // Who restores for others never waits for the tree.
    let detached = (command == Command::Restore).then_some(true);
    // Engines say it in every message.
    let evasive = fields.evasive_devices.filter(|_| command != Command::Restore);
    for (name, on) in [
        ("tcp-established", fields.tcp_established),
        ("skip-in-flight", fields.tcp_skip_in_flight),
        ("tcp-close", fields.tcp_close),
        ("weak-sysctls", fields.weak_sysctls),
        ("evasive-devices", evasive),
        ("shell-job", fields.shell_job),
        ("skip-file-rwx-check", fields.skip_file_rwx_check),
        ("file-locks", fields.file_locks),
        ("track-mem", fields.track_mem),
        ("link-remap", fields.link_remap),
        ("auto-dedup", fields.auto_dedup),
        ("force-irmap", fields.force_irmap),
        ("unprivileged", fields.unprivileged),
        ("mntns-compat-mode", fields.mntns_compat_mode),
        ("display-stats", fields.display_stats),
        ("tls", fields.tls),
        ("restore-sibling", fields.rst_sibling),
        ("restore-detached", detached),
    ] {
        words.switch(name, on);
    }
    for (name, on) in [
        ("leave-running", fields.leave_running),
        ("leave-stopped", fields.leave_stopped),
        ("ext-unix-sk", fields.ext_unix_sk),
        ("lazy-pages", fields.lazy_pages),
        ("enable-external-sharing", fields.ext_sharing),
        ("enable-external-masters", fields.ext_masters),
        ("tls-no-cn-verify", fields.tls_no_cn_verify),
    ] {
        words.plain(name, on);
    }
}

fn lists(words: &mut Words, fields: &Fields) {
    let pair = |one: &[u8], between: &str, other: &[u8]| [one, between.as_bytes(), other].concat();
    words.values("skip-mnt", &fields.skip_mnt);
    words.values("enable-fs", &fields.enable_fs);
    words.values("external", &fields.external);
    words.values("irmap-scan-path", &fields.irmap_scan_paths);
    words.values("cgroup-dump-controller", &fields.cgroup_dump_controller);
    words.values("external", fields.unix_sk_ino.iter().map(|it| format!("unix[{}]", it.inode)));
    words.values("veth-pair", fields.veths.iter().map(|it| pair(&it.inside, "=", &it.outside)));
    words.values("ext-mount-map", fields.ext_mnt.iter().map(|it| pair(&it.key, ":", &it.value)));
    let inherited = |it: &super::messages::InheritedDescriptor| {
        pair(format!("fd[{}]", it.number).as_bytes(), ":", &it.key)
    };
    words.values("inherit-fd", fields.inherit_fd.iter().map(inherited));
    for namespace in &fields.join_ns {
        let mut value = pair(&namespace.kind, ":", &namespace.file);
        if let Some(extra) = &namespace.extra {
            value = pair(&value, ",", extra);
        }
        words.value("join-ns", value);
    }
    for root in &fields.cg_root {
        words.value(
            "cgroup-root",
            match &root.controller {
                Some(controller) => pair(controller, ":", &root.path),
                None => root.path.clone(),
            },
        );
    }
    for (name, value) in [
        ("root", &fields.root),
        ("prev-images-dir", &fields.parent_img),
        ("freeze-cgroup", &fields.freeze_cgroup),
        ("lsm-profile", &fields.lsm_profile),
        ("lsm-mount-context", &fields.lsm_mount_context),
        ("cgroup-props", &fields.cgroup_props),
        ("cgroup-props-file", &fields.cgroup_props_file),
        ("cgroup-yard", &fields.cgroup_yard),
        ("tls-cacert", &fields.tls_cacert),
        ("tls-cacrl", &fields.tls_cacrl),
        ("tls-cert", &fields.tls_cert),
        ("tls-key", &fields.tls_key),
    ] {
        words.values(name, value);
    }
}

/// Numbers that stand for words.
fn modes(words: &mut Words, fields: &Fields) -> Result<(), FieldsError> {
    let named = |field, value: i32, names: &[&'static str]| {
        let name = usize::try_from(value).ok().and_then(|value| names.get(value).copied());
        let name = name.filter(|name| !name.is_empty());
        name.ok_or(FieldsError::Value { field, value: value.cast_unsigned() })
    };
    if let Some(mode) = fields.pre_dump_mode {
        words.value("pre-dump-mode", named("pre_dump_mode", mode, &["", "splice", "read"])?);
    }
    if let Some(method) = fields.network_lock {
        let methods = ["", "iptables", "nftables", "skip"];
        words.value("network-lock", named("network_lock", method, &methods)?);
    }
    if let Some(on) = fields.manage_cgroups {
        words.value("manage-cgroups", if on { "soft" } else { "ignore" });
    }
    if let Some(mode) = fields.manage_cgroups_mode {
        let modes = ["ignore", "none", "props", "soft", "full", "strict", "soft"];
        words.value("manage-cgroups", named("manage_cgroups_mode", mode, &modes)?);
    }
    if let Some(limit) = fields.ghost_limit {
        words.value("ghost-limit", limit.to_string());
    }
    if let Some(seconds) = fields.timeout {
        words.value("timeout", seconds.to_string());
    }
    if let Some(checked) = fields.cpu_cap {
        words.value("cpu-cap", checked.to_string());
    }
    words.plain("ext-mount-map=auto", fields.auto_ext_mnt);
    match fields.empty_ns {
        None | Some(0) => {}
        Some(EMPTY_NETWORK) => words.value("empty-ns", "net"),
        Some(value) => return Err(FieldsError::Value { field: "empty_ns", value }),
    }
    Ok(())
}

/// Which page server to send to, or where one is to listen.
fn page_server(words: &mut Words, fields: &Fields, command: Command) {
    let Some(server) = &fields.ps else { return };
    let is_dump = matches!(command, Command::Dump | Command::PreDump);
    if !(is_dump || command == Command::PageServer) || fields.lazy_pages == Some(true) {
        return;
    }
    words.plain("page-server", Some(is_dump));
    words.values("address", &server.address);
    words.values("port", server.port.map(|port| port.to_string()));
    words.values("ps-socket", server.descriptor.map(|number| number.to_string()));
}

/// Goes into the directory to work in.
pub(super) fn work_in(options: &Options) -> Result<(), Error> {
    let work = options.work_dir.as_ref().or(options.images_dir.as_ref());
    let Some(work) = work else { return Ok(()) };
    std::env::set_current_dir(work).map_err(|source| Error::Directory {
        what: "Can't change directory to",
        path: work.clone(),
        source,
    })
}

/// Which tree: a dump that names none is of the client itself.
fn tree(
    words: &mut Words,
    fields: &Fields,
    command: Command,
    connection: &Connection,
) -> Result<(), FieldsError> {
    if matches!(command, Command::Dump | Command::PreDump) {
        let pid = fields.pid.or_else(|| connection.peer().pid.map(HostPid::get));
        let pid = pid.ok_or(FieldsError::Usage("pid not specified"))?;
        words.value("tree", pid.to_string());
    }
    Ok(())
}
