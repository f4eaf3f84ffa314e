//! `tidings schema`: what an operator sees of a change, and what a script sees.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use expect_test::{Expect, expect};
use serde_json::{Value, json};

/// A contract of one event with these properties, all of them required.
fn contract(properties: &Value) -> Value {
    let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
    json!({"tea.made.v1": {
        "topic": "teas",
        "written_by": ["kitchen"],
        "read_by": ["drinkers", "washers"],
        "schema": {"type": "object", "additionalProperties": false, "properties": properties, "required": required},
    }})
}

/// What `tidings schema ARGS` prints when it is given a contract, and its exit code.
#[track_caller]
fn told(directory: &Path, args: &[&str], contract: &Value, expected: Expect) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.env_clear().env("TIDINGS_SCHEMAS", directory).arg("schema").args(args).args(["--of", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that refuses its arguments does not wait for its input.
    let written = child.stdin.take().unwrap().write_all(contract.to_string().as_bytes());
    assert!(written.is_ok() || written.is_err_and(|e| e.kind() == ErrorKind::BrokenPipe));
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap();
    expected.assert_eq(&format!("{}{}exit {code}", text(&output.stdout), text(&output.stderr)));
}

#[test]
fn nothing_that_goes_together_with_nothing_is_no_verdict() {
    let directory = tempfile::tempdir().unwrap();
    for args in [["check"].as_slice(), &["record"], &["who-reads"]] {
        told(directory.path(), args, &json!({}), expect![["tidings: no event types in -\nexit 1"]]);
    }
    let empty = json!({"asyncapi": "3.0.0", "info": {"title": "a", "version": "1"}});
    told(directory.path(), &["check"], &empty, expect![["tidings: no event types in -\nexit 1"]]);
    let first = contract(&json!({"pot": {"type": "string"}}));
    let file = directory.path().join("said.json");
    std::fs::write(&file, first.to_string()).unwrap();
    let empty = directory.path().join("schemas");
    std::fs::create_dir(&empty).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.env_clear().args(["schema", "check", "--dir"]).arg(&empty).arg("--of").arg(&file);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with(&format!("tidings: no released revisions in {}: ", empty.display())), "{said}");
}

