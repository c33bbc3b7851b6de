//! A program that changed its root directory.

use std::fs;

use crate::stage::{Findings, Outcome, Stage};

pub(crate) fn run(stage: &Stage) -> Outcome {
    fs::create_dir(stage.path("inside")).expect("mkdir");
    fs::write(stage.path("inside/file"), "in the jail").expect("write");
    std::os::unix::fs::chroot(stage.dir()).expect("chroot");
    std::env::set_current_dir("/inside").expect("chdir");
    stage.is_the_root();
    let open = fs::File::open("file").expect("open");
    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("current directory", &Some("/inside".into()), &std::env::current_dir().ok());
    let relative = fs::read_to_string("file").unwrap_or_default();
    found.same("relative path", &"in the jail", &relative.as_str());
    let absolute = fs::read_to_string("/inside/file").unwrap_or_default();
    found.same("absolute path", &"in the jail", &absolute.as_str());
    found.must("the outside is out of sight", !fs::exists("/proc/self").unwrap_or(true));
    found.works("open file", open.metadata());
    found.outcome()
}
