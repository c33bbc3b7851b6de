//! Small programs that end-to-end tests checkpoint: `stasis-workload FAMILY DIR`.
//!
//! Each sets up one family of kernel state, writes `DIR/ready`, waits for `DIR/go`, then checks
//! all of its state itself and writes `DIR/result`: `PASS`, or `FAIL` and what differs. It cannot
//! tell whether it was checkpointed between: run natively it must pass as well.
#![allow(
    unsafe_code,
    reason = "the state to be carried is made by the system calls that make it, not by wrappers"
)]

mod aio;
mod beyond_criu;
mod bpfmap;
mod busy;
mod cgroup_namespaces;
mod changing_files;
mod churn;
mod cramped;
mod credentials;
mod datagrams;
mod dirty;
mod eventfds;
mod fanotify;
mod faulting;
mod files;
mod forked;
mod ghosts;
mod guards;
mod held;
mod huge_pages;
mod identity;
mod in_flight;
mod inet;
mod init;
mod inotify;
mod io_uring;
mod jail;
mod link_remaps;
mod locks;
mod many;
mod mappings;
mod memfd;
mod memory;
mod mounting;
mod mounts;
mod mounts_deleted;
mod mounts_nested_proc;
mod mqueue;
mod mqueue_messages;
mod multicast;
mod nameless;
mod namespaces;
mod nested_pids;
mod nested_users;
mod netlink;
mod networks;
mod outside;
mod own_client;
mod packet;
mod pidfd;
mod pipes;
mod proc_files;
mod ptys;
mod pulse;
mod registers;
mod restartable;
mod seccomp;
mod semaphore_undo;
mod sessions;
mod settings;
mod shared;
mod shared_memory;
mod shared_tables;
mod signals;
mod socket_filters;
mod socket_options;
mod sockets;
mod spawning;
mod stage;
mod still;
mod stops;
mod sysv;
mod tcp;
mod terminal;
mod threads;
mod timers;
mod tracked;
mod tree;
mod tun;
mod unix_sockets;
mod unsupported;
mod unsupported_files;
mod userfaults;
mod users;
mod waits;
mod woken;

use std::process::ExitCode;

use stage::{Outcome, Stage};

type Family = fn(&Stage) -> Outcome;

