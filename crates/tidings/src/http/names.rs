//! Names of hosts and origins, as settings list them and as clients send them.

use std::net::Ipv6Addr;

use axum::http::HeaderValue;

use crate::error::Error;

pub(super) fn listed(setting: Option<&str>) -> impl Iterator<Item = &str> {
    setting.unwrap_or_default().split(',').map(str::trim).filter(|one| !one.is_empty())
}

/// A name as it stands in `Host`, without a port; `*` stands for any.
pub(super) fn host(text: &str) -> Result<String, Error> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("[{}]", bare.to_ascii_lowercase()));
    }
    let is_name = text == "*" || text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if is_name {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Error::config(format!(
        "--allowed-hosts {text:?} is not the name of a host; give NAME,… without scheme, port or path, or *"
    )))
}

/// An origin as browsers write it: in small letters, without a path.
pub(super) fn origin(text: &str) -> Result<HeaderValue, Error> {
    let is_one = text.split_once("://").is_some_and(|(scheme, authority)| {
        let name = without_port(authority);
        let is_whole = name.len() == authority.len() || !authority.ends_with(':');
        ["http", "https"].contains(&scheme) && is_whole && !["", "*"].contains(&name) && host(name).is_ok()
    });
    let value = HeaderValue::from_str(&text.to_ascii_lowercase()).ok().filter(|_| is_one);
    value.ok_or_else(|| {
        Error::config(format!("--cors-origins {text:?} is not an origin; give https://HOST[:PORT],…"))
    })
}

pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_client_can_call_is_refused() {
        for wrong in
            ["https://a", "a/b", "a b", "a:8080", "[::1]:80", "[a]", "*.example", "ä.example", "a@b", "a\nb"]
        {
            let report = host(wrong).expect_err(wrong).to_string();
            assert!(report.contains("--allowed-hosts") && report.lines().count() == 1, "{report}");
        }
        for taken in ["a", "B.example", "10.0.0.1", "_x", "*", "::1", "[2001:DB8::1]"] {
            host(taken).expect(taken);
        }
    }

    #[test]
    fn an_origin_that_no_browser_sends_is_refused() {
        let of = |text: &str| origin(text).map(|value| value.to_str().unwrap().to_owned());
        for (taken, expected) in [
            ("https://Friend.example", "https://friend.example"),
            ("http://a:8080", "http://a:8080"),
            ("http://[::1]:80", "http://[::1]:80"),
        ] {
            assert_eq!(of(taken).unwrap(), expected);
        }
        for wrong in [
            "a",
            "ftp://a",
            "https://",
            "https://a/",
            "https://*",
            "https://a b",
            "https://a:x",
            "https://a:",
        ] {
            assert!(of(wrong).expect_err(wrong).to_string().contains("--cors-origins"), "{wrong}");
        }
    }
}
