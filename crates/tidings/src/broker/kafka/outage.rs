//! Reports of the clients about their cluster: logged once when a broker goes, once when it is back, and counted in
//! between. Otherwise each client of a process would say the same, again and again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel as Level;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use serde::Deserialize;

use crate::panic::lock;

/// Any other report of one kind is logged once in this time, with how many there were.
const REPEAT_EVERY: Duration = Duration::from_secs(60);
/// Kinds of reports and brokers that are remembered: far more than there are.
const KINDS_MAX: usize = 256;

/// The state of the brokers, as all clients together know it.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<OutageState>);

#[derive(Debug, Default)]
struct OutageState {
    /// Brokers that cannot be reached, by address.
    away: HashMap<String, Away>,
    /// Other reports, by kind: when one was logged, and how many were not since.
    others: HashMap<String, (Instant, u64)>,
}

#[derive(Debug)]
struct Away {
    since: Instant,
    reports: u64,
    why: String,
}

/// A report of librdkafka's that a broker cannot be reached: which one, and why.
#[derive(Debug, PartialEq)]
struct BrokerTrouble<'a> {
    address: &'a str,
    why: &'a str,
}

impl Outage {
    /// Takes a line of librdkafka's own log.
    pub(super) fn report(&self, level: Level, kind: &str, message: &str) {
        // Each client is given every property, and uses those of its kind.
        let is_of_another_kind = kind == "CONFWARN" && message.contains("will be ignored by this");
        if level as i32 > Level::Warning as i32 || is_of_another_kind {
            tracing::debug!(kind, "the Kafka client: {message}");
            return;
        }
        let mut state = lock(&self.0);
        match BrokerTrouble::read(kind, message) {
            Some(failure) => state.failed(&failure),
            // One that is away has many consequences.
            None if !state.away.is_empty() => state.away.values_mut().for_each(|away| away.reports += 1),
            None => state.other(kind, message),
        }
    }

    /// Looks at a client's statistics: a broker that one of them has reached since is back.
    pub(super) fn look(&self, statistics: &[u8]) {
        let mut state = lock(&self.0);
        if state.away.is_empty() {
            return;
        }
        let Ok(BrokerStatistics { brokers }) = serde_json::from_slice(statistics) else { return };
        for (name, broker) in brokers {
            let reached = Duration::from_micros(broker.stateage);
            if broker.state == "UP"
                && state.away.get(address(&name)).is_some_and(|away| reached < away.since.elapsed())
                && let Some(away) = state.away.remove(address(&name))
            {
                let (seconds, reports) = (away.since.elapsed().as_secs(), away.reports);
                tracing::info!(broker = address(&name), seconds, reports, "Kafka's broker answers again");
            }
        }
    }

    /// Returns a broker that cannot be reached, and why: a possible cause of an error.
    pub(super) fn reason(&self, servers: &str) -> Option<String> {
        let state = lock(&self.0);
        let (address, away) = state.away.iter().max_by_key(|(_, away)| away.since)?;
        let hint = if servers.split(',').any(|server| server == address) {
            ""
        } else {
            "; it is the cluster that gives out this address: look at its advertised.listeners"
        };
        Some(format!("broker {address} cannot be reached: {}{hint}", away.why))
    }
}

impl OutageState {
    fn failed(&mut self, failure: &BrokerTrouble<'_>) {
        if let Some(away) = self.away.get_mut(failure.address) {
            away.reports += 1;
            failure.why.clone_into(&mut away.why);
        } else if self.away.len() < KINDS_MAX {
            let (broker, why) = (failure.address, failure.why);
            tracing::warn!(
                broker,
                "Kafka's broker cannot be reached: {why}; this is said once, until it is back"
            );
            let away = Away { since: Instant::now(), reports: 1, why: why.to_owned() };
            self.away.insert(broker.to_owned(), away);
        }
    }

