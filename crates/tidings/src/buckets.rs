//! Durations counted in fixed buckets: recording one takes two atomic additions, no lock and no memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

/// Upper bounds of the buckets, in microseconds: from a call of a handler to an event that waited for a night. One set
/// for all, so that times can be laid side by side; few, since each type of event has its own.
pub(crate) const BOUNDS_US: [u64; 17] = [
    100,
    250,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    60_000_000,
    600_000_000,
    3_600_000_000,
];

/// Durations by how long they were.
#[derive(Debug, Default)]
pub(crate) struct SecondsBuckets {
    /// Those up to each bound and above the one before; in the last place the longer ones.
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// Durations as they were counted at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BucketCounts {
    /// Those up to each bound, shorter ones included; in the last place all.
    pub(crate) up_to: [u64; BOUNDS_US.len() + 1],
    pub(crate) sum_us: u64,
}

impl SecondsBuckets {
    /// Counts a duration.
    pub(crate) fn record(&self, duration: Duration) {
        self.record_us(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts the time between two moments that different clocks may have told: none, if it seems to be negative.
    pub(crate) fn record_between(&self, then: Timestamp, now: Timestamp) {
        self.record_since_us(then.as_microsecond(), now);
    }

    /// The same from a moment in microseconds since 1970.
    pub(crate) fn record_since_us(&self, then_us: i64, now: Timestamp) {
        self.record_us(now.as_microsecond().saturating_sub(then_us).max(0).unsigned_abs());
    }

    fn record_us(&self, us: u64) {
        self.counts[BOUNDS_US.partition_point(|bound| *bound < us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Reads the counts.
    pub(crate) fn read(&self) -> BucketCounts {
        let mut read = BucketCounts { sum_us: self.sum_us.load(Ordering::Relaxed), ..Default::default() };
        let mut all = 0;
        for (up_to, count) in read.up_to.iter_mut().zip(&self.counts) {
            all += count.load(Ordering::Relaxed);
            *up_to = all;
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_its_bucket_and_in_all_that_are_longer() {
        let buckets = SecondsBuckets::default();
        for us in [0, 100, 101, 3_600_000_000, 3_600_000_001] {
            buckets.record(Duration::from_micros(us));
        }
        let read = buckets.read();
        assert_eq!((read.up_to[0], read.up_to[1], read.up_to[16], read.up_to[17]), (2, 3, 4, 5));
        assert_eq!(read.sum_us, 7_200_000_202);
    }

    #[test]
    fn a_clock_that_is_behind_counts_as_no_time() {
        let (buckets, now) = (SecondsBuckets::default(), Timestamp::UNIX_EPOCH);
        buckets.record_between(now + Duration::from_secs(5), now);
        assert_eq!((buckets.read().up_to[0], buckets.read().sum_us), (1, 0));
    }

    /// The cost of recording, by hand: `cargo test --release -p tidings --lib buckets -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures, and asserts nothing"]
    fn recording_costs() {
        const TIMES: u32 = 20_000_000;
        let (buckets, began) = (SecondsBuckets::default(), std::time::Instant::now());
        for us in 0..TIMES {
            buckets.record_us(std::hint::black_box(u64::from(us)));
        }
        println!("{:?} a duration", began.elapsed() / TIMES);
        let mut last = std::time::Instant::now();
        let began = last;
        for _ in 0..TIMES {
            let now = std::time::Instant::now();
            buckets.record(now - last);
            last = now;
        }
        println!("{:?} a duration with a look at the clock", began.elapsed() / TIMES);
    }
}
