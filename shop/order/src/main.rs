//! The order service as a program of its own.

use std::process::ExitCode;

use order::OrderSettings;
use tidings::config::{Settings, program};

/// Messages are allocated on one thread and freed on another all the time; the system's allocator spends
/// a third of the process on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    program(async {
        let (settings, order) = Settings::of_service::<OrderSettings>(order::ABOUT, &contracts::SETTINGS)?;
        tidings::run(vec![order::service(&order)?], settings).await
    })
}
