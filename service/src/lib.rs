//! The shell every service shares: a Unix socket, peer checks, health, metrics, traces.
