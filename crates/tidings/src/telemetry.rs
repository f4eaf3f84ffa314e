//! Logs, and the signals that stop a process.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal as listen};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, fmt as log};

use crate::error::Error;
use crate::panic::lock;

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Lines are written together, when this many bytes have come together …
const BUFFER_BYTES: usize = 32 * 1024;
/// … or this much time has passed; warnings and errors at once.
const FLUSH_EVERY: Duration = Duration::from_millis(20);
/// Bytes of lines that wait for a reader that stalls, some thousand of them. Lines beyond it are dropped and
/// counted: a log must not stop a service.
const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// The longest time that the end of a process waits for its last lines.
const LAST_LINES_MAX: Duration = Duration::from_millis(500);
/// The pause after which a pipe is tried again that is full and does not block.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Lines of this process that were dropped so far.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// The output that this process logs to, once it does.
static OUTPUT: OnceLock<Output> = OnceLock::new();

/// Starts logging to standard output, once per process.
pub(crate) fn start(directives: &str, format: LogFormat) {
    // The pool says of each lost connection that it is lost, and not why: who needed it says both.
    let pool = if directives.contains("deadpool") { "" } else { ",deadpool.postgres=error" };
    let filter = EnvFilter::try_new(format!("{directives}{pool}"));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    let output = Output::new(format);
    let lines = Lines(format);
    let builder = log().with_env_filter(filter).with_writer(output.clone());
    // A test may have set a subscriber; then that one stays.
    if builder.fmt_fields(JsonFields::new()).event_format(lines).try_init().is_ok() {
        output.write_in_a_thread();
        let _ = OUTPUT.set(output);
        // Standard error may be the same pipe, and whoever writes there waits for its reader.
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let message = panic.payload_as_str().unwrap_or("no message");
            tracing::error!(place, "panicked: {message}");
        }));
    }
}

/// Refuses a filter that would not do what it looks like: `inof` is a target to `tracing`, and all is silent.
pub(crate) fn check(filter: &str) -> Result<(), Error> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let wrong = |why: String| {
        Error::config(format!(
            "the log filter {filter:?} (--log, TIDINGS_LOG) {why}: use error, warn, info, debug, trace or off, or directives as info,tidings::path=debug"
        ))
    };
    for directive in filter.split(',').map(str::trim) {
        let is_bare = !directive.contains(['=', '[', ':']);
        if is_bare && !levels.iter().any(|level| directive.eq_ignore_ascii_case(level)) {
            return Err(wrong(format!("has {directive:?}, which is no level")));
        }
    }
    EnvFilter::try_new(filter).map(drop).map_err(|e| wrong(format!("is not understood ({e})")))
}

