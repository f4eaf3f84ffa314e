//! `psp-sandbox` as its users see it: the API in their terms, and the program.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use expect_test::{Expect, expect};
use http_body_util::Full;
use hyper::{Request, StatusCode};
use payment::psp::Psp;
use serde_json::Value;

use crate::provider::{Provider, send};

const GOOD: &str = "amount=100&currency=eur&payment_method=pm_card_visa&confirm=true&capture_method=manual";

#[tokio::test]
async fn a_repeated_key_gets_the_same_answer_whatever_was_done_since() {
    let provider = Provider::start().await;
    let (status, headers, first) = provider.post("/v1/payment_intents", "k", GOOD).await;
    assert_eq!((status, headers.contains_key("idempotent-replayed")), (StatusCode::OK, false));
    let id = first["id"].as_str().expect("it has an id");
    provider.post(&format!("/v1/payment_intents/{id}/capture"), "k-2", "").await;
    let (status, headers, again) = provider.post("/v1/payment_intents", "k", GOOD).await;
    assert_eq!(
        (status, &headers["idempotent-replayed"], again),
        (StatusCode::OK, &"true".parse().unwrap(), first)
    );
    let (status, _, other) = provider.post("/v1/payment_intents", "k", &GOOD.replace("100", "200")).await;
    assert_eq!((status, &other["error"]["type"]), (StatusCode::BAD_REQUEST, &"idempotency_error".into()));

    let declined = GOOD.replace("pm_card_visa", "pm_card_visa_chargeDeclined");
    let (status, _, first) = provider.post("/v1/payment_intents", "k-3", &declined).await;
    let (_, headers, again) = provider.post("/v1/payment_intents", "k-3", &declined).await;
    assert_eq!((status, again), (StatusCode::PAYMENT_REQUIRED, first));
    assert_eq!(headers["idempotent-replayed"], "true");
}

