//! Rights: why stasis may not look into a process.

use crate::unsupported::Refusal;

/// Capabilities, by their names, that stasis lacks.
#[must_use]
pub fn without(names: &str) -> Refusal {
    Refusal::new(
        format!("stasis runs without {names}"),
        format!(
            "run it as root, where root has {names} (in a container it may not: run it outside)"
        ),
    )
}

/// A machine on which nobody may trace a process.
pub const CLOSED: Refusal = Refusal::fixed(
    "kernel.yama.ptrace_scope is 3: nobody may trace a process",
    "it cannot be lowered before the next start of the machine: echo kernel.yama.ptrace_scope=1 > \
     /etc/sysctl.d/99-ptrace.conf, and reboot",
);

/// A process in a user namespace beside that of stasis, or around it.
pub const OTHER_USER_NAMESPACE: Refusal = Refusal::fixed(
    "the process is in a user namespace in which stasis has no rights",
    "run stasis in the user namespace of the process, or in one around it",
);

/// Capabilities, by their names, that the process has and stasis does not.
#[must_use]
pub fn beyond(names: &str) -> Refusal {
    Refusal::new(
        format!("the process may do what stasis may not ({names})"),
        format!(
            "run stasis where root has {names}: outside of the container or sandbox that it is in"
        ),
    )
}

/// A process that the kernel's own rules would let stasis look into.
pub const CONFINED: Refusal = Refusal::fixed(
    "stasis has the capabilities for it, so a security module (SELinux, AppArmor) or a sandbox forbids it",
    "allow it there, or run stasis outside of what confines it",
);
