//! Stops and resumes process trees; freezes are leases.
