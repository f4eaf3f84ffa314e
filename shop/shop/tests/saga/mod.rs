//! How a scenario runs: [`script`] says what can be written, [`world`] does it to the three real
//! services at a [`backends`], [`transcript`] tells which events came of it, [`books`] checks that everything adds up.

#![allow(dead_code, reason = "each test program uses its own part of this")]

mod books;
mod backends;
mod script;
mod transcript;
mod world;

use expect_test::Expect;

use script::Step;
use world::World;

/// Runs a script, one step a line, and compares what the services stated to each other. Whatever the
/// script was about, the books must balance at its end.
#[track_caller]
pub fn check(script: &str, expected: Expect) {
    expected.assert_eq(&run(script));
}

/// The same for scripts whose events race: only the books and what the script expects are checked.
#[track_caller]
pub fn check_books(script: &str) {
    run(script);
}

/// The shop after a script, idle, for those who look at it otherwise.
pub async fn played(script: &str) -> World {
    let mut world = World::open().await;
    for step in script.lines().filter_map(Step::read) {
        world.take(step).await;
    }
    world.settle().await;
    world
}

#[track_caller]
fn run(script: &str) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be started");
    runtime.block_on(async {
        let world = played(script).await;
        let transcript = world.transcript();
        let wrong = books::audit(&world).await;
        assert!(wrong.is_empty(), "the books are wrong:\n  {}\nafter:\n{transcript}", wrong.join("\n  "));
        transcript
    })
}
