//! `tidings audit`: who changed what, and why.

use std::process::ExitCode;

use jiff::Timestamp;
use tidings_client::{Error, Format, Target};

use crate::dlq::time;
use crate::draw;
use crate::list::{Limit, List, Order, PAGE, Query};
use crate::services::Services;

/// Show who changed what and why, newest first
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only in this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only this action
    #[arg(long)]
    action: Option<String>,
    /// Only from then on: a time (2026-01-02T03:04:05Z) or how long ago (15m)
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    #[command(flatten)]
    limit: Limit,
}

pub(crate) async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut services = Services::of(target);
    let since = args.since.map(|since| since.to_string());
    let query =
        Query::new("/admin/audit").with("action", args.action.as_deref()).with("since", since.as_deref());
    let order = Order::Newest("at");
    let list = List { query, service: args.service, order, limit: args.limit.limit, page: Some(PAGE) };
    list.read(&mut services).await?.print(format, &services, |rows| {
        draw::table(
            &[
                ("TIME", &["at"]),
                ("SERVICE", &["service"]),
                ("BY", &["actor"]),
                ("ACTION", &["action"]),
                ("SUBJECT", &["subject"]),
                ("REASON", &["reason"]),
                ("DETAIL", &["detail"]),
            ],
            &["at"],
            rows,
            "nothing was changed",
        )
    })
}
