//! Programs that start while a server is away.

use crate::deployment::{Deployment, OwnServers};
use crate::process::eventually;
use crate::programs::Program;

const TEA: &str = r#"{"items":[{"product_id":"tea","quantity":1}]}"#;

async fn ready(program: &Program) {
    eventually(async || {
        let ready = program.client().get("/readyz").await;
        if ready.status == 200 { Ok(()) } else { Err(ready.text().to_owned()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_whose_topics_were_there_starts_without_the_broker() {
    let mut servers = OwnServers::lock();
    let deployment = Deployment::on(&servers);
    deployment.make_topics();
    for program in deployment.start_all().0 {
        program.terminate();
        program.ended();
    }
    servers.kafka.kill().unwrap();
    let order = Program::start("order", deployment.command("order").arg("--apply-topics"));
    let mut client = order.client();
    assert_eq!(client.get("/readyz").await.status, 200);
    let id = client.place(TEA).await;
    assert!(order.has_said("topics are looked after later"));
    servers.kafka.start_again().unwrap();
    let others = ["payment", "inventory"].map(|name| deployment.start(name));
    client.ended(&id).await;
    drop(others);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_has_no_topics_yet_waits_for_the_broker_with_its_door_open() {
    let mut servers = OwnServers::lock();
    let deployment = Deployment::on(&servers);
    servers.kafka.kill().unwrap();
    let order = Program::start_unready("order", deployment.command("order").arg("--apply-topics"));
    let mut client = order.client();
    assert_eq!(client.get("/livez").await.status, 200);
    let unready = client.get("/readyz").await;
    assert_eq!(unready.status, 503);
    assert!(unready.text().contains("cannot be reached"), "{}", unready.text());
    assert_eq!(client.post("/orders", TEA).await.status, 503);
    servers.kafka.start_again().unwrap();
    ready(&order).await;
    client.place(TEA).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_waits_for_its_database_with_its_door_open_and_stops_when_told() {
    let mut servers = OwnServers::lock();
    let deployment = Deployment::on(&servers);
    deployment.make_topics();
    for blow in [
        |servers: &mut OwnServers| servers.postgres.kill(),
        |servers: &mut OwnServers| servers.postgres.pause(),
    ] {
        blow(&mut servers).unwrap();
        let [order, gives_up] =
            [(); 2].map(|()| Program::start_unready("order", &mut deployment.command("order")));
        let mut client = order.client();
        assert_eq!(client.get("/livez").await.status, 200);
        let unready = client.get("/readyz").await;
        assert_eq!(unready.status, 503);
        assert!(unready.text().contains("cannot connect to postgres://"), "{}", unready.text());
        assert_eq!(client.get("/orders").await.status, 503);
        gives_up.terminate();
        gives_up.ended();
        let _ = (servers.postgres.start_again(), servers.postgres.resume());
        ready(&order).await;
        client.place(TEA).await;
        order.terminate();
        order.ended();
    }
}