#[tokio::test]
async fn what_it_refuses_it_refuses_in_the_providers_form() {
    let provider = Provider::start().await;
    let declined = GOOD.replace("pm_card_visa", "pm_card_visa_chargeDeclinedInsufficientFunds");
    let refusal = async |path: &str, form: &str, expected: Expect| {
        let (status, _, mut body) = provider.post(path, "", form).await;
        if let Some(intent) = body["error"].get_mut("payment_intent") {
            *intent = intent["status"].take();
        }
        expected.assert_eq(&format!("{} {}", status.as_u16(), body["error"]));
    };
    refusal("/v1/payment_intents", &declined, expect![[r#"402 {"code":"card_declined","decline_code":"insufficient_funds","message":"the card has insufficient funds","payment_intent":"requires_payment_method","type":"card_error"}"#]]).await;
    refusal("/v1/payment_intents", &GOOD.replace("amount=100", ""), expect![[r#"400 {"code":"parameter_missing","message":"Missing required param: amount","param":"amount","type":"invalid_request_error"}"#]]).await;
    refusal("/v1/payment_intents", &format!("{GOOD}&colour=red"), expect![[r#"400 {"code":"parameter_unknown","message":"Received unknown parameter: colour","param":"colour","type":"invalid_request_error"}"#]]).await;
    refusal("/v1/payment_intents/pi_1/capture", "", expect![[r#"404 {"code":"resource_missing","message":"No such payment_intent: 'pi_1'","type":"invalid_request_error"}"#]]).await;
    refusal("/v1/customers", "", expect![[r#"404 {"message":"Unrecognized request URL (POST: /v1/customers).","type":"invalid_request_error"}"#]]).await;
    let request = Request::get(format!("{}/v1/payment_intents", provider.url)).body(Full::default()).unwrap();
    assert_eq!(send(request).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_list_is_read_page_by_page_newest_first() {
    let provider = Provider::start().await;
    for n in 0..5 {
        let form = format!("{GOOD}&metadata[order_id]=o-{n}");
        provider.post("/v1/payment_intents", &format!("k-{n}"), &form).await;
    }
    let list = async |query: &str| {
        let (_, page) = provider.get(&format!("/v1/payment_intents?{query}")).await;
        let orders = page["data"].as_array().expect("a list has data").iter();
        let orders: Vec<&str> = orders.map(|i| i["metadata"]["order_id"].as_str().unwrap()).collect();
        (format!("{} {}", orders.join(" "), page["has_more"]), page["data"][1]["id"].clone())
    };
    let (first, last_id) = list("limit=2").await;
    assert_eq!(first, "o-4 o-3 true");
    let after = format!("limit=3&starting_after={}", last_id.as_str().unwrap());
    assert_eq!(list(&after).await.0, "o-2 o-1 o-0 false");
    assert_eq!(list("created[gte]=99999999999").await.0, " false");
}

#[tokio::test]
async fn its_book_survives_a_restart() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let file = directory.path().join("book");
    let provider = Provider::of(Psp::open(&file).expect("the journal is new")).await;
    let (_, _, first) = provider.post("/v1/payment_intents", "k", GOOD).await;
    let capture = format!("/v1/payment_intents/{}/capture", first["id"].as_str().expect("it has an id"));
    provider.post(&capture, "k-2", "").await;
    let in_use = Psp::open(&file).err().expect("its owner lives").to_string();
    assert!(in_use.contains("is in use"), "{in_use}");

    // What a process leaves that died while it wrote.
    let copy = directory.path().join("copy");
    let mut journal = std::fs::read(&file).expect("the journal can be read");
    journal.extend(b"{\"at\":17");
    std::fs::write(&copy, journal).expect("the directory is writable");
    let after = Provider::of(Psp::open(&copy).expect("the journal is whole but for its last line")).await;
    assert_eq!(after.intents().await, provider.intents().await);
    let (_, headers, again) = after.post("/v1/payment_intents", "k", GOOD).await;
    assert_eq!((again, headers.contains_key("idempotent-replayed")), (first, true));
    let refund = format!("payment_intent={}", capture.split('/').nth(3).unwrap());
    assert_eq!(after.post("/v1/refunds", "k-3", &refund).await.0, StatusCode::OK);

    std::fs::write(directory.path().join("other"), "name,age\n").expect("the directory is writable");
    let other = Psp::open(&directory.path().join("other")).err().expect("that is no journal").to_string();
    assert!(other.contains("line 1 of"), "{other}");
}

#[test]
fn the_program_keeps_its_book_over_kill_and_ends_with_0_when_told() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let book = directory.path().join("book");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let mut sandbox = Sandbox::start(&book);
    let live = runtime.block_on(sandbox.provider.get("/livez"));
    assert_eq!(live, (StatusCode::OK, serde_json::json!({"status": "live"})));
    let (_, _, held) = runtime.block_on(sandbox.provider.post("/v1/payment_intents", "k", GOOD));
    sandbox.child.kill().expect("it runs");
    sandbox.child.wait().expect("it is ours");

    let mut sandbox = Sandbox::start(&book);
    let intents: Vec<Value> = runtime.block_on(sandbox.provider.intents());
    assert_eq!(intents[0]["id"], held["id"]);
    let sent = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", sandbox.child.id())).status();
    assert!(sent.expect("there is a shell").success());
    assert_eq!(sandbox.child.wait().expect("it is ours").code(), Some(0));
}

/// The program; it is killed when dropped.
struct Sandbox {
    child: Child,
    provider: Provider,
}

impl Sandbox {
    fn start(book: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_psp-sandbox"));
        command.args(["--listen", "127.0.0.1:0", "--data"]).arg(book).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output is piped")).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("ready listen=").expect("it says where it listens");
        Self { child, provider: Provider { url: format!("http://{address}") } }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_gateway_that_cannot_be_used_is_refused_in_one_line() {
    let refusal = |gateway: &str, settings: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_payment"));
        command.args(["--gateway", gateway, "--store", "sqlite:unused", "--broker", "sqlite:unused"]);
        command
            .args(["--listen", "127.0.0.1:0"])
            .env_remove("STRIPE_API_KEY")
            .env_remove("STRIPE_API_KEY_FILE");
        let output = command.envs(settings.iter().copied()).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(1), "{gateway}");
        String::from_utf8(output.stderr).expect("it is text")
    };
    let url = "stripe:http://127.0.0.1:1";
    let told = [
        refusal("paypal", &[]),
        refusal(url, &[]),
        refusal(url, &[("STRIPE_API_KEY", ""), ("STRIPE_API_KEY_FILE", "no/such/file")]),
        refusal(url, &[("STRIPE_API_KEY", "sk_live_1")]),
        refusal("stripe:", &[("STRIPE_API_KEY", "sk_test_1")]),
    ];
    expect![[r#"
        there is no gateway "paypal": give --gateway sandbox or --gateway stripe:URL
        the gateway stripe needs the provider's secret key: set STRIPE_API_KEY, or STRIPE_API_KEY_FILE to the name of a file that holds it
        cannot read STRIPE_API_KEY_FILE no/such/file: No such file or directory (os error 2)
        a live key is not sent in clear to http://127.0.0.1:1: give an https URL
        "" is not a URL: give --gateway stripe:https://HOST[:PORT]
    "#]].assert_eq(&told.concat());
}
