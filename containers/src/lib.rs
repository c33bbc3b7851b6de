//! Containers by name: which there are, and a checkpoint of one through its engine.
//!
//! An engine has to know what becomes of its container: it thinks that one has crashed which somebody else
//! ends. So a checkpoint is made by the engine's own command, and stasis is what that calls as `criu`. runc, crun
//! and Podman call the first one on PATH, which is ours for them ([`own_criu`]); the daemons of Docker and containerd
//! have a PATH of their own, and a container of theirs is refused where that leads to another one.
//!
//! | module | |
//! |---|---|
//! | [`container`] | what is known of one |
//! | [`oci`], [`podman`], [`docker`] | what engines say of theirs, parsed |
//! | [`choose`] | one list of what several engines say, and one container of it by name |
//! | [`words`] | the words of the engine's command |
//! | [`places`] | where engines keep their state, and whether that can be believed |
//! | [`own_criu`] | the `criu` that engines are to find, and the one that daemons would find |
//! | [`shim`] | what containerd's shim says of the runc that it has a container run by |
//! | [`run`] | runs a command to its end |
//! | [`ask`] | asks the engines that are there |
//! | [`checkpoint`] | has an engine checkpoint one |
//!
//! Names, ids and states are the engines' word: they are compared, passed as single words behind `--`, and never
//! become part of a path or of a shell's line. What an engine lists is believed as far as the state directory that
//! it lists is root's.

mod ask;
mod checkpoint;
mod choose;
mod container;
mod docker;
mod error;
mod oci;
mod own_criu;
mod places;
mod podman;
mod run;
mod shim;
mod words;

pub use ask::{Listing, list};
pub use checkpoint::{checkpoint, try_out};
pub use container::Container;
pub use error::Error;
pub use places::Places;
pub use words::Asked;
