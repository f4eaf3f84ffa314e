//! A database that is away.

use serde_json::Value;
use tidings_testkit::servers::execute;

use crate::deployment::{Deployment, OwnServers};
use crate::load::seed;
use crate::process::{Client, eventually};
use crate::topics::unready;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_killed_sends_customers_away_for_a_while_and_loses_nothing() {
    let mut servers = OwnServers::lock();
    let deployment = Deployment::on(&servers);
    let (programs, load) = deployment.open(seed());
    load.more(150).await;
    servers.postgres.kill().unwrap();
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
    servers.postgres.start_again().unwrap();
    load.more(150).await;
    let accepted = load.end().await;
    deployment.adds_up(&programs, &accepted).await;
}

/// It hangs, and after that it is a standby, as after a failover to the wrong server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_answer_or_takes_no_writes_is_told_by_who_still_can() {
    let mut servers = OwnServers::lock();
    let deployment = Deployment::on(&servers);
    deployment.make_topics();
    let order = deployment.start("order");
    let mut client = Client::to(&order.address);
    servers.postgres.pause().unwrap();
    let metrics = client.get("/metrics").await.text();
    let status = client.json("/statusz").await;
    servers.postgres.resume().unwrap();
    for present in [r#"store_up{service="order"} 0"#, r#"outbox_published_total{service="order"} 0"#] {
        assert!(metrics.lines().any(|line| line == present), "{present} in {metrics}");
    }
    assert!(!metrics.contains("outbox_pending_rows{"), "what is not known is left out: {metrics}");
    assert_eq!(status["order"]["consumer"]["group"], "orders", "{status}");
    assert!(status["order"]["error"].as_str().unwrap().contains("has not answered"), "{status}");

    let url = deployment.backends.database.url();
    let name = url.rsplit('/').next().unwrap();
    let server = servers.postgres.url();
    let only_read = |is_on: &str| {
        execute(&server, &format!("ALTER DATABASE {name} SET default_transaction_read_only = {is_on}"));
        let others =
            format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        execute(&server, &others);
    };
    only_read("on");
    eventually(async || {
        let why = unready(&order).await;
        if why.contains("takes no writes") { Ok(()) } else { Err(why) }
    })
    .await;
    only_read("off");
    eventually(async || {
        let answer = client.get("/readyz").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}
