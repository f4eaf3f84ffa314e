//! The payment service in a process of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use payment::PaymentSettings;
use serde::{Deserialize, Serialize};
use tidings::config::{Settings, program};

/// Messages are allocated on one thread and freed on another all the time; the system's allocator spends
/// a third of the process on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Settings of the program.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
struct ProgramSettings {
    #[command(flatten)]
    #[serde(flatten)]
    payment: PaymentSettings,
    /// JSON file with products: whether their prices can be paid is seen at the start [env: TIDINGS_CATALOGUE]
    #[arg(long, value_name = "FILE", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    catalogue: Option<PathBuf>,
}

fn main() -> ExitCode {
    program(async {
        let (settings, payment) =
            Settings::of_service::<ProgramSettings>(payment::ABOUT, &contracts::SETTINGS)?;
        tidings::run(vec![payment::service(&payment.payment, payment.catalogue.as_deref())?], settings).await
    })
}
