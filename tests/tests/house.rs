//! House rules that are tests: what the tree promises of itself.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every file under version control, in a clone; every file but what is built, elsewhere.
fn tracked() -> Vec<PathBuf> {
    let listed = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output();
    match listed {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .split_terminator('\0')
            .map(PathBuf::from)
            .filter(|path| root().join(path).is_file())
            .collect(),
        _ => {
            let mut found = Vec::new();
            walk(&root(), &mut found);
            found.iter().map(|path| path.strip_prefix(root()).expect("inside").to_owned()).collect()
        }
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("list").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if name == "target" || name == ".git" {
            continue;
        }
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

fn with_extension(extension: &str) -> Vec<(PathBuf, String)> {
    tracked()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .map(|path| {
            let text = std::fs::read_to_string(root().join(&path)).expect("read");
            (path, text)
        })
        .collect()
}

/// The targets of `[text](target)` in a Markdown text, code left out.
fn links(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
        let mut rest = prose.as_str();
        while let Some((_, behind)) = rest.split_once("](") {
            let Some((target, behind)) = behind.split_once(')') else { break };
            found.push(target.to_owned());
            rest = behind;
        }
    }
    found
}

#[test]
fn every_link_in_the_documents_resolves() {
    let mut broken = Vec::new();
    for (path, text) in with_extension("md") {
        for link in links(&text) {
            let file = link.split('#').next().unwrap_or_default();
            let outside = link.contains("://") || link.starts_with("mailto:");
            if file.is_empty() || outside {
                continue;
            }
            let dir = path.parent().unwrap_or(Path::new(""));
            if !root().join(dir).join(file).exists() {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Whoever looks for a place by the design finds it there.
#[test]
fn every_path_in_the_design_is_there() {
    let design = std::fs::read_to_string(root().join("docs/design.md")).expect("read");
    let rooms: std::collections::BTreeSet<_> = tracked()
        .iter()
        .filter_map(|path| Some(path.components().next()?.as_os_str().to_owned()))
        .collect();
    let mut missing = Vec::new();
    for word in design.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
        let path = Path::new(word);
        let is_of_room = word.contains('/')
            && path.components().next().is_some_and(|first| rooms.contains(first.as_os_str()));
        // `KIND` and its like stand for a name.
        let is_pattern = word.contains(' ')
            || word.split(|c: char| !c.is_ascii_uppercase()).any(|run| run.len() > 1);
        if is_of_room && !is_pattern && !root().join(path).exists() {
            missing.push(word);
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn unsafe_code_is_in_its_rooms_only() {
    // The workloads make by hand the state that is to be carried.
    let rooms = ["arch", "kernel", "parasite", "ebpf", "tests/workloads"];
    let allowed = |path: &Path| rooms.iter().any(|room| path.starts_with(room));
    let opened: Vec<_> = with_extension("rs")
        .into_iter()
        .filter(|(path, text)| {
            !allowed(path)
                && path != Path::new("tests/tests/house.rs")
                && text.contains("unsafe_code,")
        })
        .map(|(path, _)| path)
        .collect();
    assert!(opened.is_empty(), "unsafe code is opened in {opened:?}");
}

/// A kind of open file is known to its own modules: what else names one is listed, with why.
#[test]
fn kinds_of_open_file_are_known_to_their_modules_only() {
    let others = [
        // What is held without a descriptor is found by its path.
        "dumper/src/files/paths_of_process.rs",
        // What is of no kind is refused by the name of its type.
        "restorer/src/files/load.rs",
    ];
    let strangers: Vec<_> = with_extension("rs")
        .into_iter()
        .filter(|(path, _)| ["dumper", "restorer"].iter().any(|engine| path.starts_with(engine)))
        .filter(|(path, text)| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            text.contains("fd_type::")
                && !text.contains("impl FileKind for")
                && !name.ends_with("_tests")
                && !others.iter().any(|other| path == Path::new(other))
        })
        .map(|(path, _)| path)
        .collect();
    assert!(strangers.is_empty(), "types of open files are named in {strangers:?}");
    let modules = |engine: &str| {
        let of_kinds = with_extension("rs").into_iter().filter(|(path, text)| {
            path.starts_with(format!("{engine}/src/files")) && text.contains("impl FileKind for")
        });
        let mut names: Vec<_> =
            of_kinds.filter_map(|(path, _)| Some(path.file_name()?.to_owned())).collect();
        names.sort();
        names
    };
    let (dumper, restorer) = (modules("dumper"), modules("restorer"));
    // The dumper's find the family of a socket and the number of a device, which the images have.
    let told = ["sockets.rs", "devices.rs"];
    let dumper: Vec<_> =
        dumper.into_iter().filter(|name| told.iter().all(|it| name != it)).collect();
    assert_eq!(dumper, restorer, "each kind has a module of the same name on both sides");
}

/// What a kind has in its member of a file's entry is looked at by its own modules: all else asks what every kind says of
/// itself (`FileBody`, `FileKind`). Only the path of a file, `reg`, is anybody's.
#[test]
fn members_of_file_entries_are_known_to_their_modules_only() {
    // Parts of modules of kinds, and the modules of the one whose member has a field that is called as another's.
    let parts = [
        "dumper/src/files/connections.rs",
        "dumper/src/files/unix_order.rs",
        "dumper/src/files/waiting.rs",
        "restorer/src/files/connections.rs",
        "restorer/src/files/unix_outside.rs",
        "restorer/src/load/memfd.rs",
    ];
    let twice = "files/epoll.rs";
    let table = std::fs::read_to_string(root().join("images/src/messages/files.rs")).unwrap();
    let rows = table.split_once("\nkinds! {").expect("the table of kinds").1;
    let rows = rows.lines().take_while(|line| !line.starts_with('}'));
    let members: Vec<&str> = rows
        .filter(|line| line.contains(" = "))
        .filter_map(|line| line.trim().trim_end_matches(';').rsplit(", ").next())
        .filter(|member| *member != "reg")
        .collect();
    assert!(members.len() > 20, "{members:?}");
    // By a field, or in a pattern or literal of an entry. (An external file is one with a path, too.)
    let looked_into = |text: &str| {
        let text = text.replace("reg.ext", "reg");
        let word = |char: char| !(char.is_alphanumeric() || "_.(:,".contains(char));
        let mut found: Vec<&str> = Vec::new();
        for part in text.split(word).flat_map(|word| word.split('.').skip(1)) {
            found.extend(members.iter().filter(|member| {
                part == **member || part.trim_end_matches([',', ':']) == **member
            }));
        }
        for entry in text.split("FileEntry {").skip(1) {
            let inside = entry.split('}').next().unwrap_or_default();
            let names =
                inside.split(',').filter_map(|field| field.split(':').next()).map(str::trim);
            found.extend(names.filter_map(|name| members.iter().find(|member| **member == name)));
        }
        found.sort_unstable();
        found.dedup();
        found.len()
    };
    let strangers: Vec<_> = with_extension("rs")
        .into_iter()
        .filter(|(path, _)| ["dumper/src", "restorer/src"].iter().any(|it| path.starts_with(it)))
        .filter(|(path, text)| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let is_one = text.contains("impl FileKind for")
                || parts.iter().any(|part| path == Path::new(part));
            let own = if path.ends_with(twice) { 2 } else { usize::from(is_one) };
            !name.ends_with("_tests") && looked_into(text) > own
        })
        .map(|(path, _)| path)
        .collect();
    assert!(strangers.is_empty(), "members of kinds are looked into in {strangers:?}");
}

/// What is not carried is told by one type, which the rules alone make. The compiler holds that others
/// cannot (both types are `non_exhaustive`); this holds that the rules pass their constructors to nobody, and
/// that nobody has a type of his own for a reason and a remedy.
#[test]
fn refusals_are_made_by_the_rules_only() {
    let all = with_extension("rs");
    let rules: Vec<_> = all.iter().filter(|(path, _)| path.starts_with("support/src")).collect();
    let types = rules.iter().find(|(path, _)| path.ends_with("unsupported.rs"));
    let (_, types) = types.expect("the types");
    for name in ["Refusal", "Unsupported"] {
        let (before, _) = types.split_once(&format!("pub struct {name} {{")).expect(name);
        let attributes = before.rsplit("\n\n").next().unwrap_or_default();
        assert!(attributes.contains("#[non_exhaustive]"), "{name} can be made by anybody");
        assert!(!attributes.contains("Default"), "{name} can be made by anybody");
    }
    let constructors = rules.iter().flat_map(|(path, text)| {
        // What takes a reason, or a remedy, as it is given makes a refusal of anything.
        let public = text.split("pub fn ").skip(1).chain(text.split("pub const fn ").skip(1));
        let heads = public.filter_map(|rest| rest.split_once(" {")).map(|(head, _)| head);
        heads
            .filter(|head| head.contains("reason:") || head.contains("remedy:"))
            .map(|head| format!("{}: {head}", path.display()))
    });
    let mut found: Vec<_> = constructors.collect();
    // Errors of other kinds, which have a remedy beside their words.
    let others = ["support/", "tests/", "api/src/error.rs", "criu/src/failure.rs"];
    for (path, text) in &all {
        let is_own = |line: &str| {
            line.contains("remedy: String")
                || line.contains("remedy: Option<String>")
                || line.contains("remedy: &'static str")
                || line.contains("(reason, remedy)")
        };
        let known = others.iter().any(|other| path.starts_with(other));
        if !known && text.lines().any(is_own) {
            found.push(format!("{}: a type of its own", path.display()));
        }
    }
    assert!(found.is_empty(), "this belongs into support/: {found:#?}");
}

/// The head of the crate says of each module what it is about.
#[test]
fn all_areas_of_rules_are_listed() {
    let text = std::fs::read_to_string(root().join("support/src/lib.rs")).expect("read");
    let (head, modules) = text.split_once("pub mod ").expect("modules");
    let modules = modules.split("pub mod ").filter_map(|rest| rest.split_once(';'));
    let missing: Vec<_> = modules
        .map(|(name, _)| name)
        .filter(|name| !head.contains(&format!("[`{name}`]")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// A rule that nobody asks refuses nothing.
#[test]
fn every_rule_is_asked() {
    let (rules, others): (Vec<_>, Vec<_>) =
        with_extension("rs").into_iter().partition(|(path, _)| path.starts_with("support/"));
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let others: Vec<&str> =
        others.iter().flat_map(|(_, text)| text.split(|c| !is_part(c))).collect();
    let others: std::collections::HashSet<&str> = others.into_iter().collect();
    let mut unused = Vec::new();
    for (path, text) in &rules {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for start in ["pub fn ", "pub const fn ", "pub const "] {
            let names =
                code.split(start).skip(1).filter_map(|rest| rest.split(|c| !is_part(c)).next());
            let unknown = names.filter(|name| *name != "fn" && !others.contains(name));
            unused.extend(unknown.map(|name| format!("{}: {name}", path.display())));
        }
    }
    assert!(unused.is_empty(), "{unused:#?}");
}

/// A remedy that changes mounts or networks is carried out in the namespace that it is about: a bare command would change what the
/// machine has of that name. And an option that `criu` alone has is said to be its.
#[test]
fn commands_of_remedies_reach_what_they_are_about() {
    let in_namespace =
        ["mount --make", "mount -o", "umount {", "umount P", "ip link ", "ip route "];
    let of_criu = ["--empty-ns", "--inherit-fd", "--manage-cgroups", "'net[", "veth["];
    let (enters, is_criu): (&[_], &[_]) = (&["nsenter", ".run("], &["criu "]);
    let kinds = [(&in_namespace[..], enters), (&of_criu[..], is_criu)];
    let mut found = Vec::new();
    for (path, text) in
        with_extension("rs").iter().filter(|(path, _)| path.starts_with("support/src"))
    {
        let is_comment = |line: &&str| !line.trim_start().starts_with("//");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = code.lines().filter(is_comment).map(str::trim).collect::<Vec<_>>().join(" ");
        for (words, before) in &kinds {
            for (at, word) in words.iter().flat_map(|word| code.match_indices(word)) {
                let said: String = code[..at].chars().rev().take(90).collect();
                let said: String = said.chars().rev().collect();
                if !before.iter().any(|before| said.contains(before)) {
                    found.push(format!("{}: …{said}{word}", path.display()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// The kernel gives a setting of several numbers to one call of read only, and the standard library makes several.
#[test]
fn settings_are_read_whole() {
    let readers = ["fs::read(\"/proc/sys", "read_to_string(\"/proc/sys", "open(\"/proc/sys"];
    let mut found = Vec::new();
    for (path, text) in with_extension("rs") {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_one = |line: &&str| readers.iter().any(|reader| line.contains(reader));
        let lines = code.lines().filter(is_one).filter(|_| !path.starts_with("tests"));
        found.extend(lines.map(|line| format!("{}: {}", path.display(), line.trim())));
    }
    assert!(found.is_empty(), "kernel::sysctl::read is for these: {found:#?}");
}

/// Who is who on this machine and in the images is said by types (`ids/`), and by one map of them that a plan
/// makes: that of a dump and that of a restore. Bare numbers are for what goes over a border: records of eBPF,
/// structures of system calls, JSON, messages of images, and what is made of those for people.
#[test]
fn numbers_of_tasks_are_types() {
    const ROOMS: [&str; 12] = [
        "kernel/src",
        "freezer/src",
        "inventory/src",
        "support/src",
        "collector/src",
        "dumper/src",
        "restorer/src",
        "hooks/src",
        "services/src",
        "cli/src",
        "criu/src",
        "ids/src/map.rs",
    ];
    let borders = [
        // Structures of bpf(2) and capget(2), and what goes with a message by SCM_CREDENTIALS.
        "kernel/src/bpf.rs",
        "kernel/src/credentials.rs",
        "kernel/src/queues.rs",
        // What processes of a restore tell each other, and people.
        "restorer/src/error.rs",
        "restorer/src/failure.rs",
        // Messages of CRIU's RPC.
        "criu/src/rpc/messages.rs",
        // What messages of images say, as it is shown.
        "cli/src/show/summary.rs",
    ];
    let makers = [
        "dumper/src/numbers.rs",
        "restorer/src/numbers.rs",
        "restorer/src/pids.rs",
        "restorer/src/registrars.rs",
        "restorer/src/restore/built.rs",
        "restorer/src/restore/loaded.rs",
    ];
    let mut found = Vec::new();
    for (path, text) in with_extension("rs") {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_border = borders.iter().any(|border| path == Path::new(border));
        let bare = ROOMS.iter().any(|room| path.starts_with(room))
            && !is_border
            && !name.ends_with("_tests.rs");
        let elsewhere = !path.starts_with("ids") && path != Path::new("tests/tests/house.rs");
        let made = elsewhere && !makers.iter().any(|maker| path == Path::new(maker));
        // Tests of a module stand at its end, and make numbers of their own.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (line, number) in code.lines().zip(1..) {
            if bare && has_bare_number(line) || made && line.contains("in_own_namespace") {
                found.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "these are HostPid or ImagePid: {found:#?}");
}

/// Whether a line has a parameter, a field, a variable or a function that is called as numbers of tasks are, of a
/// type that is not theirs.
fn has_bare_number(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let name_before = |at: usize| code[..at].rsplit(|c: char| !is_of_name(c)).next();
    let typed = code.match_indices(": ").any(|(at, colon)| {
        name_before(at).is_some_and(names_tasks) && is_bare(&code[at + colon.len()..])
    });
    let given = code.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
    let given = given.filter(|(name, _)| names_tasks(name));
    let given = given.and_then(|(_, rest)| rest.split_once("-> "));
    typed || given.is_some_and(|(_, answer)| is_bare(answer))
}

const fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether the last word of a name is one for the number of a task.
fn names_tasks(name: &str) -> bool {
    const WORDS: [&str; 9] =
        ["pid", "tid", "tgid", "ppid", "pgid", "sid", "pids", "tids", "tracer"];
    name.rsplit('_').next().is_some_and(|last| WORDS.contains(&last))
}

/// Whether a type is of bare numbers.
fn is_bare(of: &str) -> bool {
    const AROUND: [&str; 9] = [
        "io::",
        "Result<",
        "Option<",
        "Vec<",
        "BTreeSet<",
        "HashSet<",
        "BTreeMap<",
        "HashMap<",
        "mut ",
    ];
    let mut of = of.trim_start_matches(['&', '[', '(']);
    while let Some(inside) = AROUND.iter().find_map(|around| of.strip_prefix(around)) {
        of = inside.trim_start_matches(['&', '[', '(']);
    }
    let word: String = of.chars().take_while(|c| is_of_name(*c)).collect();
    matches!(&*word, "i32" | "u32")
}

#[test]
fn bare_numbers_of_tasks_are_recognised() {
    let bare = [
        "pub fn open(pid: i32) -> io::Result<Self> {",
        "    by_parent: &[(i32, i32)], root_pid: Option<u32>,",
        "fn children_tids(&self) -> Result<Vec<i32>, Error> {",
        "    ppid: BTreeMap<i32, Process>,",
    ];
    let typed = [
        "pub fn open(pid: HostPid) -> io::Result<i32> {",
        "    cupid_count: u32, // pid: i32",
        "    pidfd: i32,",
        "fn pid(&self) -> HostPid {",
    ];
    assert!(bare.into_iter().all(has_bare_number));
    assert!(!typed.into_iter().any(has_bare_number));
}

#[test]
fn every_processor_supplies_the_same_files() {
    let mut folders: Vec<(PathBuf, Vec<_>)> = Vec::new();
    for entry in std::fs::read_dir(root().join("arch/src")).expect("list").flatten() {
        if entry.path().is_dir() {
            let files = std::fs::read_dir(entry.path()).expect("list").flatten();
            let mut names: Vec<_> = files.map(|file| file.file_name()).collect();
            names.sort();
            folders.push((entry.path(), names));
        }
    }
    for pair in folders.windows(2) {
        assert_eq!(pair[0].1, pair[1].1, "{:?} and {:?}", pair[0].0, pair[1].0);
    }
}

/// What belongs to a processor stands in `arch/` and in the images' messages: elsewhere nothing is
/// called by its name, nor are its registers, its instructions or its numbers of system calls.
#[test]
fn processors_are_known_to_arch_only() {
    let exceptions = [
        // The processors' own room, and their registers as images have them.
        "arch/",
        "images/src/messages/",
        "images/src/messages.rs",
        // Programs that make by hand the state that is to be carried.
        "tests/workloads/",
        // The assembler of the BPF machine, which is the same everywhere.
        "ebpf/src/track.rs",
        // It has the words.
        "tests/tests/house.rs",
    ];
    let is_test = |path: &Path| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        name.ends_with("_tests") || path.iter().any(|part| part == "tests" || part == "bench")
    };
    let mut found = Vec::new();
    for (path, text) in with_extension("rs") {
        if is_test(&path) || exceptions.iter().any(|exception| path.starts_with(exception)) {
            continue;
        }
        // Tests of a module stand at its end, and may be of a processor's data.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            if let Some(word) = processor_word(line) {
                found.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "this belongs into arch/: {found:#?}");
}

/// The first word of a line that only a processor has.
fn processor_word(line: &str) -> Option<String> {
    // Assembler, a mapping, the end of the address space.
    const PHRASES: [&str; 4] = ["asm!", "arch::asm", "[vsyscall]", "0x7fff_ffff_"];
    const ANYWHERE: [&str; 6] = ["x86", "xsave", "cpuid", "avx", "amx", "xcomp"];
    const WHOLE: [&str; 41] = [
        // Processors, and the choice between them.
        "amd64",
        "i386",
        "aarch64",
        "arm64",
        "armv7",
        "powerpc64",
        "ppc64",
        "s390x",
        "riscv64",
        "loongarch64",
        "mips64",
        "target_arch", //
        // Registers.
        "rax",
        "rbx",
        "rcx",
        "rdx",
        "rsi",
        "rdi",
        "rbp",
        "rsp",
        "rip",
        "eax",
        "ebx",
        "ecx",
        "edx",
        "r10",
        "r11",
        "r12",
        "r13",
        "r14",
        "r15",
        "orig_ax",
        "eflags",
        "rflags",
        "fs_base",
        "gs_base",
        "mxcsr",
        "xmm",
        "ymm",
        "zmm",
        "pkru",
    ];
    if let Some(phrase) = PHRASES.iter().find(|phrase| line.contains(*phrase)) {
        return Some((*phrase).to_owned());
    }
    let words = line.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_lowercase);
    let mut words = words.filter(|word| !word.is_empty());
    let named = words.find(|word| {
        WHOLE.contains(&word.as_str()) || ANYWHERE.iter().any(|part| word.contains(part))
    });
    // A system call by a number of one's own: SYS_READ = 0, syscall(0, …).
    let is_number = |text: &str| text.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let of_call = |text: &str| {
        let mut names = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        names.any(|name| name.starts_with("SYS_") || name.starts_with("__NR_"))
    };
    let is_own = line.split_once('=').is_some_and(|(name, to)| of_call(name) && is_number(to));
    let is_called = line.split_once("syscall(").is_some_and(|(_, first)| is_number(first));
    named.or_else(|| (is_own || is_called).then(|| "the number of a system call".to_owned()))
}

#[test]
fn words_of_processors_are_found() {
    for line in [
        "let r = registers.orig_ax;",
        "asm!(\"ud2\")",
        "const SYS_READ: usize = 0;",
        "libc::syscall(16, fd)",
        "// as the XSAVE area has it",
    ] {
        assert!(processor_word(line).is_some(), "{line}");
    }
    for line in
        ["libc::syscall(libc::SYS_prctl, 1)", "let axis = 3;", "const CAP_SYS_CHROOT: u64 = 18;"]
    {
        assert_eq!(processor_word(line), None, "{line}");
    }
}

#[test]
fn files_stay_readable() {
    let long: Vec<_> = with_extension("rs")
        .iter()
        .map(|(path, text)| (path.clone(), text.lines().count()))
        .filter(|(_, lines)| *lines > 650)
        .collect();
    assert!(long.is_empty(), "files of more than 650 lines (aim at 500): {long:?}");
}

#[test]
fn the_tree_speaks_of_itself_only() {
    // Written in halves, so that this file does not hold what it looks for.
    let words = [
        ["/work", "/wt"],
        ["/work", "/shared"],
        ["/tmp/", "team"],
        ["/tmp/", "criu"],
        ["artif", "actory"],
    ];
    let words = words.map(|halves| halves.concat());
    let mut found = Vec::new();
    for path in tracked() {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
