//! `--exec-cmd`: the program that who has restored becomes.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Command;

use tracing::error;

use crate::options::Options;

/// Becomes the program that is wanted in place of who has restored. It returns only to say why not.
pub(crate) fn execute(options: &Options) -> String {
    become_program(options, None)
}

/// The same for a worker: what the program says goes into the log.
pub(crate) fn execute_with_log(options: &Options) {
    let work = options.work_dir.as_ref().or(options.images_dir.as_ref());
    let log = work.zip(options.log_file.as_ref()).map(|(work, name)| work.join(name));
    let log = log.and_then(|log| File::options().append(true).open(log).ok());
    error!("{}", become_program(options, log));
}

fn become_program(options: &Options, log: Option<File>) -> String {
    let [program, arguments @ ..] = &options.exec[..] else { return String::new() };
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(work) = options.work_dir.as_ref().or(options.images_dir.as_ref()) {
        command.current_dir(work);
    }
    if let Some((out, log)) = log.and_then(|log| Some((log.try_clone().ok()?, log))) {
        command.stdout(out).stderr(log);
    }
    let error = command.exec();
    format!("Failed to exec command {}: {error}", program.display())
}
