//! What is measured: shapes of programs, their sizes, and what is asked of them.

use clap::ValueEnum;

/// A shape of program, by the name it has on the command line, in the table and in the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Shape {
    /// A process of two threads
    Small,
    /// Regular files, pipes and Unix sockets
    Files,
    /// Mappings that cannot be joined
    Mappings,
    /// Threads that wait
    Threads,
    /// Processes that sleep
    Processes,
    /// Memory of which 100 MB/s are dirtied
    Memory,
    /// TCP connections with both ends in the program
    Connections,
    /// Pairs of pseudo-terminals
    Terminals,
    /// Files in memory
    Memfds,
}

/// A row of the table: a shape of a size, and the most that its times may be, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) shape: Shape,
    pub(crate) size: usize,
    pub(crate) frozen_goal: f64,
    /// Nothing where the goal is to be faster than CRIU.
    pub(crate) restore_goal: Option<f64>,
    /// Whether it is restored as well.
    pub(crate) restored: bool,
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "small",
        title: "one small process, 2 threads",
        shape: Shape::Small,
        size: 1,
        frozen_goal: 0.5,
        restore_goal: Some(10.0),
        restored: true,
    },
    Row {
        name: "files",
        title: "5,000 files, 1,000 pipes, 1,000 socket pairs",
        shape: Shape::Files,
        size: 5000,
        frozen_goal: 10.0,
        restore_goal: None,
        restored: true,
    },
    Row {
        name: "mappings",
        title: "20,000 mappings",
        shape: Shape::Mappings,
        size: 20_000,
        frozen_goal: 15.0,
        restore_goal: None,
        restored: true,
    },
    Row {
        name: "threads",
        title: "500 threads",
        shape: Shape::Threads,
        size: 500,
        frozen_goal: 15.0,
        restore_goal: None,
        restored: true,
    },
    Row {
        name: "processes",
        title: "100 processes",
        shape: Shape::Processes,
        size: 100,
        frozen_goal: 25.0,
        restore_goal: None,
        restored: true,
    },
    Row {
        name: "connections",
        title: "1,000 established TCP connections",
        shape: Shape::Connections,
        size: 1000,
        frozen_goal: 15.0,
        restore_goal: None,
        restored: true,
    },
    Row {
        name: "terminals",
        title: "1,000 pairs of pseudo-terminals",
        shape: Shape::Terminals,
        size: 1000,
        frozen_goal: 15.0,
        restore_goal: None,
        restored: true,
    },
    Row {
        name: "memfds",
        title: "1,000 memfds",
        shape: Shape::Memfds,
        size: 1000,
        frozen_goal: 15.0,
        restore_goal: None,
        restored: true,
    },
    Row {
        name: "gib",
        title: "1 GiB, 100 MB/s being dirtied",
        shape: Shape::Memory,
        size: 1024,
        frozen_goal: 10.0,
        restore_goal: None,
        restored: true,
    },
    Row {
        name: "four-gib",
        title: "4 GiB, 100 MB/s being dirtied",
        shape: Shape::Memory,
        size: 4096,
        frozen_goal: 12.0,
        restore_goal: None,
        restored: false,
    },
];

/// Megabytes of pages that the shape [`Shape::Memory`] touches a second.
const RATE: &str = "100";

impl Shape {
    /// Shapes that have a size to plot against.
    pub(crate) const PLOTTED: [Self; 5] =
        [Self::Files, Self::Mappings, Self::Threads, Self::Processes, Self::Memory];

    /// The program that has this shape.
    pub(crate) fn family(self) -> &'static str {
        match self {
            Self::Small => "pulse",
            Self::Files => "many_files",
            Self::Mappings => "many_mappings",
            Self::Threads => "many_threads",
            Self::Processes => "many_processes",
            Self::Memory => "dirty",
            Self::Connections => "many_connections",
            Self::Terminals => "many_terminals",
            Self::Memfds => "many_memfds",
        }
    }

    /// How the program is told its size.
    pub(crate) fn environment(self, size: usize) -> Vec<(&'static str, String)> {
        match self {
            Self::Small => Vec::new(),
            Self::Memory => vec![
                ("STASIS_WORKLOAD_MIB", size.to_string()),
                ("STASIS_WORKLOAD_RATE", RATE.to_owned()),
            ],
            _ => vec![("STASIS_WORKLOAD_COUNT", size.to_string())],
        }
    }

    /// Sizes for the plot.
    pub(crate) fn sizes(self, quick: bool) -> &'static [usize] {
        match (self, quick) {
            (Self::Small, _) => &[],
            (Self::Files, false) => &[50, 200, 1000, 2500, 5000],
            (Self::Files, true) => &[50, 500],
            (Self::Mappings, false) => &[200, 1000, 5000, 20_000, 60_000],
            (Self::Mappings, true) => &[200, 2000],
            (Self::Threads, false) => &[5, 20, 100, 500, 2000],
            (Self::Threads, true) => &[5, 50],
            (Self::Processes, false) => &[2, 10, 30, 100, 300],
            (Self::Processes, true) => &[2, 10],
            (Self::Memory, false) => &[16, 64, 256, 1024, 4096],
            (Self::Memory, true) => &[16, 64],
            (Self::Connections | Self::Terminals | Self::Memfds, false) => &[10, 100, 1000],
            (Self::Connections | Self::Terminals | Self::Memfds, true) => &[10, 100],
        }
    }

    /// What its axis counts, and how many of that there are in a size.
    pub(crate) fn axis(self) -> (&'static str, f64) {
        match self {
            Self::Small => ("", 1.0),
            Self::Files => ("descriptors", 1.8),
            Self::Mappings => ("mappings", 1.0),
            Self::Threads => ("threads", 1.0),
            Self::Processes => ("processes", 1.0),
            Self::Memory => ("MiB of memory", 1.0),
            Self::Connections => ("connections", 1.0),
            Self::Terminals => ("pairs of terminals", 1.0),
            Self::Memfds => ("memfds", 1.0),
        }
    }
}
