//! Manual pages and completions: installed for every program and command, and understood by those that read them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use stasis_tests::{Outcome, Scratch, built_program, stasis_program};

const SERVICES: [&str; 5] =
    ["stasis-collector", "stasis-dumper", "stasis-freezer", "stasis-gateway", "stasis-restorer"];

/// What `make install` puts into `PREFIX/share`.
fn installed(scratch: &Scratch) -> PathBuf {
    let programs = built_program("stasis-gateway");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "install-manuals", "PREFIX=/usr"]).current_dir(root);
    make.arg(format!("RELEASE={}", programs.parent().expect("a directory").display()));
    make.arg(format!("DESTDIR={}", scratch.path("").display()));
    Outcome::of(&mut make).must_succeed("make install-manuals");
    scratch.path("usr/share")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("list");
    entries.map(|it| it.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The commands that `stasis --help` lists.
fn commands() -> Vec<String> {
    let help = Outcome::of(Command::new(stasis_program()).arg("--help")).stdout;
    let (_, listed) = help.split_once("Commands:\n").expect("commands");
    let listed = listed.lines().take_while(|line| !line.trim().is_empty());
    let first = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = first.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// What groff has to say of a page; `None` where there is no groff.
fn warnings(page: &Path) -> Option<String> {
    let mut groff = Command::new("groff");
    groff.args(["-man", "-Kutf8", "-Tutf8", "-ww", "-z"]).arg(page);
    let output = groff.output().ok()?;
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_program_and_command_has_a_page() {
    let scratch = Scratch::new();
    let share = installed(&scratch);
    let commands = commands();
    assert!(commands.len() > 12, "{commands:?}");
    let pages: BTreeSet<_> = commands.iter().map(|name| format!("stasis-{name}.1")).collect();
    let own = BTreeSet::from(["stasis.1".to_owned()]);
    assert_eq!(names(&share.join("man/man1")), &pages | &own);
    let services: BTreeSet<_> = SERVICES.iter().map(|name| format!("{name}.8")).collect();
    assert_eq!(names(&share.join("man/man8")), services);
    for folder in ["man/man1", "man/man8"] {
        for name in names(&share.join(folder)) {
            let page = share.join(folder).join(&name);
            let text = read(&page);
            let first = text.lines().find(|line| line.starts_with(".TH"));
            assert!(first.is_some_and(|line| line.contains("stasis")), "{name}: {text}");
            for part in [".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
                assert!(text.contains(part), "{name} has no {part}: {text}");
            }
            let said = warnings(&page).unwrap_or_default();
            assert_eq!(said, "", "{name}");
        }
    }
    assert!(read(&share.join("man/man1/stasis-dump.1")).contains("\\-\\-max\\-freeze"));
    assert!(read(&share.join("man/man8/stasis-gateway.8")).contains("STASIS_LISTEN"));
}

#[test]
fn shells_understand_the_completions() {
    let scratch = Scratch::new();
    let share = installed(&scratch);
    let programs = || SERVICES.into_iter().chain(["stasis"]);
    for name in programs() {
        let file = share.join("bash-completion/completions").join(name);
        Outcome::of(Command::new("bash").arg("-n").arg(&file)).must_succeed(name);
        let zsh = read(&share.join("zsh/site-functions").join(format!("_{name}")));
        assert!(zsh.starts_with(&format!("#compdef {name}\n")), "{name}: {zsh}");
        let fish = share.join("fish/vendor_completions.d").join(format!("{name}.fish"));
        assert!(read(&fish).contains(&format!("complete -c {name}")), "{name}");
    }
    let complete = |words: &str| {
        let script = format!(
            "source {}/bash-completion/completions/stasis; COMP_WORDS=({words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _stasis stasis \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; \
             echo ${{COMPREPLY[@]}}",
            share.display()
        );
        Outcome::of(Command::new("bash").args(["-c", &script])).must_succeed(words).stdout
    };
    assert_eq!(complete("stasis du").trim(), "dump");
    assert_eq!(complete("stasis dump --leave-r").trim(), "--leave-running");
    assert!(complete("stasis dump --network-lock ''").contains("iptables"), "values, too");
}
