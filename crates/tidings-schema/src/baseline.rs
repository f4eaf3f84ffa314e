//! Every released revision of every event's writer schema: files that never change.
//!
//! `order.created.v1/3.json` is the third revision of `order.created.v1`; `schemas.lock` has the checksum of
//! each file, as `sha256sum` writes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::contract::Contract;

const LOCK: &str = "schemas.lock";

/// Released revisions, by event type, oldest first.
///
/// ```
/// use tidings_schema::{Contract, EventContract, Baseline};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = tempfile::tempdir()?;
/// let contract = Contract::from([("parcel.sent.v1".to_owned(), EventContract::default())]);
/// Baseline::default().record(directory.path(), &contract)?;
/// assert_eq!(Baseline::read(directory.path())?.of("parcel.sent.v1")[0].number, 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Baseline(BTreeMap<String, Vec<Revision>>);

/// A released revision of an event's writer schema. It never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// From 1.
    pub number: u32,
    /// The writer schema.
    pub schema: Value,
}

/// Retained revisions that cannot be read or were tampered with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Baseline {
    /// Reads a directory of revisions. One that does not exist has none.
    ///
    /// # Errors
    /// A file that is not as it was released, is missing, or was put there without its checksum.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let locked = read_lock(directory)?;
        let mut baseline = Self::default();
        for file in files(directory)? {
            let name = name_of(directory, &file);
            let text = fs::read(&file).map_err(|e| Error(format!("cannot read {}: {e}", file.display())))?;
            match locked.get(&name) {
                Some(sum) if *sum == checksum(&text) => {}
                Some(_) => {
                    return Err(Error(format!(
                        "{name} was changed after its release: a revision is for ever; bring it back (git checkout) and record the change as another revision"
                    )));
                }
                None => {
                    return Err(Error(format!(
                        "{name} is not in {LOCK}: revisions are recorded with `schema record`, not by hand"
                    )));
                }
            }
            let (event_type, number) = parse_name(&name)
                .ok_or_else(|| Error(format!("{name} is not called like a revision: TYPE/NUMBER.json")))?;
            let schema =
                serde_json::from_slice(&text).map_err(|e| Error(format!("{name} is not JSON: {e}")))?;
            baseline.0.entry(event_type.to_owned()).or_default().push(Revision { number, schema });
        }
        for name in locked.keys() {
            let found =
                parse_name(name).and_then(|(event_type, number)| baseline.revision(event_type, number));
            if found.is_none() {
                return Err(Error(format!(
                    "{name} is missing: a revision is for ever; bring it back (git checkout)"
                )));
            }
        }
        for revisions in baseline.0.values_mut() {
            revisions.sort_by_key(|revision| revision.number);
        }
        Ok(baseline)
    }

    /// The revisions of a type, oldest first.
    #[must_use]
    pub fn of(&self, event_type: &str) -> &[Revision] {
        self.0.get(event_type).map_or(&[], Vec::as_slice)
    }

    /// Types that were released.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    fn revision(&self, event_type: &str, number: u32) -> Option<&Revision> {
        self.of(event_type).iter().find(|revision| revision.number == number)
    }

    /// Writes what differs from the newest revision of its type as the next one; says which files. Nothing
    /// that is there is touched. Whether it may be released is the gate's to say, before.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn record(&self, directory: &Path, contract: &Contract) -> Result<Vec<String>, Error> {
        let mut written = Vec::new();
        let mut locked = read_lock(directory)?;
        let failed = |file: &Path, e| Error(format!("cannot write {}: {e}", file.display()));
        for (event_type, event) in contract {
            let newest = self.of(event_type).last();
            if newest.is_some_and(|newest| newest.schema == event.schema) {
                continue;
            }
            let number = newest.map_or(1, |newest| newest.number + 1);
            let name = format!("{event_type}/{number}.json");
            let file = directory.join(&name);
            let text = format!("{:#}\n", event.schema);
            fs::create_dir_all(directory.join(event_type)).map_err(|e| failed(&file, e))?;
            fs::write(&file, &text).map_err(|e| failed(&file, e))?;
            locked.insert(name.clone(), checksum(text.as_bytes()));
            written.push(name);
        }
        if !written.is_empty() {
            let mut lines = String::new();
            for (name, sum) in &locked {
                writeln!(lines, "{sum}  {name}").expect("writing to a String cannot fail");
            }
            let lock = directory.join(LOCK);
            fs::write(&lock, lines).map_err(|e| failed(&lock, e))?;
        }
        Ok(written)
    }
}

