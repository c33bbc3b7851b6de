//! The table of what the kernel keeps of a task (`docs/state.tsv`), and the page that is made from it. (That
//! it has a line for every field of the running kernel is a test of the collector's, which reads the kernel's type
//! information.)

use std::collections::BTreeSet;

use stasis_tests::state::{TABLE, Verdict, page, parse};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/state.md");

#[test]
fn every_line_says_what_becomes_of_a_field() {
    let lines = parse(TABLE).expect("the table");
    let mut seen = BTreeSet::new();
    for line in &lines {
        assert!(seen.insert((line.structure, line.field)), "{line:?} is there twice");
        let grouped = line.group != "–";
        assert_eq!(
            grouped,
            line.verdict != Verdict::NoEffect,
            "{line:?}: only what is shown has a group"
        );
    }
}

/// With `UPDATE_DOCS` it is made, without it is compared.
#[test]
fn the_page_is_made_from_the_table() {
    let made = page(&parse(TABLE).expect("the table"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &made).expect("write docs/state.md");
    }
    let there = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(there == made, "docs/state.md is not what docs/state.tsv says: run `make docs-state`");
}
