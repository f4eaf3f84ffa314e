//! The few requests that are made of a registry, all of them at the start of a program.

use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Error;
use crate::redact::redacted;

/// The longest time for an answer: the start of the program waits for it.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Far more than any answer has.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
const JSON: HeaderValue = HeaderValue::from_static("application/vnd.schemaregistry.v1+json");

/// A registry.
pub(crate) struct RegistryClient {
    connections: Connections,
    /// Without user and password, without a slash at the end.
    url: String,
    authorization: Option<HeaderValue>,
}

enum Connections {
    Plain(legacy::Client<HttpConnector, Full<Bytes>>),
    Tls(legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

/// An answer of the registry.
struct RegistryAnswer {
    status: StatusCode,
    body: Bytes,
}

impl RegistryClient {
    /// Of `http[s]://[USER:PASSWORD@]HOST[:PORT][/PATH]`.
    pub(super) fn new(url: &str) -> Result<Self, Error> {
        let wrong = || {
            let shown = redacted(url);
            Error::config(format!(
                "{shown:?} is no schema registry; use --schema-registry http://[USER:PASSWORD@]HOST:PORT"
            ))
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        let url = format!("{scheme}://{}", place.trim_end_matches('/'));
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        if uri.query().is_some() || uri.host().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        let authorization = user.map(|user| {
            let user = percent_decoded(user).ok_or_else(wrong)?;
            let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(user)))
                .expect("base64 is visible characters");
            value.set_sensitive(true);
            Ok(value)
        });
        let connections = match scheme {
            "http" => Connections::Plain(legacy::Client::builder(TokioExecutor::new()).build_http()),
            "https" => Connections::Tls(legacy::Client::builder(TokioExecutor::new()).build(tls(&url)?)),
            _ => return Err(wrong()),
        };
        Ok(Self { connections, url, authorization: authorization.transpose()? })
    }

    /// Registers a schema, unless that is done already; its id either way.
    pub(super) async fn register(&self, subject: &str, schema: &Value) -> Result<u32, Error> {
        /// The answer about a schema that is registered.
        #[derive(Deserialize)]
        struct Registered {
            id: u32,
        }
        let answer = self.post(&format!("/subjects/{subject}/versions"), subject, schema).await?;
        if !answer.status.is_success() {
            return Err(self.refused(subject, &answer));
        }
        let Registered { id } = self.read(subject, &answer)?;
        tracing::info!(subject, id, "registered");
        Ok(id)
    }

    /// Checks that a schema is registered, or could be.
    pub(super) async fn check(&self, subject: &str, schema: &Value) -> Result<(), Error> {
        /// The registry's verdict on a schema.
        #[derive(Deserialize)]
        struct Compatibility {
            is_compatible: bool,
            #[serde(default)]
            messages: Vec<String>,
        }
        let known = self.post(&format!("/subjects/{subject}"), subject, schema).await?;
        match known.status {
            StatusCode::OK => return Ok(()),
            StatusCode::NOT_FOUND => {}
            _ => return Err(self.refused(subject, &known)),
        }
        let path = format!("/compatibility/subjects/{subject}/versions/latest?verbose=true");
        let judged = self.post(&path, subject, schema).await?;
        match judged.status {
            // The subject is new.
            StatusCode::NOT_FOUND => Ok(()),
            StatusCode::OK => match self.read(subject, &judged)? {
                Compatibility { is_compatible: true, .. } => Ok(()),
                Compatibility { messages, .. } => Err(self.incompatible(subject, &messages.join("; "))),
            },
            _ => Err(self.refused(subject, &judged)),
        }
    }

    async fn post(&self, path: &str, subject: &str, schema: &Value) -> Result<RegistryAnswer, Error> {
        let body = json!({"schemaType": "JSON", "schema": schema.to_string()}).to_string();
        let mut request =
            Request::post(format!("{}{path}", self.url)).header(CONTENT_TYPE, JSON).header(ACCEPT, JSON);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let failed = |why: String| {
            Error::config(format!(
                "cannot ask the schema registry at {} about {subject}: {why}; start it, or leave --schema-registry out",
                self.url
            ))
        };
        let request = request.body(Full::from(body)).map_err(|e| failed(e.to_string()))?;
        let answered = async {
            let asked = match &self.connections {
                Connections::Plain(client) => client.request(request),
                Connections::Tls(client) => client.request(request),
            };
            let (head, body) = asked.await.map_err(|e| failed(in_full(&e)))?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|e| failed(format!("the answer broke off: {e}")))?.to_bytes();
            Ok(RegistryAnswer { status: head.status, body })
        };
        let late = |_| Err(failed(format!("no answer for {} s", ANSWER_MAX.as_secs())));
        tokio::time::timeout(ANSWER_MAX, answered).await.unwrap_or_else(late)
    }

