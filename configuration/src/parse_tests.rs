use std::ffi::OsStr;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use clap::{CommandFactory, Parser, Subcommand};

use super::*;
use crate::{check, show};

/// Answers
#[derive(Debug, Parser)]
#[command(name = "stasis-gateway")]
struct Gateway {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:1", env = "STASIS_TEST_LISTEN")]
    listen: SocketAddr,
    /// Who may call
    #[arg(long, value_delimiter = ',')]
    allow: Vec<String>,
    /// How many
    #[arg(long, default_value = "7")]
    count: NonZeroU32,
    /// Not users
    #[arg(long, env = "STASIS_TEST_NO_USERS", value_parser = clap::builder::BoolishValueParser::new())]
    no_users: bool,
    /// Where
    #[arg(long)]
    place: Option<PathBuf>,
    /// How
    #[arg(long, value_parser = ["text", "json"], default_value = "text")]
    format: String,
    /// What has to be said
    #[arg(long, required = true)]
    key: String,
}

#[derive(Debug, Parser)]
#[command(name = "stasis")]
struct Shell {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    Dump {
        #[arg(long, env = "STASIS_TEST_PLACE", default_value = "/run")]
        place: PathBuf,
        #[arg(long)]
        leave_running: bool,
    },
    Config,
    Criu {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn gateway() -> Program {
    Program::service("gateway", Gateway::command())
}

fn shell() -> Program {
    Program::commands("stasis", Shell::command(), |name| name == "dump")
}

/// What a program is told by a file and a command line, or why not.
fn told<A: FromArgMatches>(program: &Program, file: &str, line: &[&str]) -> Result<A, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stasis.toml");
    std::fs::write(&path, file).unwrap();
    let named = ["program".into(), "--config".into(), path.into_os_string()];
    let line = named.into_iter().chain(line.iter().map(OsString::from)).collect();
    match program.told(line) {
        Ok(matches) => Ok(A::from_arg_matches(&matches).unwrap()),
        Err(Failure::OfCommandLine(error)) => Err(error.to_string()),
        Err(Failure::OfFile(error)) => {
            Err(error.to_string().replace(&dir.path().display().to_string(), ""))
        }
    }
}

const FILE: &str = "
[common]
place = '/common'
key = \"common\"
[gateway]
listen = \"127.0.0.1:2\"
allow = [\"a\", \"b,c\"]
count = 3
no-users = true
key = \"own\"
";

#[test]
fn the_file_stands_in_for_what_is_not_given() {
    let all: Gateway = told(&gateway(), FILE, &[]).unwrap();
    assert_eq!(all.listen, "127.0.0.1:2".parse().unwrap());
    assert_eq!((all.allow, all.count.get()), (vec!["a".into(), "b".into(), "c".into()], 3));
    assert_eq!((all.no_users, all.place), (true, Some("/common".into())));
    assert_eq!((all.key.as_str(), all.format.as_str()), ("own", "text"));
    let line = ["--listen=127.0.0.1:3", "--allow=d", "--key", "line"];
    let some: Gateway = told(&gateway(), FILE, &line).unwrap();
    assert_eq!(some.listen, "127.0.0.1:3".parse().unwrap());
    assert_eq!((some.allow, some.key.as_str()), (vec!["d".into()], "line"));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (line, said) in [
        ("[gatway]", "no section [gatway]: did you mean [gateway]?"),
        ("listen = 1", "listen stands in no section"),
        ("[gateway]\nlisen = 1", "no key lisen in [gateway]: did you mean listen?"),
        ("[gateway]\nno_users = true", "no key no_users in [gateway]: did you mean no-users?"),
        ("[gateway]\nxyzzy = 1", "no key xyzzy in [gateway]: `stasis config show` lists"),
        ("[gateway]\nlisten = 1", "listen takes a text in quotes, not a number"),
        ("[gateway]\nlisten = 'nowhere'", "listen: \"nowhere\": invalid socket address"),
        ("[gateway]\ncount = 0", "count: \"0\": "),
        ("[gateway]\ncount = [1]", "count takes a number, not a list"),
        ("[gateway]\nno-users = 'true'", "no-users takes true or false, not a text"),
        ("[gateway]\nplace = 5", "place takes a text in quotes, not a number"),
        ("[gateway]\nplace = {a = 1}", "place takes a text in quotes, not a table"),
        ("[gateway]\nallow = [1]", "allow takes texts in quotes, [\"…\", \"…\"], not a number"),
        ("[gateway]\nformat = 'jsn'", "is none of text, json; did you mean \"json\"?"),
        ("[gateway]\nkey = ", ""),
        ("[gateway]\nkey = 'a'\nkey = 'b'", "duplicate key"),
    ] {
        let error = told::<Gateway>(&gateway(), &format!("\n{line}\n"), &["--key=x"]).unwrap_err();
        let at = error.strip_prefix("/stasis.toml:").unwrap_or_else(|| panic!("{error}"));
        assert!(at.contains(said), "{line}: {error}");
        let number: usize = at.split(':').next().unwrap().parse().unwrap();
        assert_eq!(number, 2 + line.matches('\n').count(), "{line}: {error}");
    }
}

#[test]
fn all_that_is_wrong_is_told_by_the_check() {
    let text =
        "[common]\nplac = 1\n[gateway]\ncount = 'x'\n[stasis]\nleave-running = true\n[dumper]\n";
    let text = Text { path: "F".into(), text: text.to_owned() };
    let error = check(&text, &[gateway(), shell()]).unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines[0], "F:2: no key plac in [common]: did you mean place?");
    assert!(lines[1].starts_with("F:4: count: \"x\": "), "{error}");
    // What belongs to one deed is no key.
    assert!(lines[2].starts_with("F:6: no key leave-running in [stasis]: "), "{error}");
    assert_eq!(lines.len(), 3);
}

#[test]
fn a_program_of_many_commands_reads_it_for_some() {
    let file = "[stasis]\nplace = '/file'\n";
    let told_place = |file, line: &[&str]| told::<Shell>(&shell(), file, line).map(|it| it.command);
    let Commands::Dump { place, leave_running } = told_place(file, &["dump"]).unwrap() else {
        panic!("another command");
    };
    assert_eq!((place, leave_running), ("/file".into(), false));
    told_place("[stasis]\nplac = 1", &["dump"]).unwrap_err();
    told_place("[stasis]\nplac = 1", &["config"]).unwrap();
    let Commands::Criu { arguments } =
        told_place("no toml", &["criu", "dump", "--config", "other"]).unwrap()
    else {
        panic!("another command");
    };
    assert_eq!(arguments, ["dump", "--config", "other"]);
    // Help is given all the same.
    assert!(told_place("no toml", &["--help"]).unwrap_err().contains("--config <FILE>"));
}

#[test]
fn what_is_shown_is_a_file_that_says_the_same() {
    let text = Text { path: "F".into(), text: FILE.to_owned() };
    let programs = [gateway(), shell()];
    let environment = |name: &OsStr| (name == "STASIS_TEST_LISTEN").then(|| "127.0.0.1:9".into());
    let shown = show(Some(&text), &programs, Some(&environment)).unwrap();
    for said in [
        "# Where to listen\n# Default: \"127.0.0.1:1\"; environment: STASIS_TEST_LISTEN\n\
         # In force, from STASIS_TEST_LISTEN: \"127.0.0.1:9\"\nlisten = \"127.0.0.1:2\"\n",
        "# Default: 7\n# In force, from line 8:\ncount = 3\n",
        "# Default: none\n# In force, from [common], line 3:\n#place = \"/common\"\n",
        "# One of: text, json\n# Default: \"text\"\n#format = \"text\"\n",
        "no-users = true\n",
        "allow = [\"a\", \"b,c\"]\n",
    ] {
        assert!(shown.contains(said), "{said}\n---\n{shown}");
    }
    let again = Text { path: "F".into(), text: shown };
    check(&again, &programs).unwrap();
    for program in &programs {
        let said = |text| values_of(text, program).unwrap().0.into_iter();
        let said = |text| said(text).map(|(key, it)| (key, it.texts)).collect::<Vec<_>>();
        assert_eq!(said(&again), said(&text));
    }
}
