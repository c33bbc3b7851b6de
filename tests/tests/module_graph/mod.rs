//! Which module of a crate uses which, as far as paths tell.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

/// A module by the names on the way to it; the crate's root has none.
type Name = Vec<String>;

/// What a module's own file has.
#[derive(Default)]
struct Module {
    /// What it brings into its scope under a name: by the path where it is, or was found.
    imports: BTreeMap<String, Vec<String>>,
    /// Modules all of whose names it passes on.
    globs: Vec<Vec<String>>,
    /// Paths in its code, beginning at `crate`, `self`, `super` or a name in scope.
    paths: BTreeSet<Vec<String>>,
}

/// Parts of one module that use each other in a circle.
pub(crate) struct Circle {
    pub(crate) parent: String,
    /// A line for each step: from where to where, and a path by which.
    steps: String,
}

impl std::fmt::Display for Circle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "in {}, in a circle:{}", self.parent, self.steps)
    }
}

/// All modules of a crate but those of tests.
pub(crate) struct Graph {
    modules: BTreeMap<Name, Module>,
}

/// Where a path leads to.
struct Target {
    module: Name,
    /// What of the module it names, if not the module itself.
    item: Option<String>,
}

impl Target {
    /// Types and constants are words that all below a module may use; to call a function is something else.
    fn is_a_word(&self) -> bool {
        let first = self.item.as_ref().and_then(|item| item.chars().next());
        first.is_none_or(char::is_uppercase)
    }
}

/// Name and root file of every library and program of the workspace.
pub(crate) fn crates() -> Vec<(String, PathBuf)> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut found = Vec::new();
    for manifest in ["Cargo.toml", "ebpf/Cargo.toml", "parasite/blobs/Cargo.toml"] {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--no-deps", "--format-version", "1", "--locked", "--offline"])
            .arg("--manifest-path")
            .arg(workspace.join(manifest))
            .output()
            .expect("start cargo");
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        for package in metadata["packages"].as_array().expect("packages") {
            for target in package["targets"].as_array().expect("targets") {
                let kind = target["kind"][0].as_str().expect("a kind");
                if kind == "lib" || kind == "bin" {
                    let text = |key: &str| target[key].as_str().expect("text").to_owned();
                    found.push((text("name"), text("src_path").into()));
                }
            }
        }
    }
    found
}

impl Graph {
    pub(crate) fn of_crate(root: &Path) -> Self {
        let mut graph = Self { modules: BTreeMap::new() };
        let folder = root.parent().expect("a folder");
        graph.read(root, folder, Vec::new());
        graph
    }

    /// Takes in a file and what it declares; its modules are below `folder`.
    fn read(&mut self, file: &Path, folder: &Path, name: Name) {
        let text = std::fs::read_to_string(file).expect("read");
        let parsed =
            syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.take(&parsed.items, folder, name);
    }

    fn take(&mut self, items: &[syn::Item], folder: &Path, name: Name) {
        let mut reader = Reader::default();
        for item in items {
            match item {
                syn::Item::Mod(module) if is_of_tests(&module.attrs) => {}
                syn::Item::Mod(module) => {
                    let child = module.ident.to_string();
                    let below = folder.join(&child);
                    let whole: Name = name.iter().cloned().chain([child.clone()]).collect();
                    match &module.content {
                        Some((_, items)) => self.take(items, &below, whole),
                        None => {
                            let files = [folder.join(format!("{child}.rs")), below.join("mod.rs")];
                            let file = files.iter().find(|file| file.is_file());
                            self.read(file.expect("the module's file"), &below, whole);
                        }
                    }
                }
                item => reader.visit_item(item),
            }
        }
        self.modules.insert(name, reader.module);
    }

    /// Where a path that stands in `at` leads to, if that is in this crate.
    fn resolve(&self, at: &Name, path: &[String], depth: usize) -> Option<Target> {
        let (first, rest) = path.split_first()?;
        let module = match first.as_str() {
            "crate" => Vec::new(),
            "self" => at.clone(),
            "super" => {
                let (_, parent) = at.split_last()?;
                let mut whole = vec!["self".to_owned()];
                whole.extend_from_slice(rest);
                return self.resolve(&parent.to_vec(), &whole, depth);
            }
            _ => return self.in_module(at, path, depth, true),
        };
        if let Some((second, _)) = rest.split_first()
            && second == "super"
        {
            return self.resolve(&module, rest, depth);
        }
        if rest.is_empty() {
            return Some(Target { module, item: None });
        }
        self.in_module(&module, rest, depth, false)
    }

    /// Where a path leads to that begins with a name in `module`.
    fn in_module(
        &self,
        module: &Name,
        path: &[String],
        depth: usize,
        only_modules: bool,
    ) -> Option<Target> {
        let (first, rest) = path.split_first()?;
        let child: Name = module.iter().cloned().chain([first.clone()]).collect();
        if self.modules.contains_key(&child) {
            return match rest.is_empty() {
                true => Some(Target { module: child, item: None }),
                false => self.in_module(&child, rest, depth, false),
            };
        }
        let own = self.modules.get(module)?;
        if depth > 0
            && let Some(import) = own.imports.get(first)
        {
            // A name of another crate's, or one that is not found, is nobody's here.
            let whole: Vec<String> = import.iter().chain(rest).cloned().collect();
            return self.resolve(module, &whole, depth - 1);
        }
        if depth > 0 && !only_modules {
            for glob in &own.globs {
                let passed_on = self.resolve(module, glob, depth - 1);
                if let Some(from) = passed_on
                    && self.defines(&from.module, first)
                {
                    return self.in_module(&from.module, path, depth - 1, false);
                }
            }
        }
        // A function has nothing below it: then a crate is meant that has the same name.
        let is_function = first.starts_with(char::is_lowercase) && !rest.is_empty();
        (!only_modules && !is_function)
            .then(|| Target { module: module.clone(), item: Some(first.clone()) })
    }

