//! `tidings tail`: what is put on a topic, a line each, for as long as one looks.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tidings_client::output::{self, Reader, printable};
use tidings_client::{Client, Error, Format, Target, percent_encoded};
use tokio::time::sleep;

/// The seconds for which the service may hold a request open while no message comes.
const WAIT_SECONDS: u32 = 20;
/// Messages of one answer.
const BATCH_MAX: u32 = 500;
/// A service that is away for longer is not waited for.
const AWAY_MAX: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Messages that are wanted, and the place to begin.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A topic that the service writes or reads, or its dead letters
    topic: String,
    /// The place to begin: beginning, end, an offset in every partition, a time (2026-01-02T03:04:05Z) or how long ago (15m)
    #[arg(long, value_name = "PLACE", default_value = "end", allow_hyphen_values = true)]
    from: String,
    /// Only messages with this key
    #[arg(long, allow_hyphen_values = true)]
    key: Option<String>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// End after this many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// Follows a topic until it has shown as many as wanted, or until Ctrl-C.
pub(crate) async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    tokio::select! {
        done = follow(&args, target, format) => done?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|e| Error::new(format!("cannot wait for Ctrl-C: {e}")))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn follow(args: &Args, target: &Target, format: Format) -> Result<(), Error> {
    let line = Line::of(format);
    let mut service = target.client(&args.path(1, 0, &Place::From("end"))).await?;
    // Where to begin is settled at once, and not when the first message comes.
    let mut batch = ask(&mut service, &args.path(args.batch(0), 0, &Place::From(&args.from))).await?;
    let mut shown = 0;
    loop {
        let mut text = String::new();
        for message in &batch.messages {
            line.write(&mut text, message)?;
        }
        shown += batch.messages.len() as u64;
        if !text.is_empty() && output::print(text)? == Reader::Gone {
            return Ok(());
        }
        if args.limit.is_some_and(|limit| shown >= limit) {
            return Ok(());
        }
        let path = args.path(args.batch(shown), WAIT_SECONDS, &Place::Cursor(&batch.cursor));
        batch = ask_patiently(&mut service, &path).await?;
    }
}

/// Asks again while a service restarts: the cursor marks where to go on, so no message is missed.
async fn ask_patiently(service: &mut Client, path: &str) -> Result<Batch, Error> {
    let mut away: Option<Instant> = None;
    loop {
        match ask(service, path).await {
            Err(error) if error.is_passing() => {
                if away.is_none() {
                    let then = format!("; trying again for {} s", AWAY_MAX.as_secs());
                    output::report_error("tidings", &error, &then);
                }
                if away.get_or_insert_with(Instant::now).elapsed() > AWAY_MAX {
                    return Err(error);
                }
                sleep(error.retry_after().unwrap_or(RETRY_PAUSE).max(RETRY_PAUSE)).await;
            }
            answer => return answer,
        }
    }
}

async fn ask(service: &mut Client, path: &str) -> Result<Batch, Error> {
    let body = service.get(path).await?;
    serde_json::from_slice(&body)
        .map_err(|error| Error::new(format!("cannot read the answer to GET {path}: {error}")))
}

