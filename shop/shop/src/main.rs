//! The whole shop in one process.

use std::process::ExitCode;

use shop::ShopSettings;
use tidings::config::{Settings, exit};

#[tokio::main]
async fn main() -> ExitCode {
    let run = async {
        let (settings, shop) = Settings::with_extra::<ShopSettings>(
            "Order, payment and inventory in one process: takes orders, settles every one.",
        )?;
        tidings::run(shop::services(&shop)?, settings).await
    };
    exit(run.await)
}
