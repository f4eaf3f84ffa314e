//! Logs, and the signals that stop a process.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal as listen};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, fmt as log};

use crate::config::{LogFormat, Settings};
use crate::sqlite::lock;

/// Lines are written together, when so many bytes have come together …
const BUFFER_BYTES: usize = 32 * 1024;
/// … or so much time has passed; warnings and errors at once.
const FLUSH_EVERY: Duration = Duration::from_millis(20);

/// Starts logging to standard output, once per process.
pub(crate) fn start(settings: &Settings) {
    let filter = EnvFilter::try_new(&settings.log).unwrap_or_else(|e| {
        eprintln!("the log filter {:?} is not understood ({e}); logging at info", settings.log);
        EnvFilter::new("info")
    });
    let output = Output::default();
    output.clone().flush_regularly();
    let builder = log().with_env_filter(filter).with_writer(output);
    // A test may have set a subscriber; then that one stays.
    let _ = match settings.log_format {
        LogFormat::Json => builder.event_format(JsonLines).fmt_fields(log::format::JsonFields::new()).try_init(),
        LogFormat::Text => builder.with_target(false).try_init(),
    };
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (listen(SignalKind::terminate()), listen(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Standard output behind a buffer: under load a line costs a copy, not a system call.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn flush_regularly(self) {
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(FLUSH_EVERY);
                self.write_out(&mut lock(&self.0));
            }
        });
    }

    #[allow(clippy::unused_self)] // the buffer is self's, locked by the caller
    fn write_out(&self, buffer: &mut Vec<u8>) {
        if !buffer.is_empty() {
            // Nobody reads the log any more: that must not stop the service.
            let _ = std::io::stdout().lock().write_all(buffer);
            buffer.clear();
        }
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { output: self, urgent: true }
    }

    fn make_writer_for(&'a self, metadata: &tracing::Metadata<'_>) -> Line<'a> {
        let urgent = *metadata.level() <= Level::WARN;
        Line { output: self, urgent }
    }
}

struct Line<'a> {
    output: &'a Output,
    urgent: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut buffer = lock(&self.output.0);
        buffer.extend_from_slice(bytes);
        if self.urgent || buffer.len() >= BUFFER_BYTES {
            self.output.write_out(&mut buffer);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.write_out(&mut lock(&self.output.0));
        Ok(())
    }
}

/// One flat JSON object a line: `time`, `level`, `message`, then the fields of the event and of the
/// spans around it.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        write!(
            writer,
            r#"{{"time":"{}","level":"{}","target":"{}""#,
            jiff::Timestamp::now(),
            metadata.level(),
            metadata.target()
        )?;
        let mut fields = JsonFields {
            writer: writer.by_ref(),
            result: Ok(()),
        };
        event.record(&mut fields);
        fields.result?;
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<log::FormattedFields<N>>() {
                let inner = fields.trim_start_matches('{').trim_end_matches('}');
                if !inner.is_empty() {
                    write!(writer, ",{inner}")?;
                }
            }
        }
        writeln!(writer, "}}")
    }
}

struct JsonFields<'w> {
    writer: Writer<'w>,
    result: fmt::Result,
}

impl JsonFields<'_> {
    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_ok() {
            self.result = write!(self.writer, r#","{}":{value}"#, field.name());
        }
    }

    fn put_text(&mut self, field: &Field, text: &str) {
        self.put(field, format_args!("{}", Quoted(text)));
    }
}

impl Visit for JsonFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, &format!("{value:?}"));
    }
}

/// Text as a JSON string; control characters are escaped, so that no value can forge a line.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        f.write_char('"')?;
        let mut rest = self.0;
        while let Some(at) = rest.find(|c: char| c == '"' || c == '\\' || c.is_control()) {
            f.write_str(&rest[..at])?;
            let special = rest[at..].chars().next().unwrap_or_default();
            match special {
                '"' | '\\' => write!(f, "\\{special}")?,
                '\n' => f.write_str("\\n")?,
                control => write!(f, "\\u{:04x}", u32::from(control))?,
            }
            rest = &rest[at + special.len_utf8()..];
        }
        f.write_str(rest)?;
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::Quoted;

    #[test]
    fn a_value_cannot_forge_a_log_line() {
        let forged = "x\"}\n{\"level\":\"ERROR\u{1b}";
        let line = Quoted(forged).to_string();
        assert_eq!(line.lines().count(), 1);
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), forged);
    }
}
