use std::env;
use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;

use crate::Failed;

/// Builds also what needs Kafka's client, and what goes with Kafka only.
pub(crate) const KAFKA: &[&str] = &["--features", "kafka,registry"];

pub(crate) fn run(mut command: Command) -> Result<(), Failed> {
    announce(&command);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Failed),
        Err(e) => Err(cannot_run(&command, &e)),
    }
}

pub(crate) fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(root());
    cargo
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies in the workspace")
}

pub(crate) fn announce(command: &Command) {
    let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let program = Path::new(command.get_program()).file_stem().unwrap_or(command.get_program());
    println!("$ {} {}", program.display(), args.join(" "));
    // Before the output of the command itself, which is not ours.
    let _ = io::stdout().flush();
}

fn cannot_run(command: &Command, e: &io::Error) -> Failed {
    eprintln!("cannot run {}: {e}", command.get_program().display());
    Failed
}
