//! The goals of a comparison: bounds on a ratio to the build before, or on this build's own figure.

use std::fmt;

use serde::{Serialize, Serializer};

/// A bound. Ratios are *now ÷ before*.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// The ratio is at least this.
    RatioAtLeast(f64),
    /// The ratio is at most this.
    RatioAtMost(f64),
    /// The figure of this build is at least this.
    AtLeast(f64),
    /// The figure of this build is at most this.
    AtMost(f64),
}

use Goal::{AtLeast, AtMost, RatioAtLeast, RatioAtMost};

impl Goal {
    /// Tells whether a build meets it.
    pub fn is_met(self, ratio: Option<f64>, now: f64) -> bool {
        match self {
            RatioAtLeast(bound) => ratio.is_some_and(|ratio| ratio >= bound),
            RatioAtMost(bound) => ratio.is_some_and(|ratio| ratio <= bound),
            AtLeast(bound) => now >= bound,
            AtMost(bound) => now <= bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RatioAtLeast(bound) => write!(f, ">= {bound} x"),
            RatioAtMost(bound) => write!(f, "<= {bound} x"),
            AtLeast(bound) => write!(f, ">= {bound}"),
            AtMost(bound) => write!(f, "<= {bound}"),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The goals on the embedded default, by measure.
pub const EMBEDDED: &[(&str, Goal)] = &[
    ("128 connections: settled a minute", RatioAtLeast(1.25)),
    ("500 orders/s: CPU an order, ms", RatioAtMost(0.5)),
    ("500 orders/s: POST p99, ms", RatioAtMost(1.1)),
    ("10 orders/s: CPU an order, ms", RatioAtMost(0.5)),
    ("10 orders/s: POST to settled p99, ms", RatioAtMost(1.1)),
    ("a handler that does little, 8 lanes / 1", AtLeast(1.0)),
    ("a handler that waits 20 ms, 64 lanes / 1", AtLeast(40.0)),
    ("one slow key of 10000: p99 of the others, with / without", AtMost(1.1)),
];

/// The goals on Kafka and PostgreSQL, by measure.
pub const ON_SERVERS: &[(&str, Goal)] = &[
    ("256 connections: settled a minute", RatioAtLeast(2.0)),
    ("256 connections: CPU an order, ms", RatioAtMost(0.5)),
    ("256 connections: CPU an order, postgres, ms", RatioAtMost(0.5)),
    ("256 connections: last answer to last settled, s", AtMost(2.0)),
    ("256 connections: memory of order, MB", AtMost(100.0)),
    ("64 connections: settled a minute", RatioAtLeast(1.5)),
    ("10 orders/s: POST to settled p50, ms", RatioAtMost(0.8)),
    ("10 orders/s: POST to settled p99, ms", RatioAtMost(0.8)),
    ("consume, decode, tracked commit; raw no headers", AtLeast(0.95)),
    ("durable deduplicated consume, one write", RatioAtLeast(1.4)),
    ("relay a backlog of 200000", RatioAtLeast(1.5)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_it_and_no_ratio_meets_none() {
        let met = |goal: Goal, ratio, now| goal.is_met(ratio, now);
        assert!(met(RatioAtLeast(1.5), Some(1.5), 0.0) && !met(RatioAtLeast(1.5), Some(1.49), 9.0));
        assert!(met(RatioAtMost(0.5), Some(0.5), 9.0) && !met(RatioAtMost(0.5), Some(0.51), 0.0));
        assert!(met(AtLeast(2.0), None, 2.0) && !met(AtLeast(2.0), Some(9.0), 1.9));
        assert!(met(AtMost(2.0), None, 2.0) && !met(AtMost(2.0), Some(0.1), 2.1));
        assert!(!met(RatioAtLeast(0.0), None, 1.0) && !met(RatioAtMost(9.0), None, 1.0));
    }
}