    /// Whether a name of a module is more than a guess.
    fn defines(&self, module: &Name, name: &str) -> bool {
        self.modules.get(module).is_some_and(|module| module.imports.contains_key(name))
            || self.modules.contains_key(&[&module[..], &[name.to_owned()]].concat())
    }

    /// Every use that one module makes of another, with the path by which it does.
    fn uses(&self) -> Vec<(&Name, Target, String)> {
        const DEPTH: usize = 8;
        let mut uses = Vec::new();
        for (name, module) in &self.modules {
            for path in &module.paths {
                if let Some(target) = self.resolve(name, path, DEPTH)
                    && target.module != *name
                {
                    uses.push((name, target, path.join("::")));
                }
            }
        }
        uses
    }

    /// All circles.
    pub(crate) fn circles(&self) -> Vec<Circle> {
        let mut found = Vec::new();
        let uses = self.uses();
        for parent in self.modules.keys() {
            // From one part of the parent to another: its children, and what its own file has.
            let mut steps: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
            for (from, to, path) in &uses {
                let (Some(one), Some(other)) = (part(parent, from), part(parent, &to.module))
                else {
                    continue;
                };
                if one != other && !(other == "self" && to.is_a_word()) {
                    let said = format!("{} uses {path}", shown(from));
                    steps.entry(one).or_default().entry(other).or_insert(said);
                }
            }
            for part in parts_in_circles(&steps) {
                let lines = part.iter().flat_map(|one| {
                    let to = steps.get(one).into_iter().flatten();
                    to.filter(|(other, _)| part.contains(*other))
                        .map(move |(other, said)| format!("\n    {one} -> {other}: {said}"))
                });
                let lines: String = lines.collect();
                found.push(Circle { parent: shown(parent), steps: lines });
            }
        }
        found
    }
}

fn shown(name: &[String]) -> String {
    if name.is_empty() { "crate".to_owned() } else { name.join("::") }
}

/// Which part of `parent` a module belongs to: one of its children, or its own file.
fn part<'a>(parent: &Name, module: &'a Name) -> Option<&'a str> {
    let rest = module.strip_prefix(&parent[..])?;
    Some(rest.first().map_or("self", String::as_str))
}

/// The sets of those that reach each other.
fn parts_in_circles<'a>(
    steps: &BTreeMap<&'a str, BTreeMap<&'a str, String>>,
) -> Vec<BTreeSet<&'a str>> {
    let reach = |from: &'a str| {
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let mut next = vec![from];
        while let Some(one) = next.pop() {
            for other in steps.get(one).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(other) {
                    next.push(other);
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        steps.keys().map(|one| (*one, reach(one))).collect();
    let mut circles: Vec<BTreeSet<&str>> = Vec::new();
    for (one, from_one) in &reached {
        let circle: BTreeSet<&str> = from_one
            .iter()
            .copied()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(one)))
            .collect();
        if circle.contains(one) && !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}

fn is_of_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

/// Gathers what a module's own code names.
#[derive(Default)]
struct Reader {
    module: Module,
}

impl Reader {
    fn import(&mut self, before: &mut Vec<String>, tree: &syn::UseTree, passes_on: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(before, &path.tree, passes_on);
                before.pop();
            }
            syn::UseTree::Name(name) if name.ident == "self" => {
                let last = before.last().cloned().unwrap_or_default();
                self.imported(last, before.clone(), passes_on);
            }
            syn::UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.imported(name.clone(), [&before[..], &[name]].concat(), passes_on);
            }
            syn::UseTree::Rename(rename) => {
                let path = match rename.ident == "self" {
                    true => before.clone(),
                    false => [&before[..], &[rename.ident.to_string()]].concat(),
                };
                self.imported(rename.rename.to_string(), path, passes_on);
            }
            syn::UseTree::Glob(_) => {
                self.module.globs.push(before.clone());
                if !passes_on {
                    self.module.paths.insert(before.clone());
                }
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(before, tree, passes_on);
                }
            }
        }
    }

    fn imported(&mut self, name: String, path: Vec<String>, passes_on: bool) {
        if !passes_on {
            self.module.paths.insert(path.clone());
        }
        self.module.imports.insert(name, path);
    }

    /// Paths in what only the compiler's macros understand.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.path(std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.path(std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.path(path);
    }

    fn path(&mut self, path: Vec<String>) {
        if path.len() > 1 {
            self.module.paths.insert(path);
        }
    }
}

impl<'a> Visit<'a> for Reader {
    fn visit_item(&mut self, item: &'a syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Static(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_of_tests(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        let passes_on = !matches!(item.vis, syn::Visibility::Inherited);
        if item.leading_colon.is_none() {
            self.import(&mut Vec::new(), &item.tree, passes_on);
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        // What begins with two colons is another crate.
        if path.leading_colon.is_none() {
            self.path(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }

        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'a syn::Macro) {
        self.tokens(item.tokens.clone());
    }
}
