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

/// A store in one SQLite file.
mod sqlite_store {
    use tidings_testkit::Scratch;

    tidings_testkit::store_conformance!(Scratch::new());

    #[tokio::test]
    async fn a_second_opening_is_refused() {
        let scratch = Scratch::new();
        tidings_testkit::conformance::store::a_second_opening_is_refused(&scratch.url()).await;
    }
}
