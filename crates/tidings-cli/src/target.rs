//! Which services the operator means: `--url`, once or several times.

use std::str::FromStr;
use std::sync::Arc;

use hyper::Uri;
use hyper::header::HeaderValue;

use crate::client::Client;
use crate::error::Error;

/// The services to talk to.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// Address of the shop; several (repeated, or with commas) where services run apart
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
    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// A connection to a service that answers `path`.
    pub(crate) async fn client(&self, path: &str) -> Result<Client, Error> {
        Ok(Client::new(self.serving(path).await?))
    }

    /// The addresses that answer `path`. A single address is taken at its word: asking first would
    /// only make its error message worse.
    pub(crate) async fn serving(&self, path: &str) -> Result<Arc<[Endpoint]>, Error> {
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

/// One `http://host:port`.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// As messages name it.
    pub(crate) url: String,
    /// What to connect to, without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The `Host` of every request, made once.
    pub(crate) host_header: HeaderValue,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let uri: Uri = text.parse().map_err(|_| "expected http://HOST:PORT".to_owned())?;
        if uri.scheme_str() != Some("http") || !matches!(uri.path(), "" | "/") {
            return Err("expected http://HOST:PORT, without TLS and without a path".to_owned());
        }
        let authority = uri.authority().ok_or("expected a host after http://")?;
        Ok(Endpoint {
            url: format!("http://{authority}"),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            host_header: HeaderValue::from_str(authority.as_str())
                .map_err(|_| "expected a host of plain characters".to_owned())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let endpoint: Endpoint = "http://[::1]:8080/".parse().unwrap();
        assert_eq!(("::1", 8080), (endpoint.host.as_str(), endpoint.port));
        assert_eq!("http://[::1]:8080", endpoint.url);
        assert_eq!(80, "http://shop".parse::<Endpoint>().unwrap().port);
    }

    #[test]
    fn what_cannot_be_spoken_to_is_refused() {
        for text in ["https://shop", "shop:8080", "http://shop/api", "http://", ""] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
