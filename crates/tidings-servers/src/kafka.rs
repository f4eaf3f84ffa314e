use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Attempt as _;
use crate::process::Signal;
use crate::server::{Server, directory};
use crate::{Error, Result, install, port};

/// An Apache Kafka of one node, broker and controller in one. Dropped, it is killed; its data stays.
#[derive(Debug)]
pub struct Kafka {
    properties: PathBuf,
    port: u16,
    server: Server,
}

impl Kafka {
    /// Makes sure that there is a Kafka to start.
    ///
    /// # Errors
    ///
    /// One line that says what to install, where it cannot.
    pub fn install() -> Result<()> {
        install::kafka()
    }

    /// Starts a broker on a free port of 127.0.0.1, on the data in `dir` or on fresh data there.
    ///
    /// Topics are made by those who want them, never by a mistake; groups rebalance without waiting for
    /// more members.
    ///
    /// # Errors
    ///
    /// When it is not installed, or does not become ready; the log is in `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        let dir = directory(dir)?;
        let (port, controller_port) = (port::free()?, port::free()?);
        let data = dir.join("data");
        let properties = dir.join("server.properties");
        fs::write(&properties, settings(port, controller_port, &data))
            .attempt(|| format!("cannot write {}", properties.display()))?;
        if !data.join("meta.properties").exists() {
            format(&properties)?;
        }
        let server = Server {
            name: "Kafka",
            log: dir.join("kafka.log"),
            ready: "Kafka Server started",
            stop: Signal::Terminate,
            running: None,
        };
        let mut kafka = Self { properties, port, server };
        kafka.start_again()?;
        Ok(kafka)
    }

    /// The broker's address: `127.0.0.1:PORT`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// One of Kafka's own tools by the name of its class, for any broker, to be given its arguments:
    /// `org.apache.kafka.tools.TopicCommand`, `org.apache.kafka.tools.consumer.ConsoleConsumer`.
    ///
    /// # Errors
    ///
    /// When Kafka is not installed.
    pub fn tool(class: &str) -> Result<Command> {
        let mut tool = java(&[
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1", // it has ended before the better compiler would pay
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
        ])?;
        tool.arg(class).stdin(Stdio::null());
        Ok(tool)
    }

    /// A crash (SIGKILL).
    ///
    /// # Errors
    ///
    /// When something of it is left.
    pub fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    /// Stops it in good order.
    ///
    /// # Errors
    ///
    /// When it does not stop.
    pub fn stop(&mut self) -> Result<()> {
        self.server.stop()
    }

    /// Starts it after [`Kafka::kill`] or [`Kafka::stop`], on the same port and the same data.
    ///
    /// # Errors
    ///
    /// When it runs, or does not become ready.
    pub fn start_again(&mut self) -> Result<()> {
        let mut kafka = java(&[
            "-Xms256m",
            "-Xmx768m",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
        ])?;
        kafka.arg("kafka.Kafka").arg(&self.properties);
        self.server.start(kafka)
    }

    /// Halts it: connections stay open and nothing answers (SIGSTOP).
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn pause(&mut self) -> Result<()> {
        self.server.pause()
    }

    /// Lets it go on after [`Kafka::pause`].
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.server.resume()
    }
}

fn settings(port: u16, controller_port: u16, data: &Path) -> String {
    format!(
        "\
process.roles=broker,controller
node.id=1
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller_port}
log.dirs={}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
# After a crash the controller waits for the end of the old broker's session before it lets it in again.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
# One node, and few partitions of its own: they are what takes long to start.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
",
        data.display()
    )
}

fn format(properties: &Path) -> Result<()> {
    let mut format = Kafka::tool("kafka.tools.StorageTool")?;
    // 16 bytes in base64url; hexadecimal digits are such, and the last of 22 may carry two bits only.
    let cluster = format!("{:016x}{:05x}A", port::random(), port::random() & 0xf_ffff);
    format.args(["format", "--cluster-id", &cluster, "--config"]).arg(properties);
    let done = format.output().attempt(|| "cannot run java".to_owned())?;
    if done.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&done.stderr);
    Err(Error::new(format!("cannot format Kafka's storage: {}", why.trim().replace('\n', "; "))))
}

fn java(flags: &[&str]) -> Result<Command> {
    let mut java = Command::new("java");
    java.args(flags).arg("-cp").arg(install::kafka_jars()?.join("*"));
    Ok(java)
}
