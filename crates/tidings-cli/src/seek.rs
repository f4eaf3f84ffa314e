//! `tidings seek`: has a paused service read a topic on from elsewhere.

use std::process::ExitCode;

use serde_json::{Value, json};
use tidings_client::output::{self, grouped};
use tidings_client::{Error, Format, Target};

use crate::change::{Actor, reason};
use crate::draw;
use crate::services::Services;

/// Have a paused service read a topic on from elsewhere
///
/// What is read again and was handled is recognised; to have events handled again see `tidings replay`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The service
    #[arg(long, value_name = "NAME")]
    service: String,
    /// The topic
    #[arg(long)]
    topic: String,
    /// `beginning`, `end`, an offset, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// Only this partition
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Leave out records that were not read
    #[arg(long)]
    skip: bool,
    /// Change nothing; show what would be read again and left out
    #[arg(long)]
    dry_run: bool,
    /// Reason, recorded in the audit
    #[arg(long, value_name = "TEXT", value_parser = reason, required_unless_present = "dry_run")]
    reason: Option<String>,
    #[command(flatten)]
    actor: Actor,
}

pub(crate) async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut services = Services::of(target);
    let mut service = services.by_name().await?.service(&args.service)?;
    let mut body = json!({
        "service": args.service, "topic": args.topic, "to": args.to, "skip": args.skip, "dry_run": args.dry_run,
    });
    if let Some(partition) = args.partition {
        body["partition"] = json!(partition);
    }
    let done = service.post("/admin/seek", &args.actor.body(body, args.reason.as_deref())).await?;
    output::print(match format {
        Format::Json => done.to_string(),
        Format::Text => told(&args, &done),
    })?;
    Ok(services.code())
}

fn told(args: &Args, done: &Value) -> String {
    let rows = done["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let columns: [(&str, &[&str]); 3] = [("PARTITION", &["partition"]), ("FROM", &["from"]), ("TO", &["to"])];
    let table = draw::table(&columns, &[], rows, "no partitions");
    let [again, skipped] = ["read_again", "skipped"].map(|name| grouped(done[name].as_u64().unwrap_or(0)));
    let service = &args.service;
    let next = match done["changed"].as_bool() {
        Some(true) => format!(
            "{service} goes on there once it is resumed: tidings resume service --service {service} --reason …"
        ),
        _ => "nothing was changed".to_owned(),
    };
    format!("{table}\n{again} records are read again, {skipped} are left out; {next}\n")
}
