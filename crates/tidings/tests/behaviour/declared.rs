//! What a service does and has not said that it does is refused where it happens, in words.

use serde::{Deserialize, Serialize};
use tidings::config::{Command, Settings};
use tidings::{Effect, EffectError, EffectHandler, Envelope, Error, HandlerError, Service, Settled, Tx};
use tidings_testkit::event::NoteTaken;

use crate::stage;

/// Ring a bell.
#[derive(Serialize, Deserialize)]
struct Ring;

impl Effect for Ring {
    const KIND: &'static str = "ring";
    type Outcome = ();

    fn key(&self) -> String {
        "ring".to_owned()
    }
}

/// Lies on the topic of notes.
#[tidings::event(name = "bell.rung", version = 1, topic = "notes", key = key)]
struct BellRung {
    #[garde(skip)]
    key: String,
}

fn told(result: Result<(), HandlerError>) -> String {
    result.expect_err("it is refused").to_string()
}

#[tokio::test]
async fn an_undeclared_event_and_an_effect_without_a_handler_are_refused() {
    let stage = stage();
    let running = stage.start(|| Service::new("forgetful").publishes::<BellRung>()).await;
    let store = running.store();
    let rung = BellRung { key: "a".to_owned() };
    store.transaction(async move |tx: &mut Tx| tx.publish(rung).await).await.expect("it is declared");
    let published = store.transaction(async |tx: &mut Tx| tx.publish(NoteTaken::new("a", 1)).await);
    assert_eq!(
        told(published.await),
        "undeclared_event: forgetful publishes note.taken.v1 on topic notes and has not declared it: add .publishes::<…>() to the service"
    );
    let asked = store.transaction(async |tx: &mut Tx| tx.perform(Ring).await);
    assert_eq!(
        told(asked.await),
        "undeclared_effect: forgetful asks for ring and has no handler for it: add .effect::<…>(…) or .on_timer(…) to the service"
    );
}

async fn refusal(services: Vec<Service>) -> String {
    let mut settings = Settings::default();
    settings.command = Command::Migrate;
    tidings::run(services, settings).await.err().as_ref().map(Error::to_string).expect("it is refused")
}

#[tokio::test]
async fn services_whose_names_cannot_be_are_refused_for_that() {
    let told = refusal(vec![Service::new("a"), Service::new("b"), Service::new("a")]).await;
    assert!(told.starts_with("two services are called \"a\": each needs a name of its own"), "{told}");
    assert!(refusal(vec![Service::new("a"), Service::new("A")]).await.starts_with("two services are called"));
    let long = "x".repeat(61);
    for name in ["", "../other", "a/b", "tea time", "tée", ".hidden", "-x", "a\0b", &long] {
        let told = refusal(vec![Service::new(name)]).await;
        assert!(told.contains("cannot be the name of a service"), "{name}: {told}");
    }
    let told = refusal(vec![Service::new("a").group("tea time")]).await;
    assert!(told.contains("cannot be the name of a group"), "{told}");
}

#[tokio::test]
async fn two_handlers_of_one_type_are_refused_in_a_line() {
    let twice = Service::new("twice").on(take_note).on(take_note);
    assert_eq!(
        refusal(vec![twice]).await,
        "service twice has two handlers of note.taken.v1: an event has one; call both from it"
    );
    let twice = Service::new("twice").effect::<Ring, _>(Bell).effect::<Ring, _>(Bell);
    assert_eq!(
        refusal(vec![twice]).await,
        "service twice has two handlers of the effect ring: an effect has one"
    );
}

async fn take_note(_: &Envelope<NoteTaken>, _: &mut Tx) -> Result<(), HandlerError> {
    Ok(())
}

struct Bell;

impl EffectHandler<Ring> for Bell {
    async fn perform(&self, _: &str, _: &Ring) -> Result<(), EffectError> {
        Ok(())
    }

    async fn look_up(&self, _: &str, _: &Ring) -> Result<Option<()>, EffectError> {
        Ok(None)
    }

    async fn settle(&self, _: &[Settled<Ring>], _: &mut Tx) -> Result<(), HandlerError> {
        Ok(())
    }
}