const FAMILIES: &[(&str, Family)] = &[
    ("aio", aio::run),
    ("aio_plain", aio::plain),
    ("io_uring", io_uring::run),
    ("io_uring_shared", io_uring::shared),
    ("beyond_criu", beyond_criu::run),
    ("bpfmap", bpfmap::run),
    ("busy", busy::run),
    ("stops", stops::run),
    ("changing_files", changing_files::run),
    ("changing_files_kinds", changing_files::kinds),
    ("churn", churn::run),
    ("cramped", cramped::run),
    ("credentials", credentials::run),
    ("datagrams_bound", datagrams::bound),
    ("datagrams_waiting", datagrams::waiting),
    ("dirty", dirty::run),
    ("eventfds", eventfds::run),
    ("fanotify", fanotify::run),
    ("faulting", faulting::run),
    ("files", files::run),
    ("forked", forked::run),
    ("forked_deep", forked::deep),
    ("ghosts", ghosts::run),
    ("ghosts_read_only", mounts::read_only::ghosts_read_only),
    ("ghosts_unbindable", mounts::read_only::ghosts_unbindable),
    ("guards", guards::run),
    ("held", held::run),
    ("huge_pages", huge_pages::run),
    ("huge_pages_memfd", huge_pages::memfd),
    ("huge_pages_sysv", huge_pages::sysv),
    ("identity", identity::run),
    ("in_flight", in_flight::run),
    ("in_flight_credentials", in_flight::credentials),
    ("in_flight_plain", in_flight::plain),
    ("inet", inet::run),
    ("init", init::run),
    ("init_clocks", init::clocks),
    ("init_proc_groups", mounts::init_proc_groups),
    ("inotify", inotify::run),
    ("inotify_lost", inotify::lost),
    ("jail", jail::run),
    ("link_remaps", link_remaps::run),
    ("link_remaps_beyond_criu", link_remaps::beyond_criu),
    ("link_remaps_closed", link_remaps::closed),
    ("locks", locks::run),
    ("locks_elsewhere", locks::elsewhere),
    ("locks_breaking", locks::breaking),
    ("locks_deleted_lease", locks::deleted_lease),
    ("locks_of_mapping", locks::of_mapping),
    ("locks_of_mapping_alone", locks::of_mapping_alone),
    ("locks_of_mapping_by_range", locks::of_mapping_by_range),
    ("locks_one", locks::one),
    ("locks_plain", locks::plain),
    ("many_connections", many::connections::run),
    ("many_files", many::files::run),
    ("many_mappings", many::mappings::run),
    ("many_memfds", many::memfds::run),
    ("many_processes", many::processes::run),
    ("many_terminals", many::terminals::run),
    ("many_threads", many::threads::run),
    ("mappings", mappings::run),
    ("mappings_keys", mappings::keys),
    ("mappings_rare", mappings::rare),
    ("mappings_rearranged", mappings::rearranged),
    ("memfd", memfd::run),
    ("memfd_attributes", memfd::attributes),
    ("memfd_memory", memfd::memory),
    ("memfd_memory_plain", memfd::memory_plain),
    ("memfd_never_run", memfd::never_run),
    ("memfd_program", memfd::program),
    ("memfd_sealed", memfd::sealed),
    ("memory", memory::run),
    ("mounts", mounts::run),
    ("mounts_deleted", mounts_deleted::deleted),
    ("mounts_deleted_inside", mounts_deleted::deleted_inside),
    ("mounts_deleted_open", mounts_deleted::deleted_open),
    ("mounts_deleted_open_inside", mounts_deleted::deleted_open_inside),
    ("mounts_inside", mounts::inside),
    ("mounts_links", mounts::links),
    ("mounts_links_inside", link_remaps::in_mounts),
    ("mounts_nested", mounts::nested),
    ("mounts_nested_inside", mounts::nested_inside),
    ("mounts_nested_proc", mounts_nested_proc::nested_proc),
    ("mounts_nested_proc_inside", mounts_nested_proc::nested_proc_inside),
    ("mounts_nested_proc_shared", mounts_nested_proc::nested_proc_shared),
    ("mounts_nested_proc_shared_inside", mounts_nested_proc::nested_proc_shared_inside),
    ("mounts_nested_proc_of_init", mounts_nested_proc::nested_proc_of_init),
    ("mounts_nested_proc_of_init_inside", mounts_nested_proc::nested_proc_of_init_inside),
    ("mounts_of_init", mounts::of_init),
    ("mounts_of_init_inside", mounts::of_init_inside),
    ("mqueue", mqueue::run),
    ("mqueue_messages", mqueue_messages::nameless),
    ("mqueue_mounted_before", mqueue_messages::mounted_before),
    ("mqueue_mounted_before_inside", mqueue_messages::mounted_before_inside),
    ("mqueue_mounted", mqueue_messages::mounted),
    ("mqueue_mounted_inside", mqueue_messages::mounted_inside),
    ("mqueue_namespace", mqueue_messages::namespace),
    ("mqueue_namespace_empty", mqueue_messages::namespace_empty),
    ("multicast", multicast::run),
    ("nameless", nameless::run),
    ("nested_pids", nested_pids::run),
    ("nested_pids_refused", nested_pids::refused),
    ("nested_users", nested_users::run),
    ("nested_users_refused", nested_users::refused),
    ("netlink", netlink::run),
    ("netlink_groups", netlink::groups),
    ("own_client", own_client::run),
    ("packet", packet::run),
    ("packet_beyond_criu", packet::beyond_criu),
    ("packet_old", packet::old),
    ("packet_rings", packet::rings),
    ("pidfd", pidfd::run),
    ("ping", datagrams::ping),
    ("pidfd_changing", pidfd::changing),
    ("nameless_peers", nameless::peers),
    ("never_linked", nameless::never_linked),
    ("pipes", pipes::run),
    ("pipes_packets", pipes::packets),
    ("proc_files", proc_files::run),
    ("proc_groups_inside", mounts::proc_groups),
    ("proc_files_dead", proc_files::dead),
    ("ptys", ptys::run),
    ("ptys_plain", ptys::plain),
    ("ptys_plain_waiting", ptys::plain_waiting),
    ("ptys_waiting", ptys::waiting),
    ("pulse", pulse::run),
    ("raw_sockets", datagrams::raw),
    ("registers", registers::run),
    ("restartable", restartable::run),
    ("shared-deleted", shared::deleted),
    ("shared-epoll", shared::epoll),
    ("shared-eventfd", shared::eventfd),
    ("shared-fifo", shared::fifo),
    ("shared-job_server", shared::job_server),
    ("shared-log", shared::log),
    ("shared-memfd", shared::memfd),
    ("shared-memfd_sealed", shared::memfd_sealed),
    ("shared-memfd_mapping", shared::memfd_mapping),
    ("shared-system_v", shared::system_v),
    ("shared-memory", shared::memory),
    ("shared-pipe", shared::pipe),
    ("shared-socket", shared::socket),
    ("shared-table-descriptors", shared::descriptor_table),
    ("shared-table-directories", shared::directories),
    ("shared-table-memory", shared::address_space),
    ("shared-timerfd", shared::timerfd),
    ("shared_memory", shared_memory::run),
    ("shared_memory_inside", shared_memory::inside),
    ("shared_memory_beside", shared_memory::beside),
    ("shared_tables", shared_tables::run),
    ("shared_tables_apart", shared_tables::apart),
    ("cgroup_namespaces", cgroup_namespaces::together),
    ("cgroup_namespaces_apart", cgroup_namespaces::apart),
    ("namespaces", namespaces::together),
    ("namespaces_apart", namespaces::apart),
    ("networks", networks::one),
    ("networks_beyond_criu", networks::more),
    ("networks_several", networks::several),
    ("networks_socket", networks::socket),
    ("seccomp", seccomp::run),
    ("seccomp_together", seccomp::together),
    ("seccomp_supervised", seccomp::supervised),
    ("settings", settings::run),
    ("outside_datagrams", outside::datagrams),
    ("outside_stream", outside::stream),
    ("outside_client", outside::client),
    ("settings_deadline", settings::deadline),
    ("settings_unseen", settings::unseen),
    ("signals", signals::run),
    ("socket_filters", socket_filters::run),
    ("socket_filters_locked", socket_filters::locked),
    ("socket_options", socket_options::run),
    ("socket_hidden", mounts::hidden::socket_hidden),
    ("socket_read_only", mounts::read_only::socket_read_only),
    ("socket_options_hidden", socket_options::hidden),
    ("unsupported-flow_lease", socket_options::flow_lease),
    ("spawning", spawning::run),
    ("still", still::run),
    ("semaphore_undo", semaphore_undo::run),
    ("semaphore_undo_namespace", semaphore_undo::in_namespace),
    ("sysv_memory", sysv::memory),
    ("sysv_namespace", sysv::namespace),
    ("sysv_namespace_plain", sysv::namespace_plain),
    ("tcp", tcp::both),
    ("tcp_closed", tcp::closed),
    ("tcp_in_flight", tcp::in_flight),
    ("tcp_outside", tcp::outside),
    ("tcp_plain", tcp::plain),
    ("tcp_reset", tcp::reset),
    ("terminal", terminal::run),
    ("threads", threads::run),
    ("timers", timers::run),
    ("sessions", sessions::run),
    ("tracked", tracked::all),
    ("tree", tree::run),
    ("tun", tun::run_all),
    ("tun_outside", tun::outside),
    ("tun_plain", tun::run_plain),
    ("udplite", datagrams::udplite),
    ("unix_sockets", unix_sockets::run),
    ("unix_sockets_of_user", unix_sockets::of_user),
    ("unnamed", nameless::unnamed),
    ("unsupported-aio_inherited", aio::inherited),
    ("unsupported-aio_overwritten", aio::overwritten),
    ("unsupported-aio_waiting", aio::waiting),
    ("unsupported-dnotify", unsupported::dnotify),
    ("unsupported-flow_label", unsupported::flow_label),
    ("unsupported-inotify", unsupported::inotify),
    ("unsupported-io_uring_waiting", io_uring::waiting),
    ("unsupported-io_uring_accepting", io_uring::accepting),
    ("unsupported-io_uring_timeout", io_uring::timeout),
    ("unsupported-io_uring_overflow", io_uring::overflow),
    ("unsupported-io_uring_buffers", io_uring::buffers),
    ("unsupported-io_uring_polled", io_uring::polled),
    ("unsupported-io_uring_numbered", io_uring::numbered),
    ("unsupported-io_uring_held_elsewhere", io_uring::held_elsewhere),
    ("unsupported-io_uring_closed_file", io_uring::closed_file),
    ("unsupported-lost_name", unsupported::lost_name),
    ("unsupported-keyring", unsupported::keyring),
    ("unsupported-landlock", unsupported::landlock),
    ("unsupported-message_queue", unsupported::message_queue),
    ("unsupported-message_queue_notified", mqueue_messages::notified),
    ("unsupported-secret_memory", unsupported::secret_memory),
    ("unsupported-bpfmap_twice", bpfmap::twice),
    ("unsupported-bpfmap_mapped", bpfmap::mapped),
    ("unsupported-bpfmap_large", bpfmap::large),
    ("unsupported-bpfmap_other", bpfmap::other),
    ("unsupported-semaphores_apart", semaphore_undo::apart),
    ("unsupported-semaphores_many", semaphore_undo::many),
    ("unsupported-semaphores_no_rights_there", semaphore_undo::no_rights_there),
    ("unsupported-semaphores_no_rights", semaphore_undo::no_rights),
    ("unsupported-memory_apart", shared_memory::apart),
    ("unsupported-memory_elsewhere", shared_memory::elsewhere),
    ("unsupported-semaphores_shared", semaphore_undo::shared),
    ("unsupported-system_calls", unsupported::system_calls),
    ("unsupported-thread_keyring", unsupported::thread_keyring),
    ("unsupported-ebpf_filter", socket_filters::of_ebpf),
    ("unsupported-held_back", datagrams::held_back),
    ("unsupported-other_sockets", datagrams::of_others),
    ("unsupported-netlink", netlink::waiting),
    ("unsupported-packet_copied", packet::copied),
    ("unsupported-packet_ring", packet::used_ring),
    ("unsupported-segments", unsupported::segments),
    ("unsupported-packet_fifo", unsupported::packet_fifo),
    ("unsupported-proc_thread", unsupported::proc_thread),
    ("unsupported-multicast_interface", unsupported::multicast_interface),
    ("unsupported-signed_tcp", unsupported::signed_tcp),
    ("unsupported-tcp", unsupported::tcp),
    ("unsupported-foreign_thread", unsupported::foreign_thread),
    ("unsupported-watched_twice", unsupported::watched_twice),
    ("unsupported-thread_owner", unsupported::thread_owner),
    ("unsupported-socket_path", unsupported::socket_path),
    ("unsupported-empty_message", unsupported::empty_message),
    ("unsupported-exit_signal", unsupported::exit_signal),
    ("unsupported-numa_policy", unsupported::numa_policy),
    ("unsupported-tracing", unsupported::tracing),
    ("unsupported-socket_error", unsupported::socket_error),
    ("unsupported-urgent_tcp", tcp::urgent),
    ("unsupported-urgent_byte", unsupported::urgent_byte),
    ("unsupported-unchangeable", memfd::unchangeable),
    ("unsupported-write_error", unsupported_files::write_error),
    ("unsupported-userfaults_of_shared", userfaults::of_shared),
    ("unsupported-userfaults_protecting", userfaults::protecting),
    ("unsupported-userfaults_shared", userfaults::shared),
    ("userfaults", userfaults::missing),
    ("userfaults_stack", userfaults::stack),
    ("userfaults_unread", userfaults::unread),
    ("users_all", users::all),
    ("users_alone", users::alone),
    ("users_covered", users::covered),
    ("users_covered_inside", users::covered_inside),
    ("users_denied", users::denied),
    ("users_mounts", users::mounts),
    ("users_nested", users::nested),
    ("users_without_pids", users::without_pids),
    ("waits", waits::run),
    ("woken", woken::run),
];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(dir)) = (args.next(), args.next()) else {
        return usage();
    };
    let Some((_, family)) = FAMILIES.iter().find(|(known, _)| *known == name) else {
        return usage();
    };
    let stage = Stage::new(dir.into());
    let outcome = family(&stage);
    stage.report(&outcome);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[allow(clippy::print_stderr, reason = "this is what a person reads")]
fn usage() -> ExitCode {
    let names: Vec<_> = FAMILIES.iter().map(|(name, _)| *name).collect();
    eprintln!("usage: stasis-workload FAMILY DIR\nfamilies: {}", names.join(" "));
    ExitCode::from(2)
}
