//! The sandbox payment provider as a program.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use payment::psp::{Psp, serve};
use tidings::Error;
use tidings::config::exit;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Answers come from one thread's memory and go with another's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The sandbox payment provider: what `--gateway stripe:URL` needs of the provider's public HTTP API, with
/// payment methods that decline, lose an answer, are unavailable or slow. No money moves.
#[derive(Parser)]
#[command(version)]
struct CommandLine {
    /// Address of the HTTP server
    #[arg(long, value_name = "HOST:PORT", env = "TIDINGS_LISTEN", default_value = "127.0.0.1:8090")]
    listen: String,
    /// Keep the book in this file, over restarts; without it, it is kept in memory
    #[arg(long, value_name = "FILE", env = "TIDINGS_DATA")]
    data: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    exit(run(CommandLine::parse()).await.map(|()| ExitCode::SUCCESS))
}

async fn run(CommandLine { listen, data }: CommandLine) -> Result<(), Error> {
    let cannot =
        |e| Error::config(format!("cannot listen on {listen}: {e}; choose another with --listen HOST:PORT"));
    let listener = TcpListener::bind(&listen).await.map_err(cannot)?;
    let psp = data.as_deref().map(Psp::open).transpose()?.unwrap_or_default();
    let no_signals = |e| Error::config(format!("cannot listen for signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    // The real one: port 0 stands for any that is free. Nobody has to read it.
    let address = listener.local_addr().map_or(listen.clone(), |address| address.to_string());
    let _ = writeln!(std::io::stdout(), "ready listen={address}");
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    serve(listener, psp, stop).await;
    Ok(())
}
