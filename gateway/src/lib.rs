//! The HTTP and JSON face.