enum Place<'a> {
    From(&'a str),
    Cursor(&'a str),
}

impl Args {
    fn path(&self, limit: u32, wait: u32, place: &Place<'_>) -> String {
        let (name, place) = match place {
            Place::From(place) => ("from", place),
            Place::Cursor(place) => ("cursor", place),
        };
        let topic = percent_encoded(&self.topic);
        let mut path = format!("/admin/topics/{topic}/messages?{name}={}", percent_encoded(place));
        for (name, value) in [("key", &self.key), ("type", &self.event_type)] {
            if let Some(value) = value {
                let _ = write!(path, "&{name}={}", percent_encoded(value));
            }
        }
        let _ = write!(path, "&limit={limit}&wait={wait}");
        path
    }

    /// The number of messages to ask for next, after `shown` messages were shown.
    fn batch(&self, shown: u64) -> u32 {
        let left = self.limit.map_or(u64::MAX, |limit| limit - shown);
        left.try_into().unwrap_or(u32::MAX).min(BATCH_MAX)
    }
}

/// Messages, each as the service has written it: on one line.
#[derive(Deserialize)]
struct Batch {
    messages: Vec<Box<RawValue>>,
    cursor: String,
}

/// The parts of a message that people are shown.
#[derive(Deserialize)]
struct Message<'a> {
    partition: i32,
    offset: i64,
    time: String,
    id: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    streamseq: Option<u64>,
    key: Option<Value>,
    encoding: String,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// The form in which a message becomes a line.
enum Line {
    Json,
    Plain,
    Coloured,
}

impl Line {
    fn of(format: Format) -> Line {
        let is_coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        match format {
            Format::Json => Line::Json,
            Format::Text if is_coloured => Line::Coloured,
            Format::Text => Line::Plain,
        }
    }

    fn write(&self, text: &mut String, message: &RawValue) -> Result<(), Error> {
        if matches!(self, Line::Json) {
            text.push_str(message.get());
            text.push('\n');
            return Ok(());
        }
        let message: Message<'_> = serde_json::from_str(message.get())
            .map_err(|error| Error::new(format!("cannot read a message of the answer: {error}")))?;
        let place = format!("{}/{}", message.partition, message.offset);
        let event_type = printable(message.event_type.as_deref().unwrap_or("-"));
        let key = match &message.key {
            None => "-".to_owned(),
            Some(Value::String(key)) => printable(key),
            Some(bytes) => printable(&bytes.to_string()),
        };
        let seq = message.streamseq.map_or_else(|| "-".to_owned(), |seq| format!("#{seq}"));
        // What `tidings events show` takes.
        let id = printable(message.id.as_deref().unwrap_or("-"));
        let value = match message.encoding.as_str() {
            "json" => printable(message.value.get()),
            encoding => {
                let value: String = serde_json::from_str(message.value.get()).unwrap_or_default();
                let value = printable(&value);
                if encoding == "text" { value } else { format!("{}:{value}", printable(encoding)) }
            }
        };
        let [dim, bold, usual] = match self {
            Line::Coloured => ["\x1b[2m", "\x1b[1m", "\x1b[0m"],
            _ => [""; 3],
        };
        let time = printable(&message.time);
        let _ = writeln!(
            text,
            "{dim}{time}  {place:6}{usual}  {bold}{event_type:22}{usual}  {key}  {seq}  {dim}{id}{usual}  {value}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn shows(line: &Line, message: &Value, expected: Expect) {
        let mut text = String::new();
        line.write(&mut text, &serde_json::value::to_raw_value(message).unwrap()).unwrap();
        expected.assert_eq(&text);
    }

    fn event() -> Value {
        json!({
            "topic": "teas", "partition": 3, "offset": 17, "time": "2026-01-02T03:04:05.678Z", "id": "e-1",
            "type": "tea.made.v1", "streamseq": 2, "key": "t-1", "headers": {}, "encoding": "json", "value": {"cups": 2},
        })
    }

    #[test]
    fn an_event_is_a_line() {
        shows(
            &Line::Plain,
            &event(),
            expect![[r#"
            2026-01-02T03:04:05.678Z  3/17    tea.made.v1             t-1  #2  e-1  {"cups":2}
        "#]],
        );
        let mut text = String::new();
        Line::Coloured.write(&mut text, &serde_json::value::to_raw_value(&event()).unwrap()).unwrap();
        assert!(text.contains("\x1b[1mtea.made.v1           \x1b[0m"), "{text}");
    }

    #[test]
    fn what_is_no_event_is_shown_and_does_not_talk_to_the_terminal() {
        shows(
            &Line::Plain,
            &json!({
                "topic": "teas", "partition": 0, "offset": 0, "time": "2026-01-02T03:04:05Z", "key": null,
                "headers": {}, "encoding": "text", "value": "\u{1b}[2Jtea\n\u{9b}\u{202e}please",
            }),
            expect![[r#"
                2026-01-02T03:04:05Z  0/0     -                       -  -  -  \u{1b}[2Jtea\n\u{9b}\u{202e}please
            "#]],
        );
        shows(
            &Line::Plain,
            &json!({
                "topic": "teas", "partition": 0, "offset": 1, "time": "2026-01-02T03:04:05Z", "key": {"base64": "/w=="},
                "headers": {}, "encoding": "base64", "value": "/wA=",
            }),
            expect![[r#"
                2026-01-02T03:04:05Z  0/1     -                       {"base64":"/w=="}  -  -  base64:/wA=
            "#]],
        );
    }

    #[test]
    fn what_is_wanted_becomes_a_query() {
        let args = Args {
            topic: "teas".into(),
            from: "2026-01-02T03:04:05+01:00".into(),
            key: Some("t&1".into()),
            event_type: None,
            limit: Some(3),
        };
        let path = args.path(args.batch(1), 20, &Place::From(&args.from));
        assert_eq!(
            "/admin/topics/teas/messages?from=2026-01-02T03%3A04%3A05%2B01%3A00&key=t%261&limit=2&wait=20",
            path
        );
    }
}