fn read_lock(directory: &Path) -> Result<BTreeMap<String, String>, Error> {
    let lock = directory.join(LOCK);
    if !lock.exists() {
        return Ok(BTreeMap::new());
    }
    let text =
        fs::read_to_string(&lock).map_err(|e| Error(format!("cannot read {}: {e}", lock.display())))?;
    let entry = |line: &str| {
        let (sum, name) = line
            .split_once("  ")
            .ok_or_else(|| Error(format!("{}: a line is not `CHECKSUM  FILE`: {line}", lock.display())))?;
        Ok((name.to_owned(), sum.to_owned()))
    };
    text.lines().map(entry).collect()
}

/// The files of revisions: all that lie one folder deep.
fn files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    if !directory.exists() {
        return Ok(files);
    }
    let entries = |directory: &Path| {
        let listed = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        listed.map_err(|e| Error(format!("cannot list {}: {e}", directory.display())))
    };
    for folder in entries(directory)? {
        if folder.path().is_dir() {
            files.extend(entries(&folder.path())?.into_iter().map(|entry| entry.path()));
        }
    }
    Ok(files)
}

fn name_of(directory: &Path, file: &Path) -> String {
    let name = file.strip_prefix(directory).unwrap_or(file);
    name.to_string_lossy().replace('\\', "/")
}

/// Type and number of `order.created.v1/3.json`.
fn parse_name(name: &str) -> Option<(&str, u32)> {
    let (event_type, file) = name.split_once('/')?;
    Some((event_type, file.strip_suffix(".json")?.parse().ok()?))
}

fn checksum(text: &[u8]) -> String {
    let mut sum = String::with_capacity(64);
    for byte in Sha256::digest(text) {
        write!(sum, "{byte:02x}").expect("writing to a String cannot fail");
    }
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::contract::EventContract;

    fn contract(schema: Value) -> Contract {
        let event = EventContract { schema, ..EventContract::default() };
        Contract::from([("tea.made.v1".to_owned(), event)])
    }

    #[test]
    fn revisions_are_recorded_once_and_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let read = || Baseline::read(directory);
        let first = contract(json!({"title": "first"}));
        assert_eq!(read().unwrap().record(directory, &first).unwrap(), ["tea.made.v1/1.json"]);
        assert_eq!(read().unwrap().record(directory, &first).unwrap(), [""; 0], "it is there");
        let second = contract(json!({"title": "second"}));
        assert_eq!(read().unwrap().record(directory, &second).unwrap(), ["tea.made.v1/2.json"]);
        let numbers: Vec<u32> = read().unwrap().of("tea.made.v1").iter().map(|r| r.number).collect();
        assert_eq!(numbers, [1, 2]);

        let file = directory.join("tea.made.v1/1.json");
        let before = fs::read(&file).unwrap();
        fs::write(&file, "{}").unwrap();
        assert!(read().unwrap_err().to_string().contains("tea.made.v1/1.json was changed after its release"));
        fs::remove_file(&file).unwrap();
        assert!(read().unwrap_err().to_string().contains("tea.made.v1/1.json is missing"));
        fs::write(&file, before).unwrap();
        assert!(read().is_ok());
        fs::write(directory.join("tea.made.v1/3.json"), "{}").unwrap();
        assert!(read().unwrap_err().to_string().contains("recorded with `schema record`"));
    }
}
