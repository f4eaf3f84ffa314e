//! `tidings load` and `tidings orders`: old names of `shopctl load` and `shopctl orders`.
//!
//! Programs of others call them, so they do as before: the same flags, the same stdout, the same exit codes. Nothing
//! else in this command knows a shop.

use std::process::ExitCode;

use clap::Subcommand;
use shopctl::{load, orders};
use tidings_client::{Error, Format, Target};

/// Commands that are not listed any more.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List orders, show one with its history, cancel one (`shopctl orders` now)
    #[command(hide = true)]
    Orders(orders::Args),
    /// Place many orders, wait until all have settled, report how it went (`shopctl load` now)
    #[command(hide = true)]
    Load(load::Args),
}

/// Says where the command went, to people, and runs it.
pub(crate) async fn run(command: Command, target: &Target, format: Format) -> Result<ExitCode, Error> {
    if format == Format::Text {
        eprintln!("tidings {name} is shopctl {name} now", name = command.name());
    }
    match command {
        Command::Orders(args) => orders::run(args, target, format).await,
        Command::Load(args) => load::run(args, target, format).await,
    }
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Command::Orders(_) => "orders",
            Command::Load(_) => "load",
        }
    }
}
