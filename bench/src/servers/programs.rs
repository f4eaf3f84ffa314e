//! The three services as programs, under `shopctl load`, and what everything on the machine costs.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use tidings_testkit::servers::{FreshDatabase, FreshTopics};

use super::machine;

const SERVICES: [&str; 3] = ["order", "payment", "inventory"];

/// Loads the shop: as fast as it goes, at a steady rate, and idle.
pub fn shop(orders: usize, concurrency: usize) -> ExitCode {
    let programs = env::current_exe().ok().and_then(|p| p.parent().map(Path::to_owned));
    let Some(programs) = programs.filter(|p| SERVICES.iter().all(|s| p.join(s).exists())) else {
        eprintln!("build the programs first: cargo build --release --features kafka --workspace --bins");
        return ExitCode::FAILURE;
    };
    let (database, topics) = (FreshDatabase::new(), FreshTopics::new());
    let mut running: Vec<(Child, String)> =
        SERVICES.iter().map(|service| start(&programs, service, &database, &topics)).collect();
    let url = running[0].1.clone();
    let mut code = ExitCode::SUCCESS;
    let full = format!("--orders {orders} --concurrency {concurrency}");
    for arguments in
        ["--orders 5000", &full, "--orders 10000 --rate 500", "--orders 300 --rate 10 --concurrency 1"]
    {
        println!("\nshopctl load {arguments}");
        let before = machine::costs();
        let mut load = Command::new(programs.join("shopctl"));
        load.args(["--url", &url, "load"]).args(arguments.split(' '));
        if !load.status().is_ok_and(|status| status.success()) {
            code = ExitCode::FAILURE;
        }
        let count = arguments.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(1.0);
        tell(&before, &machine::costs(), count);
    }
    for (service, _) in &mut running {
        let _ = Command::new("kill").arg(service.id().to_string()).status();
        let _ = service.wait();
    }
    code
}

fn start(programs: &Path, service: &str, database: &FreshDatabase, topics: &FreshTopics) -> (Child, String) {
    let mut child = Command::new(programs.join(service))
        .args(["--store", &database.url(), "--broker", &topics.url(), "--listen", "127.0.0.1:0"])
        .args(["--apply-topics", "--log-format", "json", "--log", "info,tidings::path=off"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the service starts");
    let output = child.stdout.take().expect("its output is piped");
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let ready = lines.find(|line| line.contains("\"ready\"")).expect("the service gets ready");
    let listen = ready.split("\"listen\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let url = format!("http://{}", listen.expect("the line names the address"));
    std::thread::spawn(move || lines.for_each(drop));
    (child, url)
}

fn tell(before: &BTreeMap<String, (f64, u64)>, after: &BTreeMap<String, (f64, u64)>, orders: f64) {
    let mut sum = 0.0;
    for (name, (seconds, peak)) in after.iter().filter(|(name, _)| *name != "bench") {
        let spent = 1000.0 * (seconds - before.get(name).map_or(0.0, |b| b.0)) / orders;
        sum += spent;
        println!("{name:>12}: {spent:.3} ms of CPU an order, {peak} MB at most");
    }
    println!("{:>12}: {sum:.3} ms", "together");
}
