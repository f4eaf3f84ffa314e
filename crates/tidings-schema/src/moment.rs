//! Times as people write them: RFC 3339, or how long ago.

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// A time (`2026-01-02T03:04:05Z`), or how long before `now` (`15m`, `1h 30m`, `2d`); none if the text is neither.
pub fn moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let span: Span = text.parse().ok()?;
        let ago = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
        now.checked_sub(ago).ok().filter(|_| ago >= SignedDuration::ZERO)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_while_ago() {
        let now: Timestamp = "2026-01-02T03:00:00Z".parse().unwrap();
        let read = |text: &str| moment(text, now).map(|time| time.to_string());
        assert_eq!(read("2026-01-01T00:00:00+01:00").as_deref(), Some("2025-12-31T23:00:00Z"));
        assert_eq!(read("15m").as_deref(), Some("2026-01-02T02:45:00Z"));
        assert_eq!(read("1h 30m").as_deref(), Some("2026-01-02T01:30:00Z"));
        assert_eq!(read("2d").as_deref(), Some("2025-12-31T03:00:00Z"));
        for wrong in ["", "-15m", "soon", "1 year", "2026-01-02", "9999999999h"] {
            assert_eq!(moment(wrong, now), None, "{wrong}");
        }
    }
}
