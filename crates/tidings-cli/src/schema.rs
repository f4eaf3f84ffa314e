//! `tidings schema`: whether what programs say goes together with all that was ever released.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};
use tidings_client::{Client, Error, Format, Target, output};
use tidings_schema::{Baseline, Contract, Report, gate};

use crate::{asyncapi, input};

/// Judge a change of events, record it, see who reads what
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare events with every released revision; fails if a change breaks anybody
    Check(Place),
    /// Check, and write what has changed as new revisions
    Record(Place),
    /// Show who writes and who reads an event type, or all of them
    WhoReads {
        /// `order.created.v1`
        event_type: Option<String>,
        #[command(flatten)]
        source: Source,
    },
}

#[derive(clap::Args)]
struct Place {
    /// The directory of released revisions
    #[arg(long, value_name = "DIR", env = "TIDINGS_SCHEMAS", default_value = "shop/contracts/schemas")]
    dir: PathBuf,
    #[command(flatten)]
    source: Source,
}

#[derive(clap::Args)]
struct Source {
    /// Files with what programs print as their `schemas` or `asyncapi`, `-` for standard input; without it, running services are asked
    #[arg(long = "of", value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Does what was asked. The exit code is 1 when a change breaks a reader.
pub(crate) async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    match args.command {
        Command::Check(place) => {
            if !place.dir.is_dir() {
                let shown = place.dir.display();
                return Err(Error::new(format!(
                    "there is no directory {shown}: name the one with the released revisions with --dir, or make it with `schema record`"
                )));
            }
            let (baseline, contract) = place.read(target).await?;
            // Everything goes together with nothing: most likely another directory is meant.
            if baseline.types().next().is_none() {
                let shown = place.dir.display();
                return Err(Error::new(format!(
                    "no released revisions in {shown}: name the directory that has them with --dir, or release the first ones with `schema record`"
                )));
            }
            judge(&baseline, &contract, format)
        }
        Command::Record(place) => {
            let (baseline, contract) = place.read(target).await?;
            let code = judge(&baseline, &contract, format)?;
            if code == ExitCode::SUCCESS {
                for written in
                    baseline.record(&place.dir, &contract).map_err(|e| Error::new(e.to_string()))?
                {
                    output::print(output::printable(&format!("recorded {written}")))?;
                }
            }
            Ok(code)
        }
        Command::WhoReads { event_type, source } => {
            let contract = source.read(target).await?;
            who_reads(&contract, event_type.as_deref(), format)
        }
    }
}

impl Place {
    /// Reads what was released, and what the programs say now.
    async fn read(&self, target: &Target) -> Result<(Baseline, Contract), Error> {
        let contract = self.source.read(target).await?;
        let baseline = Baseline::read(&self.dir).map_err(|e| Error::new(e.to_string()))?;
        Ok((baseline, contract))
    }
}

fn judge(baseline: &Baseline, contract: &Contract, format: Format) -> Result<ExitCode, Error> {
    let report = gate(baseline, contract);
    output::print(match format {
        Format::Text => output::printable_lines(&report.to_string()),
        Format::Json => as_json(&report).to_string(),
    })?;
    Ok(if report.is_compatible() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn as_json(report: &Report) -> Value {
    let findings = report.findings.iter().map(|finding| {
        json!({"type": finding.event_type(), "breaking": finding.is_breaking(), "text": finding.to_string()})
    });
    json!({"compatible": report.is_compatible(), "findings": findings.collect::<Vec<_>>()})
}

fn who_reads(contract: &Contract, wanted: Option<&str>, format: Format) -> Result<ExitCode, Error> {
    let mut rows = Vec::new();
    for (event_type, event) in contract.iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name))
    {
        let read_as = event.read_as.iter().map(|(group, newer)| format!("{group} (as {newer})"));
        let read_by: Vec<String> = event.read_by.iter().cloned().chain(read_as).collect();
        let written_by: Vec<&str> = event.written_by.iter().map(String::as_str).collect();
        rows.push(json!({
            "type": event_type,
            "topic": event.topic,
            "written_by": written_by.join(", "),
            "read_by": read_by.join(", "),
        }));
    }
    if let (Some(wanted), []) = (wanted, rows.as_slice()) {
        return Err(Error::new(format!("nobody writes or reads {wanted}")));
    }
    output::print(match format {
        Format::Json => Value::Array(rows).to_string(),
        Format::Text => output::table(
            &[
                ("TYPE", &["type"]),
                ("TOPIC", &["topic"]),
                ("WRITTEN BY", &["written_by"]),
                ("READ BY", &["read_by"]),
            ],
            &rows,
        ),
    })?;
    Ok(ExitCode::SUCCESS)
}

impl Source {
    async fn read(&self, target: &Target) -> Result<Contract, Error> {
        let mut whole = Contract::new();
        for file in &self.files {
            let said = parse(&file.display().to_string(), &input::read(file)?)?;
            if said.is_empty() {
                return Err(Error::new(format!("no event types in {}", file.display())));
            }
            tidings_schema::merge(&mut whole, said);
        }
        if self.files.is_empty() {
            for endpoint in target.endpoints() {
                let answer = Client::to(endpoint.clone()).get("/schemas.json").await?;
                tidings_schema::merge(&mut whole, parse(&endpoint.url, &answer)?);
            }
            // One of several may serve routes alone.
            if whole.is_empty() {
                let urls: Vec<&str> = target.endpoints().iter().map(|endpoint| &*endpoint.url).collect();
                return Err(Error::new(format!("no event types in what {} says", urls.join(", "))));
            }
        }
        Ok(whole)
    }
}

fn parse(whose: &str, text: &[u8]) -> Result<Contract, Error> {
    let failed = |e| Error::new(format!("{whose} does not say its schemas: {e}"));
    let said: Value = serde_json::from_slice(text).map_err(failed)?;
    match (said["asyncapi"].as_str(), said["openapi"].as_str()) {
        (Some(version), _) if version.starts_with("3.") => Ok(asyncapi::contract(&said)),
        (Some(version), _) => {
            Err(Error::new(format!("{whose} is AsyncAPI {version}; give one of version 3")))
        }
        (None, Some(_)) => Err(Error::new(format!(
            "{whose} is an OpenAPI document, which describes routes and no events; give what the program prints as `schemas` or `asyncapi`"
        ))),
        // From the text, so that the error says where.
        (None, None) => serde_json::from_slice(text).map_err(failed),
    }
}
