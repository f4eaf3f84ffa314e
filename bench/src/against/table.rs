//! Samples of two builds, and the table of their ratios.

use std::fmt::Write as _;

use serde::Serialize;

use super::Goal;
use crate::steps::median;

/// The samples by measure, in the order in which measures first came.
#[derive(Debug, Default)]
pub struct Table(Vec<(String, [Vec<f64>; 2])>);

/// One measure: the medians of both builds, and the median and ends of the ratios of their rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The name of the measure, with its unit.
    pub measure: String,
    /// The median of the build before; absent where it has no such measure.
    pub before: Option<f64>,
    /// The median of this build.
    pub now: f64,
    /// Median, least and greatest of *now ÷ before*, round by round.
    pub ratio: Option<[f64; 3]>,
    /// The bound, if there is one.
    pub goal: Option<Goal>,
    /// Whether the median meets the bound.
    pub is_met: Option<bool>,
}

impl Table {
    /// Adds what a round of a build has measured.
    pub fn add(&mut self, measure: &str, is_now: bool, value: f64) {
        let at = self.0.iter().position(|(name, _)| name == measure).unwrap_or_else(|| {
            self.0.push((measure.to_owned(), Default::default()));
            self.0.len() - 1
        });
        self.0[at].1[usize::from(is_now)].push(value);
    }

    /// Returns what this build has measured, each beside the build before.
    pub fn rows(&self, goals: &[(&str, Goal)]) -> Vec<Row> {
        self.0.iter().filter_map(|(measure, [before, now])| row(measure, before, now, goals)).collect()
    }
}

fn row(measure: &str, before: &[f64], now: &[f64], goals: &[(&str, Goal)]) -> Option<Row> {
    let of = |values: &[f64]| (!values.is_empty()).then(|| median(values.to_vec()));
    // A round that failed on one side would pair the wrong ones.
    let mut ratios: Vec<f64> = match before.len() == now.len() {
        true => before.iter().zip(now).map(|(before, now)| now / before).collect(),
        false => Vec::new(),
    };
    ratios.sort_by(f64::total_cmp);
    let ratio = of(&ratios).map(|middle| [middle, ratios[0], ratios[ratios.len() - 1]]);
    let now = of(now)?;
    let goal = goals.iter().find(|(name, _)| *name == measure).map(|(_, goal)| *goal);
    let is_met = goal.map(|goal| goal.is_met(ratio.map(|[middle, ..]| middle), now));
    Some(Row { measure: measure.to_owned(), before: of(before), now, ratio, goal, is_met })
}

/// The table for people, the missed goals at its end.
pub fn text(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.measure.chars().count()).max().unwrap_or(0);
    let mut text =
        format!("{:<width$} {:>10} {:>10} {:>6}  {:<11} goal\n", "", "before", "now", "ratio", "spread");
    for row in rows {
        let before = row.before.map_or_else(|| "-".to_owned(), number);
        let (ratio, spread) = row.ratio.map_or_else(
            || ("-".to_owned(), String::new()),
            |[middle, least, most]| (format!("{middle:.2}"), format!("{least:.2}-{most:.2}")),
        );
        let goal = match (row.goal, row.is_met) {
            (Some(goal), Some(true)) => format!("{goal}: met"),
            (Some(goal), _) => format!("{goal}: MISSED"),
            (None, _) => String::new(),
        };
        let line = format!(
            "{:<width$} {before:>10} {:>10} {ratio:>6}  {spread:<11} {goal}",
            row.measure,
            number(row.now)
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let (with, missed) = (rows.iter().filter(|row| row.goal.is_some()).count(), missed(rows));
    let _ = match missed.as_slice() {
        [] => writeln!(text, "\nall {with} goals are met"),
        missed => writeln!(text, "\n{} of {with} goals are missed: {}", missed.len(), missed.join("; ")),
    };
    text
}

fn missed(rows: &[Row]) -> Vec<&str> {
    rows.iter().filter(|row| row.is_met == Some(false)).map(|row| row.measure.as_str()).collect()
}

/// Three digits that count, or all before the point.
fn number(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Goal::{AtMost, RatioAtLeast};
    use super::*;

    #[test]
    fn ratios_are_those_of_each_round_and_a_missed_goal_is_said() {
        let mut table = Table::default();
        for (before, now) in [(100.0, 150.0), (50.0, 100.0), (200.0, 200.0)] {
            table.add("settled a minute", false, before);
            table.add("settled a minute", true, now);
        }
        table.add("new, s", true, 1.5);
        table.add("gone, s", false, 1.5);
        table.add("failed once", false, 1.0);
        let rows = table.rows(&[("settled a minute", RatioAtLeast(1.6)), ("new, s", AtMost(2.0))]);
        assert_eq!(rows[0].ratio, Some([1.5, 1.0, 2.0]));
        assert_eq!((rows[0].before, rows[0].now, rows[0].is_met), (Some(100.0), 150.0, Some(false)));
        assert_eq!((rows[1].before, rows[1].ratio, rows[1].is_met), (None, None, Some(true)));
        assert_eq!(rows.len(), 2, "what this build does not measure is no row");
        let text = text(&rows);
        assert!(text.contains("1.00-2.00   >= 1.6 x: MISSED") && text.contains("<= 2: met"), "{text}");
        assert!(text.ends_with("1 of 2 goals are missed: settled a minute\n"), "{text}");
    }
}
