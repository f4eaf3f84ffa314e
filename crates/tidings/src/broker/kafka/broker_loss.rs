//! The check that a client still knows a broker.
//!
//! A cluster whose brokers were all away a moment ago (a single one that was suspended, say) may answer that it has
//! none. librdkafka then forgets the brokers it knew; and if it reads the answer at the wrong moment, it also forgets
//! to look for them again: that client never comes back (its issue 5301, open at 2.13). The client cannot be given
//! brokers from outside, so it is replaced.

use std::sync::atomic::{AtomicU32, Ordering};

/// The interval between two reports of a client, in milliseconds.
pub(super) const REPORT_EVERY_MS: &str = "5000";
/// Reports without any broker, one after the other, after which it is given up: a client that does look for
/// brokers has one within moments.
const REPORTS: u32 = 2;

#[derive(Default)]
pub(super) struct BrokerLossDetector {
    without_brokers: AtomicU32,
}

impl BrokerLossDetector {
    /// Looks at a report (librdkafka's statistics); says whether the client has just been found cut off.
    pub(super) fn look(&self, statistics: &[u8]) -> bool {
        let of_a_broker = [r#""source":"learned""#, r#""source":"configured""#];
        let Ok(statistics) = std::str::from_utf8(statistics) else { return false };
        if of_a_broker.iter().any(|source| statistics.contains(source)) {
            self.without_brokers.store(0, Ordering::SeqCst);
            return false;
        }
        self.without_brokers.fetch_add(1, Ordering::SeqCst) + 1 == REPORTS
    }

    pub(super) fn is_cut(&self) -> bool {
        self.without_brokers.load(Ordering::SeqCst) >= REPORTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &[u8] =
        br#"{"brokers":{":0/internal":{"source":"internal"},"GroupCoordinator":{"source":"logical"}}}"#;
    const ONE: &[u8] = br#"{"brokers":{"a:9092/1":{"name":"a:9092/1","source":"learned"}}}"#;

    #[test]
    fn a_client_is_cut_off_when_it_reports_no_broker_twice_in_a_row() {
        let broker_loss = BrokerLossDetector::default();
        assert!(!broker_loss.look(NONE));
        assert!(!broker_loss.look(ONE));
        assert!(!broker_loss.look(NONE) && !broker_loss.is_cut());
        assert!(broker_loss.look(NONE) && broker_loss.is_cut());
        assert!(!broker_loss.look(NONE), "said once");
    }
}
