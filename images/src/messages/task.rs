//! Who the tasks are: the process tree, the kernel objects they share, their root and their
//! credentials.

use prost::Message;

use super::owned::{Id, Owned};

/// A process. `pstree.img` lists parents before children; the first is the root of the tree.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PstreeEntry {
    /// Its number.
    #[prost(uint32, required, tag = "1")]
    pub pid: u32,
    /// Its parent's number; 0 for the root.
    #[prost(uint32, required, tag = "2")]
    pub ppid: u32,
    /// Its process group.
    #[prost(uint32, required, tag = "3")]
    pub pgid: u32,
    /// Its session.
    #[prost(uint32, required, tag = "4")]
    pub sid: u32,
    /// Its threads, the leader first. Rubbish for a zombie.
    #[prost(uint32, repeated, packed = "false", tag = "5")]
    pub threads: Vec<u32>,
}

/// Which kernel objects a task uses: equal numbers are the same object. The numbers mean
/// nothing outside the checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct TaskKobjIdsEntry {
    /// Address space.
    #[prost(uint32, required, tag = "1")]
    pub vm_id: u32,
    /// Descriptor table: `fdinfo-ID.img`.
    #[prost(uint32, required, tag = "2")]
    pub files_id: u32,
    /// Root, working directory and umask.
    #[prost(uint32, required, tag = "3")]
    pub fs_id: u32,
    /// Signal handlers.
    #[prost(uint32, required, tag = "4")]
    pub sighand_id: u32,
    /// Pid namespace.
    #[prost(uint32, optional, tag = "5")]
    pub pid_ns_id: Option<u32>,
    /// Network namespace.
    #[prost(uint32, optional, tag = "6")]
    pub net_ns_id: Option<u32>,
    /// IPC namespace.
    #[prost(uint32, optional, tag = "7")]
    pub ipc_ns_id: Option<u32>,
    /// UTS namespace.
    #[prost(uint32, optional, tag = "8")]
    pub uts_ns_id: Option<u32>,
    /// Mount namespace.
    #[prost(uint32, optional, tag = "9")]
    pub mnt_ns_id: Option<u32>,
    /// User namespace.
    #[prost(uint32, optional, tag = "10")]
    pub user_ns_id: Option<u32>,
    /// Cgroup namespace.
    #[prost(uint32, optional, tag = "11")]
    pub cgroup_ns_id: Option<u32>,
    /// Time namespace.
    #[prost(uint32, optional, tag = "12")]
    pub time_ns_id: Option<u32>,
    /// Extension: the pid namespace that its children are born into, if that is another; 0 for one that its next child makes.
    #[prost(uint32, optional, tag = "1000")]
    pub pid_for_children_ns_id: Option<u32>,
}

/// `fs-PID.img`: working directory, root and file mode mask. The ids are those of
/// [`FileEntry`](super::FileEntry).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FsEntry {
    /// File id of the working directory.
    #[prost(uint32, required, tag = "1")]
    pub cwd_id: u32,
    /// File id of the root.
    #[prost(uint32, required, tag = "2")]
    pub root_id: u32,
    /// File mode mask.
    #[prost(uint32, optional, tag = "3")]
    pub umask: Option<u32>,
}

/// Credentials of a thread. Each capability set is two words, low one first.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CredsEntry {
    /// User id.
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    /// Group id.
    #[prost(uint32, required, tag = "2")]
    pub gid: u32,
    /// Effective user id.
    #[prost(uint32, required, tag = "3")]
    pub euid: u32,
    /// Effective group id.
    #[prost(uint32, required, tag = "4")]
    pub egid: u32,
    /// Saved user id.
    #[prost(uint32, required, tag = "5")]
    pub suid: u32,
    /// Saved group id.
    #[prost(uint32, required, tag = "6")]
    pub sgid: u32,
    /// User id for files.
    #[prost(uint32, required, tag = "7")]
    pub fsuid: u32,
    /// Group id for files.
    #[prost(uint32, required, tag = "8")]
    pub fsgid: u32,
    /// Inheritable capabilities.
    #[prost(uint32, repeated, packed = "false", tag = "9")]
    pub cap_inh: Vec<u32>,
    /// Permitted capabilities.
    #[prost(uint32, repeated, packed = "false", tag = "10")]
    pub cap_prm: Vec<u32>,
    /// Effective capabilities.
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub cap_eff: Vec<u32>,
    /// Bounding set.
    #[prost(uint32, repeated, packed = "false", tag = "12")]
    pub cap_bnd: Vec<u32>,
    /// `PR_GET_SECUREBITS`.
    #[prost(uint32, required, tag = "13")]
    pub secbits: u32,
    /// Supplementary groups.
    #[prost(uint32, repeated, packed = "false", tag = "14")]
    pub groups: Vec<u32>,
    /// Label of the security module.
    #[prost(string, optional, tag = "15")]
    pub lsm_profile: Option<String>,
    /// Label for sockets it makes.
    #[prost(string, optional, tag = "16")]
    pub lsm_sockcreate: Option<String>,
    /// State of AppArmor's profile.
    #[prost(bytes = "vec", optional, tag = "17")]
    pub apparmor_data: Option<Vec<u8>>,
    /// `PR_GET_NO_NEW_PRIVS`.
    #[prost(uint32, optional, tag = "18")]
    pub no_new_privs: Option<u32>,
    /// Ambient capabilities.
    #[prost(uint32, repeated, packed = "false", tag = "19")]
    pub cap_amb: Vec<u32>,
    /// Extension: the inheritable, permitted, effective, bounding and ambient set, two words each, of who is in a user namespace below
    /// that of the tree's root. The sets above are empty then: in another namespace they would be rights that nobody had.
    #[prost(uint32, repeated, packed = "false", tag = "1000")]
    pub cap_nested: Vec<u32>,
}

impl Owned for CredsEntry {
    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        for user in [&mut self.uid, &mut self.euid, &mut self.suid, &mut self.fsuid] {
            change(Id::User, user);
        }
        let groups = [&mut self.gid, &mut self.egid, &mut self.sgid, &mut self.fsgid];
        for group in groups.into_iter().chain(&mut self.groups) {
            change(Id::Group, group);
        }
    }
}
