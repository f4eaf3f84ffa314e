//! The provider's own mock: it knows every parameter of the provider's API, and none of its behaviour.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use expect_test::expect;
use hyper::StatusCode;
use payment::domain::Operation;
use payment::gateway::PaymentGateway;

use crate::provider::{Provider, charge, words};

/// A Go module, so the version is what is tested.
const MODULE: &str = "github.com/stripe/stripe-mock";
const VERSION: &str = "v0.203.0";

#[tokio::test]
async fn the_providers_mock_takes_every_request_of_ours() {
    let mock = match Mock::start() {
        Ok(mock) => mock,
        Err(why) => {
            // Not caught by the test runner: somebody should see it.
            let _ = writeln!(std::io::stderr(), "SKIPPED: stripe-mock cannot be run: {why}");
            return;
        }
    };
    let gateway = mock.provider.gateway();
    let mut charge = charge("o-1", "pm_card_visa");
    charge.provider_ref = Some("pi_123".to_owned());
    let mut told = String::new();
    for operation in [Operation::Authorize, Operation::Capture, Operation::Void, Operation::Refund] {
        let done = gateway.perform(operation, &format!("{operation:?}/o-1"), &charge).await;
        let found = gateway.look_up(operation, "", &charge).await;
        let found = words(found.as_ref().map(Option::as_ref));
        told += &format!("{operation:?}: {}\n  look-up: {found}\n", words(done.as_ref().map(Some)));
    }
    // Its answers are always the same ones, of an intent that waits for a payment method. That they can be
    // read shows that the requests were taken.
    expect![[r#"
        Authorize: refused: idempotency_error: 
          look-up: refused: idempotency_error: 
        Capture: conflict: … of order o-1 is requires_payment_method, which does not fit Capture
          look-up: conflict: … of order o-1 is requires_payment_method, which does not fit Capture
        Void: outcome unknown: the provider answered 200, and not what it was asked for
          look-up: absent
        Refund: done
          look-up: conflict: … of order o-1 is requires_payment_method, which does not fit Refund
    "#]]
    .assert_eq(&told);
    // And it would have said so if not.
    let (status, _, body) =
        mock.provider.post("/v1/payment_intents", "k", "amount=1&currency=eur&colour=red").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
}

struct Mock {
    child: Child,
    provider: Provider,
    /// It would end if nobody held the other end.
    _output: BufReader<ChildStdout>,
}

impl Mock {
    /// Installs it if need be, and starts it on free ports.
    fn start() -> Result<Self, String> {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("stripe-mock-{VERSION}"));
        let program = folder.join("stripe-mock");
        if !program.is_file() {
            let mut install = Command::new("go");
            install.args(["install", &format!("{MODULE}@{VERSION}")]).env("GOBIN", &folder);
            let output = install.output().map_err(|e| format!("there is no Go: {e}"))?;
            if !output.status.success() {
                return Err(format!("go install: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        let mut command = Command::new(program);
        command.args(["-http-addr", "127.0.0.1:0", "-https-addr", "127.0.0.1:0"]).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let mut output = BufReader::new(child.stdout.take().expect("its output is piped"));
        let lines = output.by_ref().lines().map_while(Result::ok);
        let address = lines
            .filter_map(|line| line.strip_prefix("Listening for HTTP at address: ").map(ToOwned::to_owned))
            .next()
            .expect("it says where it listens");
        Ok(Self { child, provider: Provider { url: format!("http://{address}") }, _output: output })
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
