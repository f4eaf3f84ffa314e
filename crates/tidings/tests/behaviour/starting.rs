//! A PostgreSQL that is not ready yet when a service starts: the machine was booted, or the server crashed and
//! recovers. Before the real one stands something that says so, a few times.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidings::Store;
use tidings_testkit::parts::FreshDatabase;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How often it says that it is not ready.
const TIMES: usize = 3;

/// `ErrorResponse` of PostgreSQL's protocol 3.0.
fn refusal(code: &str, message: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
    let length = u32::try_from(fields.len() + 4).expect("it is short");
    [b"E", &length.to_be_bytes()[..], fields.as_bytes()].concat()
}

/// Refuses the first connections and forwards the others to `server`; its own address, and how many it refused.
async fn before(server: String, code: &'static str, times: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
    let address = listener.local_addr().expect("it is bound").to_string();
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = refused.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            if counted.load(Ordering::SeqCst) < times {
                counted.fetch_add(1, Ordering::SeqCst);
                let length = client.read_u32().await.expect("a start-up message has a length");
                let mut rest = vec![0; length as usize - 4];
                client.read_exact(&mut rest).await.expect("and is whole");
                client
                    .write_all(&refusal(code, "the database system is starting up"))
                    .await
                    .expect("it listens");
            } else {
                let mut server = TcpStream::connect(&server).await.expect("PostgreSQL runs");
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
            }
        }
    });
    (address, refused)
}

async fn opened(code: &'static str) -> (Result<Store, tidings::Error>, usize) {
    let database = FreshDatabase::new();
    let url = database.url();
    let server =
        url.rsplit_once('@').and_then(|(_, rest)| rest.split('/').next()).expect("it names a server");
    let (address, refused) = before(server.to_owned(), code, TIMES).await;
    let opened = Store::open(&url.replace(server, &address), "starter", &[]).await;
    (opened, refused.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_server_that_is_starting_up_is_waited_for() {
    let (store, refused) = opened("57P03").await;
    store.expect("it opens once the server is ready");
    assert_eq!(refused, TIMES);
}

#[tokio::test]
async fn any_other_refusal_is_told_at_once() {
    let (store, refused) = opened("28P01").await;
    let told = store.expect_err("it is refused").to_string();
    assert!(told.contains("cannot connect to postgres://") && told.contains("is it running"), "{told}");
    assert_eq!(refused, 1);
}
