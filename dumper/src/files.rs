//! Open files of every kind: what to capture of them and how to write it.
