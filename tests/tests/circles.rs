//! House rule: modules depend on each other in one direction.
//!
//! The modules of each crate make a tree. Two modules below one parent may use each other one way only,
//! over however many others: `a` with all that is below it may use what is below `b`, or the other
//! way round. What the parent's own file defines is one more of them, but for its types and constants:
//! they are words for all below it. So a parent calls its children, and not they the parent.

mod module_graph;

use module_graph::{Graph, crates};

/// Modules whose parts still go in circles: crate and module. None is to come, and what is none any more
/// goes from the list.
const LEFT: [(&str, &str); 2] = [("stasis_dumper", "files"), ("stasis_restorer", "files")];

#[test]
fn modules_depend_one_way() {
    let mut found = Vec::new();
    let mut left = LEFT.to_vec();
    for (name, root) in crates() {
        for circle in Graph::of_crate(&root).circles() {
            let known = |(krate, module): &(&str, &str)| *krate == name && *module == circle.parent;
            match left.iter().position(known) {
                Some(index) => {
                    left.swap_remove(index);
                }
                None => found.push(format!("{name}, {circle}")),
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(left.is_empty(), "no circle any more, take them from the list: {left:?}");
}
