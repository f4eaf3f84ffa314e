//! Every broker and every store keeps the same promises.

/// The embedded log.
mod embedded_log {
    use tidings_testkit::Scratch;

    tidings_testkit::broker_conformance!(Scratch::new());

    #[tokio::test]
    async fn a_member_that_has_not_noticed_does_not_move_an_offset_back() {
        let scratch = Scratch::new();
        let url = scratch.url();
        tidings_testkit::conformance::broker::a_member_that_has_not_noticed_does_not_move_an_offset_back(
            &url,
        )
        .await;
    }
}

/// Apache Kafka.
#[cfg(feature = "kafka")]
mod kafka {
    use tidings_testkit::parts::FreshTopics;

    tidings_testkit::broker_conformance!(FreshTopics::new());
}

/// Apache Kafka with the group protocol of KIP-848.
#[cfg(feature = "kafka")]
mod kafka_consumer_protocol {
    use tidings_testkit::parts::FreshTopics;

    tidings_testkit::broker_conformance!(FreshTopics::with("&group.protocol=consumer"));
}

/// librdkafka's own mock cluster.
#[cfg(feature = "kafka")]
mod mock_cluster {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::RDKafkaRespErr;
    use tidings_testkit::conformance::broker::TOPICS;

    const BROKERS: i32 = 3;

    struct Mocked(MockCluster<'static, DefaultProducerContext>);

    impl Mocked {
        /// With all topics: it knows no requests to make them, and makes by itself whatever it is asked for.
        fn new() -> Self {
            let cluster = MockCluster::new(BROKERS).expect("a mock cluster can be made");
            for (topic, partitions) in TOPICS {
                cluster.create_topic(topic, partitions.cast_signed(), BROKERS).expect("a topic can be made");
            }
            let unknown = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
            cluster.topic_error("no_such_topic", unknown).expect("a topic can be missing");
            Self(cluster)
        }

        fn url(&self) -> String {
            format!("kafka://{}", self.0.bootstrap_servers())
        }
    }

    // Two promises about sharing a group are left out: now and then both members read a partition here at the
    // same time, which the real broker was never seen to allow.
    tidings_testkit::each_promise! { broker, Mocked::new(),
        messages_of_a_key_stay_in_order
        a_key_lives_in_the_partition_that_kafka_gives_it
        messages_without_a_key_spread
        what_was_sent_is_read_back_byte_for_byte
        a_new_group_starts_from_the_beginning
        committed_offsets_survive_reopening
        what_was_sent_survives_reopening
        uncommitted_records_are_delivered_again
        rewinding_goes_back_to_the_first_uncommitted_record
        two_groups_both_get_everything
        a_slow_consumer_gets_everything_in_order
        what_cannot_be_accepted_is_refused_alone
        making_topics_again_changes_nothing
        a_dropped_poll_loses_nothing
        concurrent_senders_get_a_place_each
        a_partition_can_be_read_outside_any_group
    }
}

/// A store in a schema of PostgreSQL.
#[cfg(feature = "kafka")]
mod postgres_store {
    use tidings_testkit::parts::FreshDatabase;

    tidings_testkit::store_conformance!(FreshDatabase::new());
}

/// A store in one SQLite file.
mod sqlite_store {
    use tidings_testkit::Scratch;

    tidings_testkit::store_conformance!(Scratch::new());

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn what_follows_a_commit_runs_in_commit_order() {
        let scratch = Scratch::new();
        tidings_testkit::conformance::store::what_follows_a_commit_runs_in_commit_order(&scratch.url()).await;
    }

    #[tokio::test]
    async fn a_second_opening_is_refused() {
        let scratch = Scratch::new();
        tidings_testkit::conformance::store::a_second_opening_is_refused(&scratch.url()).await;
    }
}
