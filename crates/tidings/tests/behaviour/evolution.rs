//! Events that change while others go on reading them: what is not known survives, older versions are read
//! as newer ones, and a fact that is stated in two versions is handled once.

use expect_test::expect;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidings::{
    Document, Envelope, Event, Handler, HandlerError, OpenEnum, Service, Tx, UnknownFields, contract,
    document,
};
use tidings::{Message, writer_schema};
use tidings_testkit::stage::{idle, stop, tally};
use tidings_testkit::wire::Binary;

use crate::reader::{TABLES, journal, write_down};

/// As it was at first.
#[derive(Clone, Debug, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "tea.made", version = 1, topic = "teas", key = pot, superseded_by = "tea.made.v2")]
struct TeaMadeV1 {
    #[garde(length(min = 1))]
    pot: String,
    #[garde(range(min = 1, max = 12))]
    cups: u32,
}

/// Then cups became millilitres.
#[derive(Clone, Debug, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "tea.made", version = 2, topic = "teas", key = pot, upcasts = TeaMadeV1)]
struct TeaMadeV2 {
    #[garde(length(min = 1))]
    pot: String,
    #[garde(range(min = 1))]
    millilitres: u32,
    /// Came later than the rest of version 2.
    #[serde(default = "black")]
    #[garde(skip)]
    kind: String,
}

