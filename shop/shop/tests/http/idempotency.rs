//! Requests that come again under the same `Idempotency-Key`.

use expect_test::expect;
use hyper::StatusCode;

use super::{TEA, open, refused};

#[tokio::test]
async fn the_same_idempotency_key_gets_the_same_answer_and_makes_no_second_order() {
    let (_directory, _shop, mut client) = open();
    let key = [("idempotency-key", "k-1")];
    let first = client.post_with("/orders", &key, TEA).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (StatusCode::CREATED, ""));
    client.ended(first.json()["id"].as_str().unwrap()).await;
    for key in ["k-1", "\"k-1\""] {
        let again = client.post_with("/orders", &[("idempotency-key", key)], TEA).await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (StatusCode::CREATED, "true"));
        assert_eq!(again.body, first.body);
        for header in ["location", "content-type"] {
            assert_eq!(again.header(header), first.header(header));
        }
    }
    let same = r#"{"items":[{"product_id":"tea","quantity":2}],"payment_method":null,"customer_id":null}"#;
    assert_eq!(client.post_with("/orders", &key, same).await.body, first.body, "null is as good as nothing");
    let other = r#"{"items":[{"product_id":"tea","quantity":3}]}"#;
    refused(
        &client.post_with("/orders", &key, other).await,
        expect![[r#"
        422 /problems/idempotency-mismatch
        this Idempotency-Key was used for another request body"#]],
    );
    let another_key = client.post_with("/orders", &[("idempotency-key", "k-2")], other).await;
    assert_eq!((another_key.status, another_key.header("idempotent-replayed")), (StatusCode::CREATED, ""));
    assert_eq!(client.json("/orders").await["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_idempotency_key_has_1_to_255_printable_characters() {
    let (_directory, _shop, mut client) = open();
    let mut place = async |key: &str| client.post_with("/orders", &[("idempotency-key", key)], TEA).await;
    refused(
        &place("").await,
        expect![[r#"
        400 /problems/idempotency-key
        an Idempotency-Key has 1 to 255 printable ASCII characters"#]],
    );
    refused(
        &place(&"k".repeat(256)).await,
        expect![[r#"
        400 /problems/idempotency-key
        an Idempotency-Key has 1 to 255 printable ASCII characters"#]],
    );
    refused(
        &place("käse").await,
        expect![[r#"
        400 /problems/idempotency-key
        an Idempotency-Key has 1 to 255 printable ASCII characters"#]],
    );
    assert_eq!(place(&"k".repeat(255)).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_refused_request_does_not_use_its_key_up() {
    let (_directory, _shop, mut client) = open();
    let key = [("idempotency-key", "k-1")];
    let refused =
        client.post_with("/orders", &key, r#"{"items":[{"product_id":"gold","quantity":1}]}"#).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(client.post_with("/orders", &key, TEA).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn concurrent_requests_with_one_key_make_one_order() {
    let (_directory, shop, mut client) = open();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let mut client = shop.client();
        tasks.spawn(async move { client.post_with("/orders", &[("idempotency-key", "k-1")], TEA).await });
    }
    let answers = tasks.join_all().await;
    let mut firsts = 0;
    for answer in &answers {
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        assert_eq!(answer.body, answers[0].body);
        firsts += usize::from(answer.header("idempotent-replayed").is_empty());
    }
    assert_eq!(firsts, 1, "one request made the order, the others were told of it");
    assert_eq!(client.json("/orders").await["items"].as_array().unwrap().len(), 1);
}