/// Returns the number of log lines that were dropped because no reader took them.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Waits a moment until the lines logged so far are written: before a process ends.
pub(crate) async fn finish() {
    let Some(output) = OUTPUT.get() else { return };
    let begun = Instant::now();
    while !output.is_written() && begun.elapsed() < LAST_LINES_MAX {
        output.0.changed.notify_one();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// SIGTERM and SIGINT: listened for from the start, so that none is missed between two waits.
pub(crate) struct Signals(Option<(Signal, Signal)>);

impl Signals {
    pub(crate) fn new() -> Self {
        Self(listen(SignalKind::terminate()).ok().zip(listen(SignalKind::interrupt()).ok()))
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        let Some((terminate, interrupt)) = &mut self.0 else { return std::future::pending().await };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// Standard output behind a bounded buffer and one thread that writes: a line costs a copy, and a reader that
/// stalls holds up no writer.
#[derive(Clone)]
struct Output(Arc<LogBuffer>);

struct LogBuffer {
    format: LogFormat,
    waiting: Mutex<WaitingLines>,
    changed: Condvar,
}

#[derive(Default)]
struct WaitingLines {
    lines: Vec<u8>,
    /// Lines that were dropped since the last ones were taken out.
    dropped: u64,
    /// Write at once.
    urgent: bool,
    /// Lines were taken out and are not written yet.
    writing: bool,
}

impl Output {
    fn new(format: LogFormat) -> Self {
        Self(Arc::new(LogBuffer { format, waiting: Mutex::default(), changed: Condvar::new() }))
    }

    fn push(&self, line: &[u8], urgent: bool) {
        let mut waiting = lock(&self.0.waiting);
        if waiting.lines.len() + line.len() > WAITING_BYTES_MAX {
            waiting.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(line);
        if (urgent || waiting.lines.len() >= BUFFER_BYTES) && !waiting.urgent {
            waiting.urgent = true;
            self.0.changed.notify_one();
        }
    }

    fn write_in_a_thread(&self) {
        let output = self.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        let started = thread.spawn(move || {
            let mut lines = Vec::new();
            loop {
                output.take(&mut lines);
                write_out(&lines);
                lock(&output.0.waiting).writing = false;
            }
        });
        if let Err(e) = started {
            eprintln!("nothing is logged: cannot start a thread: {e}");
        }
    }

    /// Waits for lines and takes them out, with a line that says how many are missing after them.
    fn take(&self, lines: &mut Vec<u8>) {
        lines.clear();
        let waiting = lock(&self.0.waiting);
        let waited = self.0.changed.wait_timeout_while(waiting, FLUSH_EVERY, |waiting| !waiting.urgent);
        let (mut waiting, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::swap(&mut waiting.lines, lines);
        if waiting.dropped > 0 {
            lines.extend_from_slice(self.0.format.dropped(waiting.dropped).as_bytes());
        }
        (waiting.urgent, waiting.dropped, waiting.writing) = (false, 0, true);
    }

    fn is_written(&self) -> bool {
        let waiting = lock(&self.0.waiting);
        waiting.lines.is_empty() && waiting.dropped == 0 && !waiting.writing
    }
}

/// Writes, however long that takes. Once the reader is gone, lines are lost: that must not stop a service.
fn write_out(mut lines: &[u8]) {
    let mut output = std::io::stdout().lock();
    while !lines.is_empty() {
        match output.write(lines) {
            Ok(0) => return,
            Ok(written) => lines = &lines[written..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
            Err(_) => return,
        }
    }
    let _ = output.flush();
}

impl LogFormat {
    /// The line that stands for lines that were dropped.
    fn dropped(self, count: u64) -> String {
        let time = jiff::Timestamp::now();
        let message = "log lines were dropped here, because nobody read them";
        match self {
            Self::Json => {
                format!(
                    r#"{{"time":"{time:.6}","level":"WARN","target":"tidings::telemetry","message":"{message}","dropped":{count}}}"#
                ) + "\n"
            }
            Self::Text => format!("{time:.3}  WARN {message} dropped={count}\n"),
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

/// Gets each line in one call.
struct Line<'a> {
    output: &'a Output,
    urgent: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.output.push(line, self.urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
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
    /// The name of the next field called `key`: events name their keys themselves.
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

    use super::*;

    #[test]
    fn lines_that_nobody_reads_are_bounded_and_what_is_missing_is_told() {
        let output = Output::new(LogFormat::Text);
        let line = [b'x'; 1000];
        for _ in 0..2000 {
            output.push(&line, true);
        }
        let mut taken = Vec::new();
        output.take(&mut taken);
        let text = String::from_utf8(taken).unwrap();
        assert!(text.len() < WAITING_BYTES_MAX + 200, "{}", text.len());
        let kept = WAITING_BYTES_MAX / line.len();
        assert!(text.ends_with(&format!("dropped={}\n", 2000 - kept)), "{}", &text[text.len() - 200..]);
        assert_eq!(output.0.format.dropped(3).lines().count(), 1);
        assert!(serde_json::from_str::<serde_json::Value>(&LogFormat::Json.dropped(3)).is_ok());
    }

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
