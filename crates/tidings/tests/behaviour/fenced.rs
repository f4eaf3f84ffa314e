//! A cluster that says for a moment that it has no brokers, as a single one does that was suspended: clients
//! may forget all they knew. Between the clients and a mock cluster stands a proxy that empties that list.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tidings::broker::Record;
use tidings_testkit::event::NOTES;
use tidings_testkit::eventually;
use tidings_testkit::stage::{PARTITIONS, Stage, idle, number};

use crate::reader::{Script, batch_readers};
use crate::relay::{assert_whole, keys, publish, writers};

const METADATA: i16 = 3;
const FIND_COORDINATOR: i16 = 10;
/// From this version on, lengths are variable and one more than they say.
const FLEXIBLE: i16 = 9;
/// How often the cluster says that it has no brokers.
const TIMES: u64 = 5;

/// Between clients and one broker.
struct Proxy {
    port: u16,
    brokers_port: u16,
    is_fenced: AtomicBool,
    /// Answers that named no broker.
    emptied: AtomicU64,
    /// What was asked on a connection, by the number of the question: kind and version.
    asked: Mutex<HashMap<(u16, i32), (i16, i16)>>,
}

impl Proxy {
    fn before(broker: String) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let proxy = Arc::new(Self {
            port: listener.local_addr().expect("it is bound").port(),
            brokers_port: broker.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port"),
            is_fenced: AtomicBool::new(false),
            emptied: AtomicU64::new(0),
            asked: Mutex::default(),
        });
        let accepting = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&broker) else { continue };
                let id = client.peer_addr().map_or(0, |address| address.port());
                let (from, to) =
                    (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
                let (there, back) = (accepting.clone(), accepting.clone());
                std::thread::spawn(move || forward(from, to, |frame| there.asked(id, frame)));
                std::thread::spawn(move || forward(server, client, |frame| back.answered(id, frame)));
            }
        });
        proxy
    }

    fn asked(&self, connection: u16, frame: Vec<u8>) -> Vec<u8> {
        let kind = i16::from_be_bytes([frame[0], frame[1]]);
        let version = i16::from_be_bytes([frame[2], frame[3]]);
        let number = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
        self.asked.lock().expect("no thread panics").insert((connection, number), (kind, version));
        frame
    }

    fn answered(&self, connection: u16, frame: Vec<u8>) -> Vec<u8> {
        let number = i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        let asked = self.asked.lock().expect("no thread panics").remove(&(connection, number));
        match asked {
            Some((METADATA, version)) => {
                assert!(version >= FLEXIBLE, "the clients ask for version {version} of the metadata");
                if self.is_fenced.load(Ordering::SeqCst) {
                    self.emptied(&frame)
                } else {
                    self.redirected(frame)
                }
            }
            Some((FIND_COORDINATOR, _)) => self.redirected(frame),
            _ => frame,
        }
    }

    /// An answer in which the proxy stands in place of the broker.
    fn redirected(&self, mut frame: Vec<u8>) -> Vec<u8> {
        let [theirs, ours] = [self.brokers_port, self.port].map(|port| u32::from(port).to_be_bytes());
        if let Some(at) = frame.windows(4).position(|bytes| bytes == theirs) {
            frame[at..at + 4].copy_from_slice(&ours);
        }
        frame
    }

    /// An answer without the broker. It begins with the number of the question, tags (none), and a time; then
    /// come the brokers: id, host, port, rack, tags.
    fn emptied(&self, frame: &[u8]) -> Vec<u8> {
        const BEFORE: usize = 4 + 1 + 4;
        let (before, rest) = frame.split_at(BEFORE);
        let [2, _, _, _, _, host, rest @ ..] = rest else { panic!("the mock cluster has one broker") };
        let [0, 0, rest @ ..] = &rest[usize::from(*host) - 1 + 4..] else {
            panic!("it has no rack and no tags")
        };
        self.emptied.fetch_add(1, Ordering::SeqCst);
        [before, &[1], rest].concat()
    }
}

/// Moves frames from one socket to the other until either closes.
fn forward(mut from: TcpStream, mut to: TcpStream, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let mut moved = || -> io::Result<()> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        from.read_exact(&mut frame)?;
        let frame = change(frame);
        to.write_all(&u32::try_from(frame.len()).expect("a frame is short").to_be_bytes())?;
        to.write_all(&frame)
    };
    while moved().is_ok() {}
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_says_it_has_no_brokers_is_found_again() {
    let cluster: MockCluster<'static, DefaultProducerContext> =
        MockCluster::new(1).expect("a mock cluster can be made");
    for topic in [NOTES, "readers_dlq", "writers_dlq"] {
        cluster.create_topic(topic, PARTITIONS.cast_signed(), 1).expect("a topic can be made");
    }
    let proxy = Proxy::before(cluster.bootstrap_servers());
    let stage = Stage::on_postgres_and(&format!(
        "kafka://127.0.0.1:{}?topic.metadata.refresh.interval.ms=100&reconnect.backoff.ms=20&reconnect.backoff.max.ms=50\
         &session.timeout.ms=3000&heartbeat.interval.ms=300",
        proxy.port
    ));
    let script = Script::default();
    let (writer, reader) = (stage.start(writers).await, stage.start(batch_readers(&script)).await);
    for n in 1..=TIMES {
        publish(writer.store(), &keys(10), n, n).await;
        // A producer, and then a consumer, may have to be replaced first.
        idle(&writer).await;
        eventually("they are handled", async || number(&reader, |s| s.consumer.handled).await == n * 10)
            .await;
        let before = proxy.emptied.load(Ordering::SeqCst);
        proxy.is_fenced.store(true, Ordering::SeqCst);
        eventually("clients were told", async || proxy.emptied.load(Ordering::SeqCst) > before + 4).await;
        proxy.is_fenced.store(false, Ordering::SeqCst);
    }
    idle(&writer).await;
    // A client that only asks is replaced once a question has failed.
    eventually("topics can be listed", async || stage.broker().topics().await.is_ok()).await;
    assert_whole(&first_copies(stage.read(NOTES).await), 10, TIMES);
}

/// Records without repeats: a producer that is replaced may have sent what it never heard of, and readers know it again.
fn first_copies(mut records: Vec<Record>) -> Vec<Record> {
    let mut seen = HashSet::new();
    records.retain(|record| {
        let seq = record.message.header("ce_streamseq").map(str::to_owned);
        seen.insert((record.message.key.clone(), seq))
    });
    records
}
