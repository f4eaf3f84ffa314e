//! The example works as the README says, and the README shows it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// Stops the program however the test ends.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_posted_greeting_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let program = Command::new(env!("CARGO_BIN_EXE_hello"))
        .args(["--listen", "127.0.0.1:0", "--log-format", "json"])
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut program = Program(program);
    let output = program.0.stdout.take().unwrap();
    let mut lines = BufReader::new(output).lines().map(Result::unwrap);
    let ready = lines.find(|line| line.contains("\"ready\"")).unwrap();
    let listen = ready.split("\"listen\":\"").nth(1).unwrap().split('"').next().unwrap();

    assert!(post(listen, r#"{"name":"world"}"#).starts_with("HTTP/1.1 202"));
    assert!(lines.any(|line| line == "hello world"));

    let refused = post(listen, r#"{"name":""}"#);
    assert!(refused.starts_with("HTTP/1.1 422"), "{refused}");
    assert!(refused.contains(r#""pointer":"/name""#), "{refused}");
}

fn post(address: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST /greetings HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_readmes_show_this_very_program() {
    let source = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/main.rs")).unwrap();
    let code = &source[source.find("use tidings").unwrap()..];
    for readme in ["/../../README.md", "/../../crates/tidings/README.md"] {
        let path = format!("{}{readme}", env!("CARGO_MANIFEST_DIR"));
        assert!(fs::read_to_string(&path).unwrap().contains(code.trim()), "{path} shows another program");
    }
}
