//! The whole shop in one process.

use std::process::ExitCode;

use shop::ShopSettings;
use tidings::config::{Settings, program_alone};

/// Messages are allocated on one thread and freed on another all the time; the system's allocator spends
/// a third of the process on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    program_alone(async {
        let (settings, shop) = Settings::with_extra::<ShopSettings>(
            "Order, payment and inventory in one process: takes orders, settles every one.",
        )?;
        tidings::run(shop::services(&shop)?, settings).await
    })
}
