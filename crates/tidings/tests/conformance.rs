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
    use tidings_testkit::servers::FreshTopics;

    tidings_testkit::broker_conformance!(FreshTopics::new());
}

/// Apache Kafka with the group protocol of KIP-848.
#[cfg(feature = "kafka")]
mod kafka_consumer_protocol {
    use tidings_testkit::servers::FreshTopics;

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

    // Now and then both members of a group read a partition here at the same time, which the real broker was
    // never seen to allow.
    tidings_testkit::broker_conformance!(Mocked::new(), without sharing);
}

/// A store in a schema of PostgreSQL.
#[cfg(feature = "kafka")]
mod postgres_store {
    use tidings_testkit::servers::FreshDatabase;

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