    fn read<'a, T: Deserialize<'a>>(&self, subject: &str, answer: &'a RegistryAnswer) -> Result<T, Error> {
        serde_json::from_slice(&answer.body).map_err(|e| {
            Error::config(format!(
                "{} does not answer about {subject} as a schema registry does: {e}; check --schema-registry",
                self.url
            ))
        })
    }

    fn refused(&self, subject: &str, answer: &RegistryAnswer) -> Error {
        /// The reason of a refusal.
        #[derive(Default, Deserialize)]
        struct Refusal {
            message: String,
        }
        let Refusal { message } = serde_json::from_slice(&answer.body).unwrap_or_default();
        let (url, status) = (&self.url, answer.status);
        match status {
            StatusCode::CONFLICT => self.incompatible(subject, &message),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::config(format!(
                "the schema registry at {url} does not let us see to {subject}: {status}; give it a user that may, with TIDINGS_SCHEMA_REGISTRY=https://USER:PASSWORD@HOST:PORT, or a file of that which TIDINGS_SCHEMA_REGISTRY_FILE names"
            )),
            _ => Error::config(format!(
                "the schema registry at {url} does not take {subject}: {status}{}{message}; see to it there, or leave --schema-registry out",
                if message.is_empty() { "" } else { ": " }
            )),
        }
    }

    fn incompatible(&self, subject: &str, why: &str) -> Error {
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        Error::config(format!(
            "the schema registry at {} says that the schema of {subject} is incompatible with an earlier one{why}; state a new version of the event beside it, or set another compatibility for the subject there",
            self.url
        ))
    }
}

fn tls(url: &str) -> Result<HttpsConnector<HttpConnector>, Error> {
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(|e| {
            Error::config(format!(
                "cannot tell whether {url} is genuine: {e}; install ca-certificates, or set SSL_CERT_FILE"
            ))
        })?;
    Ok(connector.https_only().enable_http1().build())
}

/// An error and what it came from: the telling half.
fn in_full(e: &legacy::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        let _ = write!(text, ": {e}");
        source = e.source();
    }
    text
}

/// Decodes the percent-encoding in a part of a URL.
fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_hold_a_user() {
        let authorization = |url| RegistryClient::new(url).expect("it is one").authorization;
        assert_eq!(authorization("http://registry:8081"), None);
        let basic = authorization("http://tea:a%2Fb%20c@registry:8081/").expect("it has a user");
        assert_eq!(basic, "Basic dGVhOmEvYiBj");
        assert!(basic.is_sensitive());
        assert_eq!(
            RegistryClient::new("http://tea:pot@registry:8081/path/").expect("it is one").url,
            "http://registry:8081/path"
        );
    }

    #[test]
    fn what_is_no_registry_is_told_without_its_password() {
        for url in [
            "registry:8081",
            "ftp://tea:pot@registry",
            "http://",
            "http://tea:pot@",
            "http://tea:%zz@registry",
        ] {
            let refused = RegistryClient::new(url).err().expect("it is none").to_string();
            assert!(refused.contains("--schema-registry http://"), "{refused}");
            assert!(!refused.contains("pot"), "{refused}");
        }
    }
}
