//! The gate: compares what the programs say today with everything that was ever released.

use std::fmt;

use serde_json::Value;

use crate::baseline::{Baseline, Revision};
use crate::change::{Breaks, Change, Remedy, changes};
use crate::check::counted;
use crate::contract::Contract;

/// The findings of the gate.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order of types; harmful ones first within a type.
    pub findings: Vec<Finding>,
    /// The number of types that were compared, and the number of revisions they were compared with.
    pub compared: (usize, usize),
}

/// One thing that the gate has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A type differs from revisions of it.
    Changed {
        /// The type.
        event_type: String,
        /// The revisions from which it differs.
        revisions: Vec<u32>,
        /// The difference.
        change: Change,
        /// The groups that read it.
        readers: Vec<String>,
    },
    /// A type that is read and that no service publishes any more.
    Unwritten {
        /// The type.
        event_type: String,
        /// The groups that read it.
        readers: Vec<String>,
    },
    /// A type that was never released.
    New {
        /// The type.
        event_type: String,
    },
    /// A released type that no program names any more.
    Gone {
        /// The type.
        event_type: String,
    },
}

/// Compares what programs say with every retained revision, both ways.
///
/// ```
/// use tidings_schema::{Contract, EventContract, Baseline, gate};
///
/// let parcel = EventContract {
///     written_by: ["shipping".to_owned()].into(),
///     schema: serde_json::json!({"type": "object", "additionalProperties": false}),
///     ..EventContract::default()
/// };
/// let contract = Contract::from([("parcel.sent.v1".to_owned(), parcel)]);
/// let report = gate(&Baseline::default(), &contract);
/// assert!(report.is_compatible() && report.has_changes(), "it is new, and harms nobody");
/// ```
#[must_use]
pub fn gate(baseline: &Baseline, contract: &Contract) -> Report {
    let mut report = Report::default();
    for (event_type, event) in contract {
        let readers: Vec<String> = event.read_by.iter().chain(event.read_as.keys()).cloned().collect();
        let revisions = baseline.of(event_type);
        if event.written_by.is_empty() {
            report
                .findings
                .push(Finding::Unwritten { event_type: event_type.clone(), readers: readers.clone() });
        }
        if revisions.is_empty() {
            report.findings.push(Finding::New { event_type: event_type.clone() });
        }
        report.compared.0 += 1;
        report.compared.1 += revisions.len();
        let mut found = compare(revisions, &event.schema);
        found.sort_by_key(|(change, _)| !change.breaks.is_any());
        report.findings.extend(found.into_iter().map(|(change, revisions)| Finding::Changed {
            event_type: event_type.clone(),
            revisions,
            change,
            readers: readers.clone(),
        }));
    }
    for event_type in baseline.types().filter(|event_type| !contract.contains_key(*event_type)) {
        report.findings.push(Finding::Gone { event_type: event_type.to_owned() });
    }
    report
}

/// The differences from all revisions, each with the revisions it is a difference from. A harmless difference is
/// of interest only against the newest one.
fn compare(revisions: &[Revision], schema: &Value) -> Vec<(Change, Vec<u32>)> {
    let mut found: Vec<(Change, Vec<u32>)> = Vec::new();
    let newest = revisions.last().map_or(0, |newest| newest.number);
    for revision in revisions {
        for change in changes(&revision.schema, schema) {
            if !change.breaks.is_any() && revision.number != newest {
                continue;
            }
            match found.iter_mut().find(|(known, _)| *known == change) {
                Some((_, revisions)) => revisions.push(revision.number),
                None => found.push((change, vec![revision.number])),
            }
        }
    }
    // A writer that is open is wrong even before there is anything to compare it with.
    if revisions.is_empty() {
        let lint = changes(schema, schema).into_iter().filter(|change| change.breaks.is_any());
        found.extend(lint.map(|change| (change, Vec::new())));
    }
    found
}

impl Report {
    /// Tells whether no finding breaks a reader.
    #[must_use]
    pub fn is_compatible(&self) -> bool {
        !self.findings.iter().any(Finding::is_breaking)
    }

