//! What the restorer is told and what it reports.
