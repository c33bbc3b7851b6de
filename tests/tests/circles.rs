//! House rule: modules depend on each other in one direction.
//!
//! The modules of each crate make a tree. Two modules below one parent may use each other one way only,
//! over however many others: `a` with all that is below it may use what is below `b`, or the other
//! way round. What the parent's own file defines is one more of them, but for its types and constants:
//! they are words for all below it. So a parent calls its children, and not they the parent.

mod module_graph;

use module_graph::{Graph, crates};

#[test]
fn modules_depend_one_way() {
    let mut found = Vec::new();
    for (name, root) in crates() {
        let circles = Graph::of_crate(&root).circles();
        found.extend(circles.iter().map(|circle| format!("{name}, {circle}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// What the rule rests on: that uses are found, by whatever way they are written.
#[test]
fn uses_are_found_by_imports_paths_macros_and_what_is_passed_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let of = |root: &str, a: &str, b: &str| {
        for (name, text) in [("lib.rs", root), ("a.rs", a), ("b.rs", b)] {
            std::fs::write(folder.path().join(name), text).expect("write");
        }
        Graph::of_crate(&folder.path().join("lib.rs")).circles().len()
    };
    let root = "mod a; mod b; pub use a::{A, go as walk};";
    let b = "pub fn f() -> crate::A { crate::A }";
    for (a, circles) in [
        ("pub struct A; use super::b;", 1),
        ("pub struct A; fn g() { crate::b::f(); }", 1),
        ("pub struct A; fn g() { print!(\"{:?}\", super::b::f()); }", 1),
        ("pub struct A; use crate::b::*;", 1),
        ("pub struct A; mod c { use super::super::b::f; }", 1),
        ("pub struct A;", 0),
        ("pub struct A; #[cfg(test)] mod tests { use crate::b; }", 0),
        ("pub struct A; use ::b::f;", 0),
    ] {
        assert_eq!(of(root, a, b), circles, "{a}");
    }
    // The name that is passed on is that of another module, whatever it is called there.
    assert_eq!(of(root, "pub fn go() { crate::b::f() }", "pub fn f() { crate::walk() }"), 1);
    // Words of the parent's are for all, its functions are not.
    let parent = "mod a; mod b; pub struct Word; fn call() { a::f() }";
    assert_eq!(of(parent, "pub fn f() -> crate::Word { crate::Word }", ""), 0);
    assert_eq!(of(parent, "pub fn f() { super::call() }", ""), 1);
}
