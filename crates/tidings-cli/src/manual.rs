//! `tidings completions` and `tidings man`: the command, described to shells and to `man`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;
use tidings_client::{Error, output};

use crate::Cli;

/// Prints completions for a shell.
pub(crate) fn completions(shell: Shell) -> Result<ExitCode, Error> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidings", &mut text);
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the manual page, or writes one a command into a directory.
pub(crate) fn man(folder: Option<PathBuf>) -> Result<ExitCode, Error> {
    match folder {
        Some(folder) => {
            write_all(&folder).map_err(|error| {
                Error::new(format!("cannot write pages to {}: {error}", folder.display()))
            })?;
        }
        None => {
            let mut text = Vec::new();
            let rendered = clap_mangen::Man::new(Cli::command()).render(&mut text);
            rendered.map_err(|error| Error::new(format!("cannot make the page: {error}")))?;
            output::print(text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_all(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)
}
