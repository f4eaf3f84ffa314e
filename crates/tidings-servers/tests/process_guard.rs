//! Nothing that was started outlives the one that started it.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tidings_servers::ProcessGuard;

#[test]
fn a_guarded_process_dies_with_the_holder_that_is_killed() {
    let mut holder = Command::new(env::current_exe().unwrap());
    holder.args(["--exact", "a_holder_that_never_ends", "--ignored", "--nocapture"]);
    let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(holder.stdout.take().unwrap()).lines();
    let held: Vec<String> = said
        .map_while(Result::ok)
        .filter_map(|line| Some(line.split_once("holds ")?.1.to_owned()))
        .take(2)
        .collect();
    assert_eq!(held.len(), 2);
    assert!(held.iter().all(|process| runs(process)), "{held:?}");

    holder.kill().unwrap();
    holder.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while held.iter().any(|process| runs(process)) {
        assert!(Instant::now() < deadline, "{held:?} outlived their holder");
        thread::yield_now();
    }
}

#[test]
#[ignore = "started, and killed, by the test above"]
fn a_holder_that_never_ends() {
    let mut family = Command::new("sh");
    family.args(["-c", "sleep 1000 & echo holds $!; wait"]);
    let (mut child, _guard) = ProcessGuard::spawn(&mut family).unwrap();
    println!("holds {}", child.id());
    child.wait().unwrap();
}

#[test]
fn a_guarded_process_dies_when_it_is_dropped() {
    let (mut child, guard) = ProcessGuard::spawn(Command::new("sleep").arg("1000")).unwrap();
    assert!(runs(&child.id().to_string()));
    drop(guard);
    assert!(!child.wait().unwrap().success());
}

#[test]
fn who_is_released_lives_on() {
    let (mut child, mut guard) = ProcessGuard::spawn(Command::new("cat").stdin(Stdio::piped())).unwrap();
    guard.release();
    drop(guard);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success(), "cat ends in good order when its input ends");
}

fn runs(process: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(process).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}
