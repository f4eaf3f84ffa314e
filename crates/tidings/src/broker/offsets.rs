//! Offsets of a group, set and looked at from outside it.

use super::{Backend, Broker, Position};
use crate::error::Error;

impl Broker {
    /// Sets the offsets of a group that nobody is in: the next that it handles of each partition of a topic.
    ///
    /// # Errors
    /// Somebody is in the group ([`Error::is_conflict`]); no such topic; an unusable broker.
    pub(crate) async fn set_offsets(
        &self,
        group: &str,
        topic: &str,
        offsets: &[(i32, i64)],
    ) -> Result<(), Error> {
        match &self.0 {
            Backend::Log(log) => log.set_offsets(group, topic, offsets).await,
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.set_offsets(group, topic, offsets).await,
        }
    }

    /// Returns when the broker took the record at each of these positions, in microseconds, if there is one.
    pub(crate) async fn times_at(&self, positions: &[Position]) -> Result<Vec<Option<i64>>, Error> {
        match &self.0 {
            Backend::Log(log) => log.times_at(positions).await,
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.times_at(positions).await,
        }
    }
}
