//! The inventory service as a program of its own.

use std::process::ExitCode;

use inventory::InventorySettings;
use tidings::config::{Settings, program};

/// Messages are allocated on one thread and freed on another all the time; the system's allocator spends
/// a third of the process on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    program(async {
        let (settings, inventory) =
            Settings::of_service::<InventorySettings>(inventory::ABOUT, &contracts::SETTINGS)?;
        tidings::run(vec![inventory::service(inventory.catalogue.as_deref())?], settings).await
    })
}
