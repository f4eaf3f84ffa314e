//! The contract of programs: their event types, with writers, readers and schema.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Every event type that programs write or read today, as `PROGRAM schemas` prints it.
pub type Contract = BTreeMap<String, EventContract>;

/// An event type with its writers and its readers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventContract {
    /// The topic it is published on.
    pub topic: String,
    /// The services that publish it.
    pub written_by: BTreeSet<String>,
    /// The consumer groups that handle it.
    pub read_by: BTreeSet<String>,
    /// Groups that handle it as a newer type, to which it is upcast.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub read_as: BTreeMap<String, String>,
    /// The writer schema.
    pub schema: Value,
}

/// Adds the contract of other programs.
///
/// ```
/// use tidings_schema::{Contract, EventContract, merge};
///
/// let read_by = |group: &str| EventContract { read_by: [group.to_owned()].into(), ..EventContract::default() };
/// let mut all = Contract::from([("parcel.sent.v1".to_owned(), read_by("tracking"))]);
/// merge(&mut all, Contract::from([("parcel.sent.v1".to_owned(), read_by("billing"))]));
/// assert_eq!(all["parcel.sent.v1"].read_by.len(), 2);
/// ```
pub fn merge(contract: &mut Contract, other: Contract) {
    for (event_type, event) in other {
        match contract.get_mut(&event_type) {
            Some(known) => {
                known.written_by.extend(event.written_by);
                known.read_by.extend(event.read_by);
                known.read_as.extend(event.read_as);
            }
            None => drop(contract.insert(event_type, event)),
        }
    }
}