    /// Tells whether there is something to record as a new revision.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        self.findings.iter().any(|f| matches!(f, Finding::Changed { .. } | Finding::New { .. }))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let (types, revisions) = self.compared;
        let types = counted(types as u64, "event type");
        let revisions = counted(revisions as u64, "released revision");
        let broken = self.findings.iter().filter(|finding| finding.is_breaking()).count();
        match (broken, self.has_changes()) {
            (0, false) => write!(f, "as released: {types}, {revisions}"),
            (0, true) => {
                write!(f, "breaks nobody, both ways: {types}, {revisions}; to release it, record it")
            }
            (1, _) => f.write_str("one of these changes breaks somebody"),
            (broken, _) => write!(f, "{broken} of these changes break somebody"),
        }
    }
}

impl Finding {
    /// The type that it is about.
    #[must_use]
    pub fn event_type(&self) -> &str {
        match self {
            Self::Changed { event_type, .. }
            | Self::Unwritten { event_type, .. }
            | Self::New { event_type }
            | Self::Gone { event_type } => event_type,
        }
    }

    /// Tells whether the finding breaks a reader.
    #[must_use]
    pub fn is_breaking(&self) -> bool {
        match self {
            Self::Changed { change, .. } => change.breaks.is_any(),
            Self::Unwritten { .. } => true,
            Self::New { .. } | Self::Gone { .. } => false,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New { event_type } => write!(f, "{event_type}: is new"),
            Self::Gone { event_type } => {
                write!(f, "{event_type}: no program writes or reads it any more; its revisions stay")
            }
            Self::Unwritten { event_type, readers } => write!(
                f,
                "{event_type}: {} it, and no service states it any more\n  instead: state it until nobody reads it (tidings schema who-reads {event_type})",
                subject(readers, "reads", "read"),
            ),
            Self::Changed { event_type, revisions, change, readers } => {
                write!(f, "{event_type}{change:#}", change = Spoken(change))?;
                let Breaks { backward, forward } = change.breaks;
                let those = numbers(revisions);
                if backward {
                    let who = subject(readers, "could", "could");
                    write!(f, "\n  breaks: {who} no longer read what was published as {those}")?;
                }
                if forward {
                    let who = subject(readers, "expects", "expect");
                    write!(f, "\n  breaks: {who} {those}, and could not read what is published from now on")?;
                }
                match remedy(&change.remedy, event_type) {
                    Some(remedy) => write!(f, "\n  instead: {remedy}"),
                    None => Ok(()),
                }
            }
        }
    }
}

struct Spoken<'a>(&'a Change);

impl fmt::Display for Spoken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.pointer.as_str() {
            "" => write!(f, ": {}", self.0.words),
            pointer => write!(f, " at {pointer}: {}", self.0.words),
        }
    }
}

fn remedy(remedy: &Remedy, event_type: &str) -> Option<String> {
    let major = next_major(event_type);
    Some(match remedy {
        Remedy::None => return None,
        Remedy::AddBeside { old, new } => format!(
            "keep `{old}`, add `{new}` beside it as an optional property and mark `{old}` as deprecated; or state {major} beside {event_type}"
        ),
        Remedy::Optional(name) => format!(
            "make `{name}` optional (Option, skip_serializing_if), or give older events a value (#[serde(default = \"…\")])"
        ),
        Remedy::Keep(what) => format!("keep {what}; or state {major} beside {event_type}"),
        Remedy::OpenEnum => format!(
            "let readers take unknown values first (tidings::OpenEnum), and add this one once all of them do; or state {major} beside {event_type}"
        ),
        Remedy::NewMajor => format!(
            "state {major} beside {event_type}, until nobody reads that (tidings schema who-reads {event_type})"
        ),
        Remedy::Close => "describe every property; a writer takes no others".to_owned(),
    })
}

fn next_major(event_type: &str) -> String {
    match event_type.rsplit_once(".v") {
        Some((name, version)) => match version.parse::<u32>() {
            Ok(version) => format!("{name}.v{}", version + 1),
            Err(_) => format!("{event_type}.v2"),
        },
        None => format!("{event_type}.v2"),
    }
}

/// "payments reads", "orders and payments read".
fn subject(who: &[String], one: &str, many: &str) -> String {
    match who {
        [] => format!("whoever reads it {one}"),
        [only] => format!("{only} {one}"),
        [first @ .., last] => format!("{} and {last} {many}", first.join(", ")),
    }
}

fn numbers(revisions: &[u32]) -> String {
    let list = |numbers: &[u32]| numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match revisions {
        [] => "any revision".to_owned(),
        [only] => format!("revision {only}"),
        [first @ .., last] => format!("revisions {} and {last}", list(first)),
    }
}