#[test]
fn a_change_is_judged_recorded_and_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let pot = json!({"type": "string"});
    let first = contract(&json!({"pot": pot}));
    told(
        directory,
        &["record"],
        &first,
        expect![[r#"
            tea.made.v1: is new
            breaks nobody, both ways: 1 event type, 0 released revisions; to release it, record it
            recorded tea.made.v1/1.json
            exit 0"#]],
    );
    told(
        directory,
        &["check"],
        &first,
        expect![[r#"
            as released: 1 event type, 1 released revision
            exit 0"#]],
    );
    let renamed = contract(&json!({"kettle": pot}));
    told(
        directory,
        &["record"],
        &renamed,
        expect![[r#"
        tea.made.v1: `pot` was renamed to `kettle`
          breaks: drinkers and washers could no longer read what was published as revision 1
          breaks: drinkers and washers expect revision 1, and could not read what is published from now on
          instead: keep `pot`, add `kettle` beside it as an optional property and mark `pot` as deprecated; or state tea.made.v2 beside tea.made.v1
        one of these changes breaks somebody
        exit 1"#]],
    );
    told(
        directory,
        &["check", "--json"],
        &renamed,
        expect![[r#"
        {"compatible":false,"findings":[{"breaking":true,"text":"tea.made.v1: `pot` was renamed to `kettle`\n  breaks: drinkers and washers could no longer read what was published as revision 1\n  breaks: drinkers and washers expect revision 1, and could not read what is published from now on\n  instead: keep `pot`, add `kettle` beside it as an optional property and mark `pot` as deprecated; or state tea.made.v2 beside tea.made.v1","type":"tea.made.v1"}]}
        exit 1"#]],
    );
    let mut more = first.clone();
    more["tea.made.v1"]["schema"]["properties"]["cups"] = json!({"type": "integer"});
    told(
        directory,
        &["record"],
        &more,
        expect![[r#"
            tea.made.v1: the optional property `cups` was added
            breaks nobody, both ways: 1 event type, 1 released revision; to release it, record it
            recorded tea.made.v1/2.json
            exit 0"#]],
    );
    std::fs::write(directory.join("tea.made.v1/1.json"), "{}").unwrap();
    told(
        directory,
        &["check"],
        &more,
        expect![[r#"
        tidings: tea.made.v1/1.json was changed after its release: a revision is for ever; bring it back (git checkout) and record the change as another revision
        exit 1"#]],
    );
    told(
        directory,
        &["check"],
        &json!("tea"),
        expect![[r#"
        tidings: - does not say its schemas: invalid type: string "tea", expected a map at line 1 column 5
        exit 1"#]],
    );
}

#[test]
fn what_a_shop_prints_as_asyncapi_is_judged_like_its_schemas() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let released = root.join("shop/contracts/schemas");
    let document = std::fs::read(root.join("shop/shop/asyncapi.json")).unwrap();
    let mut document: Value = serde_json::from_slice(&document).unwrap();
    told(
        &released,
        &["check"],
        &document,
        expect![[r#"
            as released: 14 event types, 28 released revisions
            exit 0"#]],
    );
    told(
        &released,
        &["who-reads", "stock.rejected.v1"],
        &document,
        expect![[r#"
        TYPE               TOPIC      WRITTEN BY  READ BY
        stock.rejected.v1  inventory  inventory   orders
        exit 0"#]],
    );
    document["components"]["schemas"]["StockLine"]["properties"].as_object_mut().unwrap().remove("quantity");
    told(
        &released,
        &["check"],
        &document,
        expect![[r#"
            stock.committed.v1 at /items/*: the required property `quantity` was removed
              breaks: orders expects revisions 1 and 2, and could not read what is published from now on
              instead: keep `quantity`; or state stock.committed.v2 beside stock.committed.v1
            stock.released.v1 at /items/*: the required property `quantity` was removed
              breaks: orders expects revisions 1 and 2, and could not read what is published from now on
              instead: keep `quantity`; or state stock.released.v2 beside stock.released.v1
            stock.reserved.v1 at /items/*: the required property `quantity` was removed
              breaks: orders expects revisions 1 and 2, and could not read what is published from now on
              instead: keep `quantity`; or state stock.reserved.v2 beside stock.reserved.v1
            3 of these changes break somebody
            exit 1"#]],
    );
    document["asyncapi"] = "2.6.0".into();
    told(
        &released,
        &["check"],
        &document,
        expect![[r#"
        tidings: - is AsyncAPI 2.6.0; give one of version 3
        exit 1"#]],
    );
    told(
        &released,
        &["check"],
        &json!({"openapi": "3.1.0"}),
        expect![[r#"
        tidings: - is an OpenAPI document, which describes routes and no events; give what the program prints as `schemas` or `asyncapi`
        exit 1"#]],
    );
    told(
        Path::new("no/such"),
        &["check"],
        &contract(&json!({})),
        expect![[r#"
        tidings: there is no directory no/such: name the one with the released revisions with --dir, or make it with `schema record`
        exit 1"#]],
    );
}

#[test]
fn a_running_service_tells_who_reads_what() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 1024];
        let length = stream.read(&mut asked).unwrap();
        let body = contract(&json!({"pot": {"type": "string"}})).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).unwrap();
        String::from_utf8_lossy(&asked[..length]).into_owned()
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    let output =
        command.env_clear().args(["--url", &url, "schema", "who-reads", "tea.made.v1"]).output().unwrap();
    expect![[r#"
        TYPE         TOPIC  WRITTEN BY  READ BY
        tea.made.v1  teas   kitchen     drinkers, washers
    "#]]
    .assert_eq(&String::from_utf8_lossy(&output.stdout));
    assert!(service.join().unwrap().starts_with("GET /schemas.json "));
}
