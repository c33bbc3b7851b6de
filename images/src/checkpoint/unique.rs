//! Things that images give numbers to.

use std::collections::BTreeMap;

use crate::error::Error;

/// A map of what has an id, refusing an id that is used twice.
pub(super) fn unique<K: Ord + std::fmt::Display, V>(
    image: &str,
    object: &str,
    entries: impl IntoIterator<Item = (K, V)>,
) -> Result<BTreeMap<K, V>, Error> {
    let mut map = BTreeMap::new();
    for (id, entry) in entries {
        if map.contains_key(&id) {
            return Err(Error::invalid(image, format!("{object} {id} is there twice")));
        }
        map.insert(id, entry);
    }
    Ok(map)
}
