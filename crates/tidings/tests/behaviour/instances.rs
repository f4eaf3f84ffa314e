//! Several instances of a service: they share its database, its lanes and its group.

use std::collections::BTreeSet;
use std::time::Duration;

use tidings::{Message, Running, Service, Tx};
use tidings_testkit::event::NOTES;
use tidings_testkit::eventually;
use tidings_testkit::stage::{LONG, idle, number, tally};
use tidings_testkit::wire::Binary;

use crate::reader::{Script, Trouble, batch_readers, journal, journal_by_key, readers};
use crate::relay::writers;

pub fn notes(key: &str, numbers: impl IntoIterator<Item = u64>) -> Vec<Message> {
    numbers.into_iter().map(|n| Binary::note(key, n).message()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_two_instances_write_to_is_numbered_in_commit_order() {
    let stage = crate::stage();
    let (first, second) = (stage.start(writers).await, stage.start(writers).await);
    let publishing = [&first, &second].into_iter().flat_map(|running| {
        (0..4).map(|_| {
            let store = running.store().clone();
            tokio::spawn(async move {
                for n in 1..=25 {
                    let note = |key: &str| tidings_testkit::event::NoteTaken::new(key, n);
                    let (hot, warm) = (note("hot"), note("warm"));
                    let published = store.transaction(async move |tx: &mut Tx| {
                        tx.publish(hot).await?;
                        tx.publish(warm).await
                    });
                    published.await.expect("it can be published");
                }
            })
        })
    });
    for task in publishing.collect::<Vec<_>>() {
        task.await.expect("events can be published");
    }
    idle(&first).await;
    idle(&second).await;
    for key in ["hot", "warm"] {
        let records = stage.read(NOTES).await;
        let seqs = records.iter().filter(|r| r.message.key_text() == key);
        let seqs: Vec<_> = seqs.map(|r| tidings_testkit::wire::seq(&r.message)).collect();
        assert_eq!(seqs, (1..=200).map(Some).collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_events_are_taken_up_by_one_instance_each() {
    const KEYS: u64 = 40;
    let stage = crate::stage();
    let script = Script::default();
    let service = readers(&script);
    let first = stage.start(&service).await;
    let keys: BTreeSet<String> = (0..KEYS).map(|n| format!("k{n}")).collect();
    for key in &keys {
        script.breaks(&format!("{key} 1"), Trouble::Transient);
        // Without a number, which would tell the second attempt from the first.
        stage.send(NOTES, [Binary::foreign(key, 1).message()]).await;
    }
    eventually("all are parked", async || number(&first, "/parked/waiting").await == KEYS).await;
    let second = stage.start(&service).await;
    let tries: Vec<usize> = keys.iter().map(|key| script.tries(&format!("{key} 1"))).collect();
    keys.iter().for_each(|key| script.mend(&format!("{key} 1")));
    first.store().clock().advance(LONG);
    second.store().clock().advance(LONG);
    // Whoever began to wait just when the clock moved looks at it again.
    let nudge = |running: &Running| running.store().clock().advance(Duration::ZERO);
    eventually("nothing waits", async || {
        nudge(&first);
        nudge(&second);
        number(&first, "/parked/waiting").await == 0
    })
    .await;
    for (key, before) in keys.iter().zip(tries) {
        assert_eq!(script.tries(&format!("{key} 1")), before + 1, "{key} is taken up once");
    }
    let mut found = journal(&first).await;
    found.sort();
    assert_eq!(found, keys.iter().map(|key| format!("{key} 1")).collect::<Vec<_>>());
    tally(&first).await;
    tally(&second).await;
}

/// Both read all of it, as if each partition had two owners: a rebalance of which one knows nothing yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_instances_are_given_at_once_is_handled_once() {
    const KEYS: u64 = 30;
    const EACH: u64 = 20;
    let (stage, elsewhere) = (crate::stage(), tidings_testkit::stage::Stage::new());
    let script = Script::default();
    let service = || -> Service { batch_readers(&script)() };
    for stage in [&stage, &elsewhere] {
        stage.topics(service().topic_names()).await;
        for key in 0..KEYS {
            stage.send(NOTES, notes(&format!("k{key}"), 1..=EACH)).await;
            stage.send(NOTES, [Binary::foreign(&format!("f{key}"), 1).message()]).await;
        }
    }
    let url = stage.store_url();
    let (first, second) =
        tokio::join!(service().start(&url, stage.broker()), service().start(&url, elsewhere.broker()));
    let (first, second) = (first.expect("it starts"), second.expect("it starts"));
    idle(&first).await;
    idle(&second).await;
    let numbers: Vec<String> = (1..=EACH).map(|n| n.to_string()).collect();
    for line in journal_by_key(&first).await.lines() {
        let expected = if line.starts_with('k') { numbers.join(" ") } else { "1".to_owned() };
        assert_eq!(line.split_once(' ').map(|(_, n)| n), Some(&*expected), "{line}");
    }
    assert_eq!(journal(&first).await.len() as u64, KEYS * (EACH + 1));
    let count = async |name: &str| number(&first, name).await + number(&second, name).await;
    assert_eq!(count("/consumer/handled").await, KEYS * (EACH + 1));
    assert_eq!(count("/consumer/duplicate").await, KEYS * (EACH + 1));
}
