//! Failure as Prometheus sees it: counts, ages, pauses, breakers, histograms.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tidings_testkit::event::NOTES;
use tidings_testkit::wire::Binary;
use tidings_testkit::{TestApp, eventually};

use crate::effects::{Bank, ask, payer};
use crate::reader::{Script, Trouble, readers};

async fn app(script: &Script, bank: &Bank) -> TestApp {
    TestApp::start_on(crate::stage(), [readers(script)(), payer(bank)()]).await
}

async fn send(app: &TestApp, key: &str, numbers: impl IntoIterator<Item = u64>) {
    app.stage().send(NOTES, numbers.into_iter().map(|n| Binary::note(key, n).message())).await;
}

async fn act(app: &TestApp, path: &str, scope: &str, name: Option<&str>) {
    let body: Value =
        json!({"service": "readers", "scope": scope, "name": name, "reason": "a test", "actor": "ada"});
    assert_eq!(app.post(path, &body).await.status, 200);
}

/// The value of a sample, written as it is exported; of a metric of `readers` without other labels, its name will do.
fn value(metrics: &str, sample: &str) -> Option<f64> {
    let sample =
        if sample.contains('{') { sample.to_owned() } else { format!("{sample}{{service=\"readers\"}}") };
    metrics.lines().find_map(|line| line.strip_prefix(&sample)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn what_fails_has_a_count_an_age_and_a_kind() {
    let script = Script::default();
    let app = app(&script, &Bank::default()).await;
    for (event, trouble) in
        [("dead 1", Trouble::Fatal), ("waits 1", Trouble::Transient), ("bursts 1", Trouble::Panic)]
    {
        script.breaks(event, trouble);
    }
    for (key, count) in [("dead", 2), ("waits", 1), ("bursts", 1), ("fine", 3)] {
        send(&app, key, 1..=count).await;
    }
    app.idle().await;
    app.advance(Duration::from_secs(100));
    let metrics = app.text("/metrics").await;
    let number = |sample: &str| value(&metrics, sample).unwrap_or_else(|| panic!("no {sample} in {metrics}"));
    assert_eq!((number("dead_rows"), number("parked_rows"), number("inbox_blocked_keys")), (1.0, 3.0, 1.0));
    for age in ["dead_oldest_seconds", "parked_oldest_seconds", "inbox_blocked_oldest_seconds"] {
        assert!((100.0..200.0).contains(&number(age)), "{age} is {}", number(age));
    }
    assert_eq!((number("inbox_delivered_total"), number("inbox_conservation_difference")), (7.0, 0.0));
    let failed = |kind: &str| {
        number(&format!(
            "handler_failures_total{{service=\"readers\",type=\"note.taken.v1\",kind=\"{kind}\"}}"
        ))
    };
    for (kind, has_failed) in
        [("fatal", true), ("transient", true), ("panic", true), ("dependency", false), ("deadline", false)]
    {
        assert_eq!(failed(kind) > 0.0, has_failed, "{kind}: {}", failed(kind));
    }
    let of_type = "{service=\"readers\",type=\"note.taken.v1\"}";
    assert!(number(&format!("handle_seconds_count{of_type}")) >= 6.0, "each call");
    assert_eq!(number(&format!("event_wait_seconds_count{of_type}")), 3.0, "each event that was handled");
    assert!(number("commit_seconds_count") >= 1.0);
    assert_eq!(number("outbox_seconds_count{service=\"readers\",topic=\"readers_dlq\"}"), 1.0);
    app.stop().await;
}

#[tokio::test]
async fn an_event_that_is_handled_late_counts_with_all_of_its_time() {
    let script = Script::default();
    let app = app(&script, &Bank::default()).await;
    script.breaks("a 1", Trouble::Transient);
    send(&app, "a", [1]).await;
    app.idle().await;
    script.mend("a 1");
    tidings_testkit::stage::drain_parked(app.service("readers")).await;
    let metrics = app.text("/metrics").await;
    let waits = |le: &str| {
        let sample =
            format!("event_wait_seconds_bucket{{service=\"readers\",type=\"note.taken.v1\",le=\"{le}\"}}");
        value(&metrics, &sample)
    };
    assert_eq!((waits("60"), waits("+Inf")), (Some(0.0), Some(1.0)), "retries come after minutes");
    assert_eq!(value(&metrics, "parked_oldest_seconds"), Some(0.0));
    app.stop().await;
}

#[tokio::test]
async fn pauses_are_gauges_and_go_back_to_zero() {
    let app = app(&Script::default(), &Bank::default()).await;
    let paused = async |scope: &str, name: &str| {
        let sample = format!("paused{{service=\"readers\",scope=\"{scope}\",name=\"{name}\"}}");
        value(&app.text("/metrics").await, &sample)
    };
    assert_eq!(paused("service", "").await, Some(0.0));
    for (scope, name) in [
        ("service", None),
        ("topic", Some("notes")),
        ("type", Some("note.taken.v1")),
        ("key", Some("a")),
        ("key", Some("b")),
    ] {
        act(&app, "/admin/pauses", scope, name).await;
    }
    assert_eq!((paused("service", "").await, paused("type", "note.taken.v1").await), (Some(1.0), Some(1.0)));
    assert_eq!(paused("topic", "notes").await, Some(1.0));
    assert_eq!((paused("key", "").await, paused("key", "a").await), (Some(2.0), None), "keys are no labels");
    act(&app, "/admin/pauses/resume", "service", None).await;
    assert_eq!(paused("service", "").await, Some(0.0));
    app.stop().await;
}

/// A service whose dependency is away, beside one whose provider is.
async fn app_in_trouble() -> TestApp {
    let (script, bank) = (Script::default(), Bank::default());
    let app = app(&script, &bank).await;
    bank.books().is_closed = true;
    for n in 0..10 {
        script.breaks(&format!("k{n} 1"), Trouble::Dependency);
        send(&app, &format!("k{n}"), [1]).await;
        ask(app.service("payer").store(), &format!("b{n}")).await;
    }
    eventually("both are away", async || {
        let metrics = app.text("/metrics").await;
        value(&metrics, "breaker_open{service=\"payer\",provider=\"pay\"}") == Some(1.0)
            && value(&metrics, "dependency_away_seconds{service=\"readers\",name=\"the printer\"}").is_some()
    })
    .await;
    app
}

#[tokio::test]
async fn metrics_are_well_formed_and_have_all_that_alerts_ask_for() {
    let app = app_in_trouble().await;
    let metrics = app.text("/metrics").await;
    app.stop().await;
    let exported =
        |name: &str| metrics.contains(&format!("\n{name}{{")) || metrics.starts_with(&format!("{name}{{"));
    let alerts = include_str!("../../../../deploy/alerts.yml");
    let asked = alerts.lines().filter_map(|line| line.trim_start().strip_prefix("expr: "));
    let names: Vec<String> = asked.flat_map(names_in).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(exported(&name), "{name} stands in deploy/alerts.yml and is not exported: {metrics}");
    }
    let page = include_str!("../../../../docs/metrics.md");
    let typed = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    for name in typed {
        assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
    }
    match tidings_servers::promtool() {
        Err(e) => println!("SKIPPED promtool check metrics: {e}"),
        Ok(promtool) => {
            let mut check = Command::new(promtool);
            check
                .args(["check", "metrics"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut check = check.spawn().expect("promtool runs");
            check.stdin.take().expect("a pipe").write_all(metrics.as_bytes()).expect("it reads");
            let done = check.wait_with_output().expect("it ends");
            let said = [done.stdout, done.stderr].concat();
            assert!(done.status.success() && said.is_empty(), "{}{metrics}", String::from_utf8_lossy(&said));
        }
    }
}

/// The metrics that an expression of PromQL asks for.
fn names_in(expression: &str) -> Vec<String> {
    const WORDS: [&str; 7] = ["and", "by", "deriv", "increase", "max", "on", "sum"];
    let (mut bare, mut depth) = (String::new(), 0);
    // Labels stand in braces and behind `by`, durations in brackets.
    for c in expression.replace("by (", "by [").chars() {
        depth += i32::from(matches!(c, '{' | '['));
        bare.push(if depth == 0 { c } else { ' ' });
        depth -= i32::from(matches!(c, '}' | ']') || (c == ')' && depth > 0));
    }
    let words = bare.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with(char::is_alphabetic) && !WORDS.contains(word));
    names.map(str::to_owned).collect()
}
