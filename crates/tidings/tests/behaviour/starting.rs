//! A PostgreSQL that is not ready yet when a service starts: the machine was booted, or the server crashed and
//! recovers. Before the real one stands something that says so, a few times.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidings::Store;
use tidings_testkit::servers::{FreshDatabase, execute};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How often it says that it is not ready.
const TIMES: usize = 3;

/// `ErrorResponse` of PostgreSQL's protocol 3.0.
fn error_response(code: &str, message: &str) -> Vec<u8> {
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
                    .write_all(&error_response(code, "the database system is starting up"))
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
    assert!(told.contains("cannot connect to postgres://"), "{told}");
    assert!(told.contains("the database system is starting up; look at user and password"), "{told}");
    assert_eq!(refused, 1);
}

async fn refusal(url: &str) -> String {
    Store::open(url, "starter", &[]).await.expect_err("it is refused").to_string()
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_text_is_refused() {
    let database = FreshDatabase::new();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!(
            "{}_{}",
            database.url().rsplit('/').next().expect("it has a name"),
            encoding.to_lowercase()
        );
        let make = format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        execute(&database.url(), &make);
        let url = database.url().rsplit_once('/').map(|(server, _)| format!("{server}/{name}"));
        let told = refusal(&url.expect("it names a database")).await;
        execute(&database.url(), &format!("DROP DATABASE {name} WITH (FORCE)"));
        assert!(told.contains(&format!("is encoded in {encoding}")), "{told}");
    }
}

#[tokio::test]
async fn a_role_that_may_make_no_schema_uses_the_one_that_is_there() {
    let database = FreshDatabase::new();
    let role = format!("role_{}", database.url().rsplit('/').next().expect("it has a name"));
    execute(&database.url(), &format!("CREATE ROLE {role} LOGIN"));
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let told = refusal(&url).await;
    assert!(told.contains("permission denied for database"), "{told}");
    assert!(told.contains("CREATE SCHEMA \"starter\" AUTHORIZATION"), "{told}");
    execute(&database.url(), &format!("CREATE SCHEMA starter AUTHORIZATION {role}"));
    Store::open(&url, "starter", &[]).await.expect("its schema is there");
    Store::open(&url, "starter", &[]).await.expect("its tables are there");
    // It may make nothing at all, if all was made for it.
    execute(
        &database.url(),
        &format!(
            "REVOKE CREATE ON SCHEMA starter FROM {role}; ALTER SCHEMA starter OWNER TO postgres; GRANT USAGE ON SCHEMA starter TO {role}"
        ),
    );
    Store::open(&url, "starter", &[]).await.expect("there is nothing to be made");
    execute(&database.url(), &format!("ALTER ROLE {role} CONNECTION LIMIT 0"));
    let told = refusal(&url).await;
    assert!(told.contains("too many connections for role") && told.contains("raise the limit"), "{told}");
    execute(&database.url(), &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"));
}

#[tokio::test]
async fn what_is_wrong_with_a_url_is_told_in_words() {
    let database = FreshDatabase::new();
    for (url, expected) in [
        (format!("{}?sslmode=verify-full", database.url()), "speaks no TLS to PostgreSQL"),
        (format!("{}?sslmode=require", database.url()), "speaks no TLS to PostgreSQL"),
        (format!("{}_not", database.url()), "make the database with CREATE DATABASE"),
        ("postgres://u:p4ssword@127.0.0.1:1/db".to_owned(), "Connection refused"),
        ("postgres://u:p4ssword@127.0.0.1:x/db".to_owned(), "it is no PostgreSQL URL"),
    ] {
        let told = refusal(&url).await;
        assert!(told.contains(expected) && !told.contains("p4ssword"), "{told}");
    }
}

/// A pooler that lends the one connection that it has for each transaction, as PgBouncer does in the mode of that
/// name: whoever asks next gets it as the one before has left it.
async fn pooler(url: &str) -> String {
    let (user, rest) = url.trim_start_matches("postgres://").split_once('@').expect("it names a user");
    let (server, database) = rest.split_once('/').expect("it names a database");
    let mut server = TcpStream::connect(server).await.expect("PostgreSQL runs");
    let settings = format!("\0\x03\0\0user\0{user}\0database\0{database}\0\0");
    let length = u32::try_from(settings.len() + 4).expect("it is short");
    server.write_all(&[&length.to_be_bytes()[..], settings.as_bytes()].concat()).await.expect("it listens");
    until_ready(&mut server).await;
    let server = Arc::new(tokio::sync::Mutex::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(lend(client, server.clone()));
        }
    });
    format!("postgres://{user}@{address}/{database}")
}

async fn lend(mut client: TcpStream, server: Arc<tokio::sync::Mutex<TcpStream>>) {
    let length = client.read_u32().await.expect("a start-up message has a length");
    client.read_exact(&mut vec![0; length as usize - 4]).await.expect("and is whole");
    let welcome =
        [&b"R\0\0\0\x08\0\0\0\0"[..], b"S\0\0\0\x19server_encoding\0UTF8\0", b"Z\0\0\0\x05I"].concat();
    client.write_all(&welcome).await.expect("it listens");
    while let Ok(message) = client.read_u8().await {
        let length = client.read_u32().await.expect("a message has a length");
        let mut rest = vec![0; length as usize - 4];
        client.read_exact(&mut rest).await.expect("and is whole");
        if message == b'X' {
            return;
        }
        let mut server = server.lock().await;
        server.write_all(&[&[message][..], &length.to_be_bytes(), &rest].concat()).await.expect("it listens");
        client.write_all(&until_ready(&mut server).await).await.expect("it listens");
    }
}

/// What the server says until it is ready for another query.
async fn until_ready(server: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    loop {
        let message = server.read_u8().await.expect("the server speaks");
        let length = server.read_u32().await.expect("a message has a length");
        let mut rest = vec![0; length as usize - 4];
        server.read_exact(&mut rest).await.expect("a message is whole");
        said.extend([&[message][..], &length.to_be_bytes(), &rest].concat());
        if message == b'Z' {
            return said;
        }
    }
}

#[tokio::test]
async fn a_pooler_that_lends_by_transaction_is_refused() {
    let database = FreshDatabase::new();
    let told = refusal(&pooler(&database.url()).await).await;
    assert!(told.contains("is a pooler that lends connections by transaction"), "{told}");
}
