//! Open files of every kind: opened once, handed to each task that shares them.
