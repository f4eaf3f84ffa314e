//! Logs, and the signals that stop a process.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal as listen};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
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
    let lines = Lines(settings.log_format);
    let builder = log().with_env_filter(filter).with_writer(output);
    // A test may have set a subscriber; then that one stays.
    let _ = builder.fmt_fields(JsonFields::new()).event_format(lines).try_init();
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

/// One event a line, with its fields and those of the spans around it; values cannot break the line.
///
/// As JSON: `{"time":…,"level":…,"target":…,"message":…,FIELDS}`. As text: `TIME LEVEL MESSAGE name=value …`.
struct Lines(LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (time, level) = (jiff::Timestamp::now(), event.metadata().level());
        match self.0 {
            LogFormat::Json => {
                let target = event.metadata().target();
                write!(writer, r#"{{"time":"{time:.6}","level":"{level}","target":"{target}""#)?;
            }
            LogFormat::Text => write!(writer, "{time:.3} {level:>5}")?,
        }
        let mut fields = Fields { format: self.0, writer: writer.by_ref(), key_name: None, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>();
            let inner = fields.map_or("", |f| f.trim_start_matches('{').trim_end_matches('}'));
            if !inner.is_empty() {
                let comma = if self.0 == LogFormat::Json { "," } else { " " };
                write!(writer, "{comma}{inner}")?;
            }
        }
        writer.write_str(if self.0 == LogFormat::Json { "}\n" } else { "\n" })
    }
}

struct Fields<'w> {
    format: LogFormat,
    writer: Writer<'w>,
    /// What the next field called `key` is to be called: events name their keys themselves.
    key_name: Option<String>,
    result: fmt::Result,
}

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>, is_text: bool) {
        if self.result.is_ok() {
            let renamed = if field.name() == "key" { self.key_name.take() } else { None };
            self.result = self.try_put(renamed.as_deref().unwrap_or(field.name()), value, is_text);
        }
    }

    fn try_put(&mut self, name: &str, value: fmt::Arguments<'_>, is_text: bool) -> fmt::Result {
        match self.format {
            LogFormat::Json => write!(self.writer, r#","{name}":"#)?,
            LogFormat::Text if name == "message" => self.writer.write_char(' ')?,
            LogFormat::Text => write!(self.writer, " {name}=")?,
        }
        let quotes = is_text && self.format == LogFormat::Json;
        if quotes {
            self.writer.write_char('"')?;
        }
        fmt::write(&mut Escaped(&mut self.writer), value)?;
        if quotes {
            self.writer.write_char('"')?;
        }
        Ok(())
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "key_name" {
            self.key_name = Some(value.to_owned()).filter(|name| !name.is_empty());
            return;
        }
        self.put(field, format_args!("{value}"), true);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, format_args!("{value}"), false);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, format_args!("{value}"), false);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, format_args!("{value}"), false);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format_args!("{value:?}"), true);
    }
}

/// Writes text as the inside of a JSON string: no value can forge a line, in either format.
struct Escaped<W>(W);

impl<W: fmt::Write> fmt::Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        // What has to be escaped is ASCII (or C1 controls, which start with the byte 0xc2).
        while let Some(at) =
            rest.bytes().position(|b| b < 0x20 || b == b'"' || b == b'\\' || b == 0x7f || b == 0xc2)
        {
            self.0.write_str(&rest[..at])?;
            let special = rest[at..].chars().next().unwrap_or_default();
            match special {
                '"' | '\\' => {
                    self.0.write_char('\\')?;
                    self.0.write_char(special)?;
                }
                '\n' => self.0.write_str("\\n")?,
                control if control.is_control() => write!(self.0, "\\u{:04x}", u32::from(control))?,
                harmless => self.0.write_char(harmless)?,
            }
            rest = &rest[at + special.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::Escaped;

    #[test]
    fn a_value_cannot_forge_a_log_line() {
        let forged = "x\"}\n{\"level\":\"ERROR\u{1b} \u{85} é";
        let mut line = String::from('"');
        Escaped(&mut line).write_str(forged).unwrap();
        line.push('"');
        assert_eq!(line.lines().count(), 1);
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), forged);
    }
}
