//! The whole shop: its real binary under `shopctl load`, and what it costs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use crate::steps;

/// Runs the load on a fresh data directory and prints its report, CPU per order and memory.
pub fn run(orders: usize, concurrency: usize) -> ExitCode {
    let programs = std::env::current_exe().ok().and_then(|p| p.parent().map(Path::to_owned));
    let Some(programs) = programs.filter(|p| p.join("shop").exists() && p.join("shopctl").exists()) else {
        eprintln!("build the programs first: cargo build --release --workspace");
        return ExitCode::FAILURE;
    };
    let directory = steps::directory();
    println!();
    let full = format!("--orders {orders} --concurrency {concurrency}");
    for arguments in [full.as_str(), "--orders 10000 --rate 500", "--orders 200 --rate 10 --concurrency 1"] {
        if !measure(&programs, directory.path(), arguments) {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measure(programs: &Path, directory: &Path, arguments: &str) -> bool {
    let (mut shop, url) = start(programs, directory);
    let load = Command::new(programs.join("shopctl"))
        .args(["--url", &url, "load"])
        .args(arguments.split(' '))
        .status();
    let usage = Usage::of(shop.id());
    let orders: f64 = arguments.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(1.0);
    println!(
        "shop: {:.3} ms of CPU an order ({:.0} % in the kernel), {} MB resident at most\n",
        1000.0 * usage.cpu_seconds / orders,
        100.0 * usage.kernel_share,
        usage.resident_kb / 1024
    );
    // A clean stop, so that the next load finds an idle shop.
    let _ = Command::new("kill").arg(shop.id().to_string()).status();
    let _ = shop.wait();
    load.is_ok_and(|status| status.success())
}

/// Starts the shop on a free port and waits until it says which.
fn start(programs: &Path, directory: &Path) -> (Child, String) {
    let data = format!("sqlite:{}", directory.display());
    let mut shop = Command::new(programs.join("shop"))
        .args(["--store", &data, "--broker", &data, "--listen", "127.0.0.1:0", "--log-format", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the shop starts");
    let output = shop.stdout.take().expect("its output is piped");
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let ready = lines.find(|line| line.contains("\"ready\"")).expect("the shop gets ready");
    let listen = ready.split("\"listen\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let url = format!("http://{}", listen.expect("the line names the address"));
    // Somebody has to read the log, or the shop would wait for room in the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (shop, url)
}

/// The resources that a process has used so far.
struct Usage {
    cpu_seconds: f64,
    kernel_share: f64,
    resident_kb: u64,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
        // After the name in parentheses: state, then numbers; user and kernel time are the 12th and 13th.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        let (user, kernel) = (ticks(11), ticks(12));
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let resident_kb = peak.and_then(|p| p.split_whitespace().next()?.parse().ok());
        Self {
            // Linux counts in hundredths of a second for every program.
            cpu_seconds: (user + kernel) / 100.0,
            kernel_share: kernel / (user + kernel).max(1.0),
            resident_kb: resident_kb.unwrap_or(0),
        }
    }
}
