//! All services that the operator means, asked at once; their answers put together.
//!
//! An address that is away costs the exit code and a line on stderr, never the answers of the others. Instances of one
//! service share a database: what several tell is shown once, and a change is asked of one of them.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tidings_client::{Answer, Client, Endpoint, Error, Target, client, output};
use tokio::time::timeout;

/// A look takes milliseconds; an operator at night does not wait for one frozen service among several.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(10);
/// A status is answered within two seconds with what is in memory, whatever is away.
pub(crate) const STATUS_WAIT_MAX: Duration = Duration::from_secs(3);

/// The services behind the addresses, and how many of those failed to answer so far.
pub(crate) struct Services {
    endpoints: Vec<Endpoint>,
    failures: usize,
}

impl Services {
    pub(crate) fn of(target: &Target) -> Services {
        Services { endpoints: target.endpoints().to_vec(), failures: 0 }
    }

    /// Success, unless an address or a service has failed.
    pub(crate) fn code(&self) -> ExitCode {
        if self.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// The answers of all addresses that give one, in the order of the addresses. Fails if none does.
    pub(crate) async fn ask<T, A>(&mut self, question: impl Fn(Endpoint) -> A) -> Result<Vec<T>, Error>
    where
        T: Send + 'static,
        A: Future<Output = Result<T, Error>> + Send + 'static,
    {
        self.ask_within(LOOK_WAIT_MAX, question).await
    }

    async fn ask_within<T, A>(
        &mut self,
        wait: Duration,
        question: impl Fn(Endpoint) -> A,
    ) -> Result<Vec<T>, Error>
    where
        T: Send + 'static,
        A: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let asked = |endpoint: &Endpoint| tokio::spawn(timeout(wait, question(endpoint.clone())));
        let asked: Vec<_> = self.endpoints.iter().map(asked).collect();
        let mut answers = Vec::new();
        let mut failed = Vec::new();
        for (Endpoint { url, .. }, answer) in self.endpoints.iter().zip(asked) {
            match answer.await.expect("no question panics, and nothing cancels one") {
                Ok(Ok(answer)) => answers.push(answer),
                Ok(Err(error)) => failed.push(error.at(url)),
                Err(_) => {
                    let seconds = wait.as_secs();
                    failed.push(Error::no_answer(format!("no answer from {url} within {seconds} s")));
                }
            }
        }
        if self.endpoints.len() == 1
            && let Some(error) = failed.pop()
        {
            return Err(error);
        }
        for error in &failed {
            self.tell(error);
        }
        if answers.is_empty() {
            return Err(Error::new(format!("none of {} addresses gave an answer", failed.len())));
        }
        Ok(answers)
    }

    /// The answers to `GET path`.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Vec<Value>, Error> {
        let path: Arc<str> = path.into();
        self.ask(|endpoint| {
            let path = path.clone();
            async move { read(&path, &Client::to(endpoint).get(&path).await?) }
        })
        .await
    }

    /// The first answer to `GET path`, as it came; none if nobody has such a thing.
    pub(crate) async fn find(&mut self, path: &str) -> Result<Option<Bytes>, Error> {
        Ok(self.found(path).await?.into_iter().next())
    }

    /// The answers to `GET path` of those that have such a thing, as they came.
    pub(crate) async fn found(&mut self, path: &str) -> Result<Vec<Bytes>, Error> {
        let path: Arc<str> = path.into();
        let answers = self.ask(|endpoint| {
            let path = path.clone();
            async move { found(Client::to(endpoint).get(&path).await) }
        });
        Ok(answers.await?.into_iter().flatten().collect())
    }

    /// The services by their names, with the addresses that reach each.
    pub(crate) async fn by_name(&mut self) -> Result<Named, Error> {
        let mut named = Named(BTreeMap::new());
        for (endpoint, names) in self.ask_within(STATUS_WAIT_MAX, names_at).await? {
            for name in names {
                named.0.entry(name).or_default().push(endpoint.clone());
            }
        }
        Ok(named)
    }

    /// Says an error that does not end the command.
    pub(crate) fn tell(&mut self, error: &Error) {
        self.failures += 1;
        output::report_error("tidings", error, "");
    }
}

