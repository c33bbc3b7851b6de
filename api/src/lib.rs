//! What the services and the gateway say to each other: JSON types.
