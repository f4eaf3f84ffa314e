//! A database that is away.

use serde_json::Value;

use crate::outside::seed;
use crate::process::Client;
use crate::town::{Pair, Town};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_killed_sends_customers_away_for_a_while_and_loses_nothing() {
    let mut pair = Pair::lent();
    let town = Town::on(&pair);
    let (programs, load) = town.open(seed());
    load.more(150).await;
    pair.postgres.kill().unwrap();
    load.until("customers are sent away", || load.busy().len() > 50).await;
    let problem: Value = serde_json::from_str(load.busy().last().unwrap()).unwrap();
    expect_test::expect![[r#"
        {
          "detail": "the database cannot be used at the moment; nothing was done, try again",
          "status": 503,
          "title": "Unavailable",
          "type": "/problems/unavailable"
        }
    "#]]
    .assert_eq(&format!("{problem:#}\n"));
    for program in &programs.0 {
        let mut client = Client::to(&program.address);
        assert_eq!(client.get("/livez").await.status, 200, "who restarts it only makes it worse");
        assert_eq!(client.get("/readyz").await.status, 503);
    }
    let away = load.busy().len();
    load.until("it stays away for longer", || load.busy().len() > away + 150).await;
    pair.postgres.start_again().unwrap();
    load.more(150).await;
    let accepted = load.end().await;
    town.adds_up(&programs, &accepted).await;
}