/// The services of an address. One that is not well still says which they are.
async fn names_at(endpoint: Endpoint) -> Result<(Endpoint, Vec<String>), Error> {
    let answer = Client::to(endpoint.clone()).send(client::request(Method::GET, "/statusz")?).await?;
    let names = |status: Map<String, Value>| status.into_iter().map(|(name, _)| name).collect();
    match serde_json::from_slice::<Map<String, Value>>(answer.body()) {
        Ok(status) if status.values().all(Value::is_object) => Ok((endpoint, names(status))),
        _ => {
            let body = answer.success()?;
            Ok((endpoint, names(read("/statusz", &body)?)))
        }
    }
}

fn found(answer: Result<Bytes, Error>) -> Result<Option<Bytes>, Error> {
    match answer {
        Ok(body) => Ok(Some(body)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Services by name, with the addresses that reach each.
pub(crate) struct Named(BTreeMap<String, Vec<Endpoint>>);

impl Named {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn service(&self, name: &str) -> Result<Service, Error> {
        let endpoints = self.0.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.names().collect();
            Error::new(format!(
                "no service {name} at the addresses given with --url; there is {}",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            ))
        })?;
        Ok(Service {
            name: name.to_owned(),
            instances: endpoints.len(),
            client: Client::new(endpoints.as_slice().into()),
        })
    }

    /// Services that between them reach every process, where a request is for all that run in one.
    pub(crate) fn covering(&self) -> Result<Vec<Service>, Error> {
        let mut reached: Vec<&str> = Vec::new();
        let mut chosen = Vec::new();
        for (name, endpoints) in &self.0 {
            // The address that is asked reaches the services that share it.
            let Some(first) = endpoints.first() else { continue };
            if !reached.contains(&&*first.url) {
                reached.push(&first.url);
                chosen.push(self.service(name)?);
            }
        }
        Ok(chosen)
    }

    /// The services that are asked for, or all.
    pub(crate) fn chosen(&self, wanted: Option<&str>) -> Result<Vec<Service>, Error> {
        match wanted {
            Some(name) => Ok(vec![self.service(name)?]),
            None => self.names().map(|name| self.service(name)).collect(),
        }
    }

    /// Ids such as `payment:17`, by the service that they begin with.
    pub(crate) fn owners(&self, ids: &[String]) -> Result<Vec<(Service, Vec<String>)>, Error> {
        let mut by_service: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for id in ids {
            let (name, _) = id.rsplit_once(':').ok_or_else(|| {
                Error::new(format!("{id} is no id: they are a service and a number, such as payment:17"))
            })?;
            by_service.entry(name).or_default().push(id.clone());
        }
        by_service.into_iter().map(|(name, ids)| Ok((self.service(name)?, ids))).collect()
    }
}

/// One service, reached over any of its addresses.
pub(crate) struct Service {
    pub(crate) name: String,
    client: Client,
    /// Addresses that reach it.
    instances: usize,
}

impl Service {
    /// The process at an address.
    pub(crate) fn at(endpoint: Endpoint) -> Service {
        Service { name: endpoint.url.clone(), client: Client::to(endpoint), instances: 1 }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Error> {
        read(path, &self.send(path, None).await?.success()?)
    }

    /// The answer to `GET path` as it came; none if the service has no such thing.
    pub(crate) async fn find(&mut self, path: &str) -> Result<Option<Bytes>, Error> {
        found(self.send(path, None).await?.success())
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Result<Value, Error> {
        read(path, &self.send(path, Some(body.to_string())).await?.success()?)
    }

    /// A `GET`, or a `POST` of JSON. Another instance is asked where the first is away: what was done already is not
    /// done twice.
    pub(crate) async fn send(&mut self, path: &str, body: Option<String>) -> Result<Answer, Error> {
        let body = body.map(Bytes::from);
        let mut tried = 1;
        loop {
            let request = match &body {
                Some(body) => client::post(path, body.clone())?,
                None => client::request(Method::GET, path)?,
            };
            match self.client.send(request).await {
                Err(error) if tried < self.instances => {
                    output::report_error("tidings", &error, "; asking another instance");
                    tried += 1;
                }
                answer => return answer,
            }
        }
    }
}

/// Reads an answer.
pub(crate) fn read<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|error| Error::new(format!("cannot read the answer of {path}: {error}")))
}
