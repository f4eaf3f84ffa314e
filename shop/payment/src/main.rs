//! The payment service in a process of its own.

use std::process::ExitCode;

use payment::PaymentSettings;
use tidings::config::{Settings, program};

/// Messages are allocated on one thread and freed on another all the time; the system's allocator spends
/// a third of the process on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    program(async {
        let (settings, payment) = Settings::of_service::<PaymentSettings>(payment::ABOUT)?;
        tidings::run(vec![payment::service(&payment)?], settings).await
    })
}
