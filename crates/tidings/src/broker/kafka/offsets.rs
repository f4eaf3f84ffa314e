//! The offsets of a group that nobody is in.

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::identity::Beside;
use super::settings::KafkaSettings;
use super::{ANSWER_MAX, ReaderClient, failed};
use crate::error::Error;

/// Commits offsets as no member: the coordinator takes them only while the group is empty. The store that the group
/// belongs to stays beside them; the time of the record before them is found out by who takes them up.
pub(super) fn set_offsets(
    settings: &KafkaSettings,
    client: &ReaderClient,
    group: &str,
    topic: &str,
    offsets: &[(i32, i64)],
) -> Result<(), Error> {
    let attempted = format!("cannot set the offsets of group {group}");
    let failed = |e| failed(&attempted, &e);
    let wire = settings.wire_name(topic);
    let mut asked = TopicPartitionList::new();
    for (partition, _) in offsets {
        asked.add_partition(&wire, *partition);
    }
    let committed = client.committed_offsets(asked, ANSWER_MAX).map_err(failed)?;
    let mut set = TopicPartitionList::new();
    for (partition, offset) in offsets {
        set.add_partition_offset(&wire, *partition, Offset::Offset(*offset)).map_err(failed)?;
        let known = committed.find_partition(&wire, *partition);
        let store = known.as_ref().and_then(|known| Beside::read(known.metadata()).store);
        if let Some(mut element) = set.find_partition(&wire, *partition) {
            element.set_metadata(Beside { latest_us: None, store }.metadata());
        }
    }
    client.commit(&set, CommitMode::Sync).map_err(|e| match e.rdkafka_error_code() {
        Some(RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::IllegalGeneration) => {
            Error::conflict(format!("group {group} has members"))
        }
        _ => failed(e),
    })
}
