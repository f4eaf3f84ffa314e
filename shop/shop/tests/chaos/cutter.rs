//! A connection to PostgreSQL that dies in `COMMIT`: whoever asked does not know whether it was done.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::load::Random;

/// Stands between services and their database, and passes everything on, but now and then cuts a connection.
pub struct Cutter {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: String,
    random: Mutex<Random>,
    /// Of so many commits one is cut; 0: none is.
    one_in: AtomicU64,
    cuts: [AtomicU64; CUTS],
}

/// How a commit is cut: the question is lost, the answer is lost, or nobody knows which.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Before,
    After,
    InBetween,
}

const CUTS: usize = 3;

impl Cutter {
    /// Listens on a free port in front of the server of this URL.
    pub async fn before(url: &str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            server: server(url).to_owned(),
            random: Mutex::new(Random(seed)),
            one_in: AtomicU64::new(0),
            cuts: Default::default(),
        });
        let address = listener.local_addr().unwrap();
        tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass(client, shared.clone()));
                }
            }
        });
        Self { address, shared }
    }

    /// The same database, by way of the cutter.
    pub fn url(&self, url: &str) -> String {
        url.replace(server(url), &self.address.to_string())
    }

    /// Cuts one in so many commits from now on; none for 0.
    pub fn cuts_one_in(&self, commits: u64) {
        self.shared.one_in.store(commits, Ordering::SeqCst);
    }

    /// How many were cut: before the server got them, after it had done them, in between.
    pub fn cuts(&self) -> [u64; CUTS] {
        [0, 1, 2].map(|kind| self.shared.cuts[kind].load(Ordering::SeqCst))
    }
}

/// `HOST:PORT` of a URL.
fn server(url: &str) -> &str {
    let rest = url.rsplit_once('@').expect("a user is named").1;
    rest.split('/').next().expect("splitting gives something")
}

impl Shared {
    fn decide(&self) -> Option<Cut> {
        let one_in = self.one_in.load(Ordering::SeqCst);
        let mut random = self.random.lock().unwrap();
        if one_in == 0 || random.below(one_in) > 0 {
            return None;
        }
        let kind = random.below(CUTS as u64) as usize;
        self.cuts[kind].fetch_add(1, Ordering::SeqCst);
        Some([Cut::Before, Cut::After, Cut::InBetween][kind])
    }
}

/// Passes a connection on until either side ends it, or it is cut.
async fn pass(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(&shared.server).await else { return };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answer_is_lost = AtomicBool::new(false);
    let questions = async {
        let mut unread = Vec::new();
        // What opens a connection has no type.
        let mut header = 0;
        loop {
            while let Some(message) = take_message(&mut unread, header) {
                header = 1;
                let cut = if is_commit(&message) { shared.decide() } else { None };
                match cut {
                    Some(Cut::Before) => return,
                    Some(Cut::After) => answer_is_lost.store(true, Ordering::SeqCst),
                    _ => {}
                }
                if to_server.write_all(&message).await.is_err() || matches!(cut, Some(Cut::InBetween)) {
                    return;
                }
            }
            if !matches!(from_client.read_buf(&mut unread).await, Ok(1..)) {
                return;
            }
        }
    };
    let answers = async {
        let mut unread = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut unread).await {
            // The server answers a commit when it has done it, and has nothing else to say.
            if answer_is_lost.load(Ordering::SeqCst) || to_client.write_all(&unread[..length]).await.is_err()
            {
                return;
            }
        }
    };
    // Whichever ends first: both connections are closed when this is dropped.
    tokio::select! {
        () = questions => {}
        () = answers => {}
    }
}

/// The first whole message of what was read: a type of `header` bytes, its length, the rest.
fn take_message(unread: &mut Vec<u8>, header: usize) -> Option<Vec<u8>> {
    let length = unread.get(header..header + 4)?;
    let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
    let whole = header + usize::try_from(length).expect("messages fit into memory");
    (unread.len() >= whole).then(|| unread.drain(..whole).collect())
}

fn is_commit(message: &[u8]) -> bool {
    message.first() == Some(&b'Q') && message.get(5..) == Some(b"COMMIT\0")
}