    fn other(&mut self, kind: &str, message: &str) {
        let (now, kinds) = (Instant::now(), self.others.len());
        let left_out = match self.others.get_mut(kind) {
            Some((reported, left_out)) if now - *reported < REPEAT_EVERY => {
                *left_out += 1;
                return;
            }
            Some((_, left_out)) => *left_out,
            None if kinds >= KINDS_MAX => return,
            None => 0,
        };
        self.others.insert(kind.to_owned(), (now, 0));
        tracing::warn!(kind, left_out, "the Kafka client: {message}");
    }
}

impl<'a> BrokerTrouble<'a> {
    /// `[thrd:HOST:PORT/ID]: HOST:PORT/ID: Connect to … failed: … (after 0ms in state CONNECT)`
    fn read(kind: &str, message: &'a str) -> Option<Self> {
        if !matches!(kind, "FAIL" | "ERROR" | "REQTMOUT") {
            return None;
        }
        let (thread, rest) = message.strip_prefix("[thrd:")?.split_once("]: ")?;
        let address = address(thread);
        address.contains(':').then_some(())?;
        let why = rest.split_once(": ").map_or(rest, |(_, why)| why);
        Some(Self { address, why: why.split(" (after ").next().unwrap_or(why).trim() })
    }
}

/// `HOST:PORT` of `[ssl://]HOST:PORT/ID`.
fn address(name: &str) -> &str {
    let name = name.split_once("://").map_or(name, |(_, name)| name);
    name.split('/').next().unwrap_or(name)
}

#[derive(Deserialize)]
struct BrokerStatistics {
    brokers: HashMap<String, ReportedBroker>,
}

#[derive(Deserialize)]
struct ReportedBroker {
    state: String,
    /// Time since the state changed, in microseconds.
    #[serde(default)]
    stateage: u64,
}

/// A client that only asks or reads.
#[derive(Clone)]
pub(super) struct Reporting(pub(super) Arc<Outage>);

impl ClientContext for Reporting {
    fn log(&self, level: Level, kind: &str, message: &str) {
        self.0.report(level, kind, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "a client reports");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.0.look(statistics);
    }
}

impl ConsumerContext for Reporting {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_the_broker_and_why() {
        let message = "[thrd:sasl_ssl://a:9092/bootstrap]: sasl_ssl://a:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)";
        let failure = BrokerTrouble {
            address: "a:9092",
            why: "Connect to ipv4#10.0.0.1:9092 failed: Connection refused",
        };
        assert_eq!(BrokerTrouble::read("FAIL", message), Some(failure));
        assert_eq!(BrokerTrouble::read("FAIL", "[thrd:main]: no broker"), None);
        assert_eq!(BrokerTrouble::read("SESSTMOUT", message), None);
    }

    #[test]
    fn a_broker_is_away_until_a_client_has_reached_it() {
        let outage = Outage::default();
        for _ in 0..3 {
            outage.report(
                Level::Error,
                "FAIL",
                "[thrd:b:1/2]: b:1/2: Failed to resolve 'b:1': no such host (after 1ms)",
            );
            outage.report(Level::Error, "ERROR", "[thrd:main]: 1/1 brokers are down");
        }
        assert_eq!(lock(&outage.0).away["b:1"].reports, 6);
        let report = outage.reason("a:1").unwrap();
        assert!(
            report.starts_with("broker b:1 cannot be reached: Failed to resolve 'b:1': no such host; "),
            "{report}"
        );
        assert!(
            report.contains("advertised.listeners")
                && !outage.reason("a:1,b:1").unwrap().contains("advertised")
        );
        outage.look(br#"{"brokers":{"a:1/1":{"state":"UP"},"b:1/2":{"state":"CONNECT"}}}"#);
        assert!(outage.reason("a:1").is_some());
        outage.look(br#"{"brokers":{"b:1/2":{"state":"UP","stateage":60000000}}}"#);
        assert!(outage.reason("a:1").is_some(), "a connection from before says nothing");
        outage.look(br#"{"brokers":{"b:1/2":{"state":"UP"}}}"#);
        assert_eq!(outage.reason("a:1"), None);
    }
}
