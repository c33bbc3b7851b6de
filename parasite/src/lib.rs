//! The position-independent blobs and the structs they share with the host.