/// And pots got a number.
#[derive(Clone, Debug, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "tea.made", version = 3, topic = "teas", key = pot, upcasts = TeaMadeV2)]
struct TeaMadeV3 {
    #[garde(length(min = 1))]
    pot: String,
    #[garde(skip)]
    volume: Volume,
    #[garde(skip)]
    kind: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Volume {
    millilitres: u32,
}

fn black() -> String {
    "black".to_owned()
}

impl From<TeaMadeV1> for TeaMadeV2 {
    fn from(old: TeaMadeV1) -> Self {
        Self { pot: old.pot, millilitres: 250 * old.cups, kind: black() }
    }
}

impl From<TeaMadeV2> for TeaMadeV3 {
    fn from(old: TeaMadeV2) -> Self {
        Self { pot: old.pot, volume: Volume { millilitres: old.millilitres }, kind: old.kind }
    }
}

/// Writes down what it reads, whatever the version.
struct Drinker;

macro_rules! drinks {
    ($($event:ty),*) => {$(
        impl Handler<$event> for Drinker {
            async fn handle(&self, event: &Envelope<$event>, tx: &mut Tx) -> Result<(), HandlerError> {
                let payload = serde_json::to_value(event.payload()).expect("an event is JSON");
                write_down(tx, &format!("{} {payload}", event.id())).await
            }
        }
    )*};
}
drinks!(TeaMadeV1, TeaMadeV2, TeaMadeV3);

fn drinkers() -> Service {
    Service::new("drinkers").tables(TABLES).takes_external::<TeaMadeV3>().on::<TeaMadeV3, _>(Drinker)
}

fn made(version: u32, n: u64, payload: &Value) -> Message {
    let mut binary = Binary::note("green", n).of_type(&format!("tea.made.v{version}"));
    binary.source = "/teas".to_owned();
    binary.with_value(payload.to_string()).message()
}

/// A copy for those who cannot read version 2 yet.
fn superseded(mut message: Message) -> Message {
    message.headers.push("ce_supersededby", b"tea.made.v2");
    message
}

#[tokio::test]
async fn older_versions_are_read_as_the_newest_one() {
    let stage = crate::stage();
    let running = stage.start(drinkers).await;
    let history = [
        made(1, 1, &json!({"pot": "green", "cups": 2})),
        made(2, 2, &json!({"pot": "green", "millilitres": 300})),
        made(2, 3, &json!({"pot": "green", "millilitres": 300, "kind": "white"})),
        made(3, 4, &json!({"pot": "green", "volume": {"millilitres": 400}, "kind": "white", "later": true})),
        made(4, 5, &json!({"whatever": "comes"})),
    ];
    stage.send("teas", history).await;
    idle(&running).await;
    expect![[r#"
        green-1 {"kind":"black","pot":"green","volume":{"millilitres":500}}
        green-2 {"kind":"black","pot":"green","volume":{"millilitres":300}}
        green-3 {"kind":"white","pot":"green","volume":{"millilitres":300}}
        green-4 {"kind":"white","pot":"green","volume":{"millilitres":400}}"#]]
    .assert_eq(&journal(&running).await.join("\n"));
    expect!["delivered 5 handled 4 ignored 1 | waiting 0 dead 0"].assert_eq(&tally(&running).await);
    stop(running).await;
}

#[tokio::test]
async fn a_fact_that_is_stated_in_two_versions_is_handled_once_by_everybody() {
    let stage = crate::stage();
    let running = stage.start(drinkers).await;
    let both = [
        made(2, 1, &json!({"pot": "green", "millilitres": 500, "kind": "black"})),
        superseded(made(1, 2, &json!({"pot": "green", "cups": 2}))),
    ];
    stage.send("teas", both).await;
    idle(&running).await;
    expect!["delivered 2 handled 1 ignored 1 | waiting 0 dead 0"].assert_eq(&tally(&running).await);
    let former = stage.start(|| Service::new("former").tables(TABLES).on::<TeaMadeV1, _>(Drinker)).await;
    idle(&former).await;
    assert_eq!(journal(&former).await, [r#"green-2 {"cups":2,"pot":"green"}"#]);
    stop(former).await;
    stop(running).await;
}

#[tokio::test]
async fn what_is_published_of_a_superseded_type_says_so() {
    let stage = crate::stage();
    let running = stage
        .start(|| Service::new("kitchen").tables(TABLES).publishes::<TeaMadeV1>().publishes::<TeaMadeV2>())
        .await;
    let state = async |tx: &mut Tx| {
        let old = TeaMadeV1 { pot: "green".into(), cups: 2 };
        tx.publish(TeaMadeV2::from(old.clone())).await?;
        tx.publish(old).await
    };
    running.store().transaction(state).await.expect("both are valid");
    idle(&running).await;
    let records = stage.read("teas").await;
    let marks: Vec<_> = records
        .iter()
        .map(|record| (record.message.header("ce_type"), record.message.header("ce_supersededby")))
        .collect();
    assert_eq!(
        marks,
        [(Some("tea.made.v2"), None), (Some("tea.made.v1"), Some("tea.made.v2"))],
        "both, in their order"
    );
    stop(running).await;
}

#[test]
fn the_gate_and_the_documents_know_who_reads_which_version() {
    let kitchen = Service::new("kitchen").publishes::<TeaMadeV1>().publishes::<TeaMadeV2>();
    let services = [kitchen, Service::new("drinkers").on::<TeaMadeV2, _>(Drinker)];
    let contract = contract(&services);
    let old = &contract["tea.made.v1"];
    assert!(old.read_by.is_empty());
    assert_eq!(old.read_as["drinkers"], "tea.made.v2");
    let documents = document(&services, Document::Asyncapi);
    assert_eq!(documents["components"]["messages"]["tea.made.v1"]["deprecated"], true);
    // Always written, and given to older events.
    let kind = &writer_schema::<TeaMadeV2>()["properties"]["kind"];
    assert_eq!(kind["x-upcast"], "black");
}

/// An event that is passed on by somebody who knows neither all of its fields nor all of its words.
#[derive(Clone, Debug, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "rumour.heard", version = 1, topic = "rumours", key = about)]
struct RumourHeard {
    #[garde(length(min = 1))]
    about: String,
    #[garde(dive)]
    from: OpenEnum<Source>,
    #[serde(flatten)]
    #[garde(skip)]
    rest: UnknownFields,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Source {
    Neighbour,
}

#[derive(Clone, Debug, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "rumour.spread", version = 1, topic = "gossip", key = about)]
struct RumourSpread {
    #[garde(length(min = 1))]
    about: String,
    #[garde(dive)]
    from: OpenEnum<Source>,
    #[serde(flatten)]
    #[garde(skip)]
    rest: UnknownFields,
}

async fn spread(event: &Envelope<RumourHeard>, tx: &mut Tx) -> Result<(), HandlerError> {
    let RumourHeard { about, from, rest } = event.payload().clone();
    tx.publish(RumourSpread { about, from, rest }).await
}

#[tokio::test]
async fn unknown_fields_and_words_survive_where_an_event_is_passed_on() {
    let stage = crate::stage();
    let running = stage.start(|| Service::new("gossips").publishes::<RumourSpread>().on(spread)).await;
    let mut heard = Binary::note("tea", 1).of_type("rumour.heard.v1");
    heard.source = "/rumours".to_owned();
    let payload = json!({"about": "tea", "from": "milkman", "certainty": {"percent": 80}, "since": null});
    stage.send("rumours", [heard.with_value(payload.to_string()).message()]).await;
    idle(&running).await;
    let passed_on = stage.read("gossip").await;
    let passed_on: Value = serde_json::from_slice(&passed_on[0].message.value).expect("it is JSON");
    assert_eq!(passed_on, payload);
    let schema = writer_schema::<RumourSpread>();
    assert_eq!(schema["additionalProperties"], false, "and yet nobody promises what nobody described");
    assert_eq!(schema["properties"].as_object().map(serde_json::Map::len), Some(2));
    assert_eq!(schema["properties"]["from"]["x-open-enum"], true);
    stop(running).await;
}

#[tokio::test]
async fn a_dead_letter_says_every_rule_that_was_broken_and_where() {
    let stage = crate::stage();
    let running = stage.start(drinkers).await;
    let messages = [
        made(3, 1, &json!({"pot": "", "volume": {"millilitres": "much"}})),
        made(1, 2, &json!({"pot": "green"})),
        made(1, 3, &json!({"pot": "", "cups": 0})),
        made(3, 4, &json!(["green"])),
    ];
    let messages = messages.map(|mut message| {
        // Without a number, so that none waits for the one before it.
        message.headers.retain(|name, _| name != "ce_streamseq" && name != "ce_source");
        message.headers.push("ce_source", b"/elsewhere");
        message
    });
    stage.send("teas", messages).await;
    idle(&running).await;
    let mut told: Vec<String> = stage
        .read("drinkers_dlq")
        .await
        .iter()
        .map(|record| record.message.header("dlq_error_message").unwrap_or_default().to_owned())
        .collect();
    told.sort();
    expect![[r#"
        payload_invalid: invalid tea.made.v3: /pot: must have at least 1 character (minLength)
        payload_undecodable: cannot be read as tea.made.v3: missing field `cups` at line 1 column 15
        payload_undecodable: cannot be read as tea.made.v3: the document: `kind` is missing (required); /pot: must have at least 1 character (minLength); /volume/millilitres: must be a whole number, is text (type)
        payload_undecodable: cannot be read as tea.made.v3: the document: must be an object, is a list (type)"#]].assert_eq(&told.join("\n"));
    stop(running).await;
}

#[tokio::test]
async fn publishing_what_breaks_its_own_rules_fails_the_transaction_and_says_every_rule() {
    let stage = crate::stage();
    let running = stage.start(|| Service::new("kitchen").tables(TABLES).publishes::<TeaMadeV1>()).await;
    let state = async |tx: &mut Tx| {
        write_down(tx, "made").await?;
        tx.publish(TeaMadeV1 { pot: String::new(), cups: 13 }).await
    };
    let refused = running.store().transaction(state).await.expect_err("it is invalid");
    expect!["invalid_event: tea.made.v1 is invalid: /cups: must be at most 12 (maximum); /pot: must have at least 1 character (minLength)"].assert_eq(&refused.to_string());
    assert_eq!(journal(&running).await, [""; 0], "nothing of it is left");
    assert_eq!(stage.read("teas").await.len(), 0);
    stop(running).await;
}
