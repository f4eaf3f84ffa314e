//! `check`: looks at everything that running needs, and changes nothing.

use std::collections::BTreeMap;
use std::process::ExitCode;

use super::say;
use crate::admin;
use crate::broker::{Broker, Drift, TopicSpec};
use crate::config::Settings;
use crate::error::Error;
use crate::registry;
use crate::service::{Service, topic_specs};
use crate::store::Store;

/// Refuses services that cannot run together: each has a database and a group of its own.
pub(super) fn names(services: &[Service]) -> Result<(), Error> {
    routes(services)?;
    for (index, service) in services.iter().enumerate() {
        service.check()?;
        let before = &services[..index];
        // PostgreSQL keeps the case of a schema's name, file systems need not.
        if before.iter().any(|other| other.name().eq_ignore_ascii_case(service.name())) {
            return Err(Error::config(format!(
                "two services are called {:?}: each needs a name of its own, which names its database",
                service.name()
            )));
        }
        if before
            .iter()
            .any(|other| service.reads() && other.reads() && other.group_name() == service.group_name())
        {
            return Err(Error::config(format!(
                "two services read as group {:?}: each would get only a share of the events; give one another name with Service::group",
                service.group_name()
            )));
        }
        if let Some(topic) = before.iter().find_map(|other| shared_topic(other, service)) {
            return Err(Error::config(format!(
                "two services publish on topic {topic}: each numbers its events, and readers would take one's for the other's; give one of them a topic of its own"
            )));
        }
    }
    Ok(())
}

/// A topic on which both publish.
fn shared_topic(one: &Service, other: &Service) -> Option<&'static str> {
    let topics = one.published.iter().map(|spec| spec.topic);
    topics.into_iter().find(|topic| other.published.iter().any(|spec| spec.topic == *topic))
}

/// Refuses two routes that are the same.
fn routes(services: &[Service]) -> Result<(), Error> {
    let own = services.iter().flat_map(|service| {
        service.operations.iter().map(|operation| (service.name(), operation.method, operation.path))
    });
    let shared = admin::operations();
    let shared = shared.iter().map(|operation| ("every program", operation.method, operation.path));
    let mut seen: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for (owner, method, path) in shared.chain(own) {
        let method_name = method.to_ascii_uppercase();
        if let Some(other) = seen.insert((method, path), owner) {
            return Err(Error::config(format!(
                "{owner} has a route {method_name} {path}, and so has {other}: give one another path"
            )));
        }
    }
    Ok(())
}

/// Looks at stores, broker, topics and schema registry, a line each; the exit code says what is wrong first.
pub(super) async fn everything(services: Vec<Service>, settings: &Settings) -> ExitCode {
    let mut wrong = None;
    let mut tell = |what: &str, code: u8, result: Result<String, Error>| match result {
        Ok(said) => say(format_args!("{what}: {said}")),
        Err(e) => {
            say(format_args!("{what}: {e}"));
            wrong.get_or_insert(code);
        }
    };
    let (specs, subjects) = (topic_specs(&services), registry::subjects(&services));
    for service in &services {
        let found = Store::check(&settings.store, service.name(), service.tables).await;
        tell(&format!("store of {}", service.name()), 2, found.map(said));
    }
    match Broker::steps(&settings.broker) {
        Err(e) => tell("broker", 3, Err(e)),
        // The embedded log makes its topics by itself.
        Ok(Some(steps)) => tell("broker", 3, Ok(said(steps))),
        Ok(None) => match cluster(settings, &specs).await {
            Err(e) => tell("broker", 3, Err(e)),
            Ok(plan) => {
                tell("broker", 3, Ok(said(Vec::new())));
                let drift = plan.first().map(|drift| Error::config(format!("{drift}; see: topics plan")));
                tell("topics", 4, drift.map_or(Ok("ok".to_owned()), Err));
            }
        },
    }
    match registry::named(settings.schema_registry(), &settings.broker) {
        Ok(None) => {}
        Err(e) => tell("schema registry", 5, Err(e)),
        Ok(Some(client)) => {
            // Without a broker it is not known what the topics are called there.
            if let Ok(broker) = Broker::open(&settings.broker) {
                tell(
                    "schema registry",
                    5,
                    registry::check(&client, &subjects, &broker).await.map(|()| "ok".to_owned()),
                );
            }
        }
    }
    wrong.map_or(ExitCode::SUCCESS, ExitCode::from)
}

fn said(steps: Vec<String>) -> String {
    match steps.as_slice() {
        [] => "ok".to_owned(),
        steps => format!("ok; a start would migrate {}", steps.join(", ")),
    }
}

/// Returns the differences between the topics and what they should be, once every broker that leads one has answered.
async fn cluster(settings: &Settings, specs: &[TopicSpec]) -> Result<Vec<Drift>, Error> {
    let broker = Broker::open(&settings.broker)?;
    let plan = broker.plan_topics(specs, settings.partitions).await?;
    broker.reach(specs).await?;
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HandlerError, Tx, event};

    #[event(name = "tea.made", version = 1, topic = "teas", key = id)]
    struct TeaMade {
        #[garde(length(min = 1))]
        id: String,
    }

    async fn make(tx: &mut Tx, tea: TeaMade) -> Result<(), HandlerError> {
        tx.publish(tea).await
    }

    fn kitchen(name: &str) -> Service {
        Service::new(name).publishes::<TeaMade>()
    }

    #[track_caller]
    fn refused(services: &[Service], why: &str) {
        let refusal = names(services).expect_err("they cannot run together").to_string();
        assert!(refusal.contains(why), "{refusal}");
    }

    #[test]
    fn services_that_cannot_run_together_are_refused_in_a_line() {
        assert!(names(&[kitchen("one").post("/teas", make), Service::new("two")]).is_ok());
        refused(&[Service::new("One"), Service::new("one")], "two services are called \"one\"");
        refused(&[kitchen("one"), kitchen("two")], "two services publish on topic teas");
        let twice = [kitchen("one").post("/teas", make).post("/teas", make)];
        refused(&twice, "one has a route POST /teas, and so has one");
        refused(
            &[kitchen("one").post("/statusz", make).post("/admin/seek", make)],
            "and so has every program",
        );
        refused(&[kitchen("one").summary("before its route")], "say `.summary(…)` after the route");
        let tables = Service::new("one").tables(&["CREATE TABLE a (n INTEGER)"]);
        refused(&[tables.tables(&["CREATE TABLE b (n INTEGER)"])], "its tables are said twice");
    }
}
