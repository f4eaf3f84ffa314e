//! Services that the operator means: `--url`, once or several times.

use std::sync::Arc;

use crate::client::{Client, Endpoint};
use crate::error::Error;

/// The services to talk to.
#[derive(clap::Args)]
pub struct Target {
    /// Address of a service; several (repeated, or with commas) where services run apart
    #[arg(
        long = "url",
        value_name = "URL",
        global = true,
        env = "TIDINGS_URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080"
    )]
    endpoints: Vec<Endpoint>,
}

impl Target {
    /// Every address given.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// A connection to a service that answers `path`.
    pub async fn client(&self, path: &str) -> Result<Client, Error> {
        Ok(Client::new(self.serving(path).await?))
    }

    /// The addresses that answer `path`. A single address is taken at its word: asking first would
    /// only make its error message worse.
    pub async fn serving(&self, path: &str) -> Result<Arc<[Endpoint]>, Error> {
        if let [only] = self.endpoints.as_slice() {
            return Ok(Arc::new([only.clone()]));
        }
        let mut serving = Vec::new();
        let mut refusal = None;
        for endpoint in &self.endpoints {
            match Client::to(endpoint.clone()).get(path).await {
                Ok(_) => serving.push(endpoint.clone()),
                Err(error) => refusal = Some(error),
            }
        }
        match refusal {
            Some(error) if serving.is_empty() => {
                Err(Error::new(format!("no address given with --url serves {path}: {error}")))
            }
            _ => Ok(serving.into()),
        }
    }
}
