//! Restores the checkpoint in a directory: `restore DIR [--shell-job] [--stop] [--sibling]`.
use stasis_restorer::{
    AfterRestore, Connections, Parent, RestoreOptions, Trust, Validation, restore,
};

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let options = RestoreOptions {
        after: if has("--stop") { AfterRestore::Stop } else { AfterRestore::Resume },
        shell_job: has("--shell-job"),
        external_unix: false,
        root: None,
        mounts: stasis_restorer::MountOptions::default(),
        until_told: false,
        parent: if has("--sibling") { Parent::CallersParent } else { Parent::Caller },
        records: None,
        labels: Default::default(),
        undo: "/run/stasis/undo".into(),
        cgroups: Default::default(),
        cgroup_roots: Vec::new(),
        cgroup_yard: None,
        trust: Trust::Files,
        validation: Validation::Contents,
        any_permissions: false,
        file_locks: true,
        allow_uprobes: false,
        connections: Connections::default(),
        inherited: Vec::new(),
        networks: Default::default(),
        joined: Default::default(),
        on_behalf_of: None,
    };
    let mut error: Option<Box<dyn std::error::Error>> = None;
    let directory = arguments.get(1).cloned().unwrap_or_default();
    let restored = images::Images::open(directory.as_ref())
        .map_err(stasis_restorer::Error::from)
        .and_then(|images| restore(&options, &images, &mut hooks::Nobody, &mut images::Quiet));
    match restored {
        Ok(report) => tell(&format!("{report:?}")),
        Err(failure) => error = Some(Box::new(failure)),
    }
    let Some(error) = error else { return std::process::ExitCode::SUCCESS };
    let mut cause: Option<&dyn std::error::Error> = Some(&*error);
    while let Some(error) = cause {
        tell(&error.to_string());
        cause = error.source();
    }
    std::process::ExitCode::FAILURE
}

#[allow(clippy::print_stderr, reason = "an example speaks to a person")]
fn tell(text: &str) {
    eprintln!("{text}");
}
