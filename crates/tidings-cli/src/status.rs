//! `tidings status`: what every service says about itself.

use std::process::ExitCode;

use hyper::Method;
use serde_json::{Map, Value};
use tidings_client::{Client, Endpoint, Error, Format, Target, client, output};

/// Asks every address. The exit code is 1 when one is away or says it is not well, so that a
/// script can wait for it.
pub(crate) async fn run(target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut services = Map::new();
    let mut troubles = 0;
    for endpoint in target.endpoints() {
        let (status, well) = match ask(endpoint).await {
            Err(error) if target.endpoints().len() == 1 => return Err(error),
            Err(error) => (Value::String(error.to_string()), false),
            Ok(answer) => answer,
        };
        services.insert(endpoint.url.clone(), status);
        troubles += usize::from(!well);
    }
    output::print(match format {
        Format::Json => as_json(services),
        Format::Text => output::tree(&Value::Object(services), 0),
    })?;
    Ok(if troubles == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A service that is not well answers with an error status and still says what ails it.
async fn ask(endpoint: &Endpoint) -> Result<(Value, bool), Error> {
    let question = client::request(Method::GET, "/statusz")?;
    let answer = Client::to(endpoint.clone()).send(question).await?;
    let well = answer.status().is_success();
    match serde_json::from_slice(answer.body()) {
        Ok(status) => Ok((status, well)),
        Err(_) if !well => answer.success().map(|_| (Value::Null, well)),
        Err(error) => Err(Error::new(format!("cannot read the status of {}: {error}", endpoint.url))),
    }
}

/// The one service's own answer, or an object of them by address.
fn as_json(services: Map<String, Value>) -> String {
    let mut values = services.values();
    match (values.next(), values.next()) {
        (Some(only), None) => only.to_string(),
        _ => Value::Object(services).to_string(),
    }
}
