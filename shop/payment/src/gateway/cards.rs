//! The behaviour of the sandbox's payment methods: the same in process and behind HTTP.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::Operation;

/// The time that `pm_sandbox_slow` takes.
const SLOW: Duration = Duration::from_secs(2);
/// The number of times that `pm_sandbox_unavailable` fails.
const FAILURES: u32 = 3;
/// Keys whose attempts are counted; half of them is forgotten beyond it.
const REMEMBERED_MAX: usize = 10_000;

/// The action of a provider that is asked for an external call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Does it.
    Do,
    /// Does it, but takes its time.
    DoAfter(Duration),
    /// Does it, and the answer is lost.
    DoUnheard,
    /// Does nothing and says that it is unavailable.
    Fail,
    /// Waits for the card's holder, who has to show that it is theirs.
    AskHolder,
    /// Refuses for good: (code, in words).
    Refuse(&'static str, &'static str),
}

/// Decides what a provider does when it is asked for an external call the `attempt`-th time, counted from 1.
#[must_use]
pub fn act(operation: Operation, method: &str, attempt: u32) -> Act {
    match (operation, method) {
        (Operation::Authorize, "pm_card_visa_chargeDeclined") => {
            Act::Refuse("card_declined", "the card was declined")
        }
        (Operation::Authorize, "pm_card_visa_chargeDeclinedInsufficientFunds") => {
            Act::Refuse("insufficient_funds", "the card has insufficient funds")
        }
        (Operation::Authorize, "pm_card_authenticationRequired") => Act::AskHolder,
        (Operation::Authorize, "pm_sandbox_reply_lost") if attempt == 1 => Act::DoUnheard,
        (Operation::Authorize, "pm_sandbox_unavailable") if attempt <= FAILURES => Act::Fail,
        (Operation::Authorize, "pm_sandbox_slow") => Act::DoAfter(SLOW),
        (Operation::Capture, "pm_sandbox_capture_fails") => {
            Act::Refuse("capture_failed", "the hold has expired")
        }
        _ => Act::Do,
    }
}

/// Returns the reason for which a provider refuses an external call, if it does: (code, in words).
#[must_use]
pub fn refusal(operation: Operation, method: &str) -> Option<(&'static str, &'static str)> {
    match act(operation, method, 1) {
        Act::Refuse(code, reason) => Some((code, reason)),
        _ => None,
    }
}

/// Counts attempts, where it makes a difference.
#[derive(Debug, Default)]
pub struct Attempts(HashMap<String, u32>);

impl Attempts {
    /// Decides what a provider does when it is asked once more under this key.
    pub fn act(&mut self, operation: Operation, method: &str, key: &str) -> Act {
        match act(operation, method, 1) {
            Act::Fail | Act::DoUnheard => act(operation, method, self.count(key)),
            always => always,
        }
    }

    fn count(&mut self, key: &str) -> u32 {
        if self.0.len() >= REMEMBERED_MAX {
            let mut keep = false;
            self.0.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        let count = self.0.entry(key.to_owned()).or_insert(0);
        *count += 1;
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_at_first_succeeds_under_the_same_key_and_fails_anew_under_another() {
        let mut attempts = Attempts::default();
        let mut ask = |method, key| attempts.act(Operation::Authorize, method, key);
        let acts = [(); 4].map(|()| ask("pm_sandbox_unavailable", "a"));
        assert_eq!(acts, [Act::Fail, Act::Fail, Act::Fail, Act::Do]);
        assert_eq!(ask("pm_sandbox_unavailable", "b"), Act::Fail);
        let acts = [(); 2].map(|()| ask("pm_sandbox_reply_lost", "c"));
        assert_eq!(acts, [Act::DoUnheard, Act::Do]);
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let mut attempts = Attempts::default();
        for key in 0..3 * REMEMBERED_MAX {
            attempts.act(Operation::Authorize, "pm_sandbox_unavailable", &key.to_string());
        }
        assert!(attempts.0.len() <= REMEMBERED_MAX);
    }
}
