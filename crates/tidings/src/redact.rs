//! Text that may hold a secret, as it may be shown.

/// A URL, or something that was meant to be one, as it may be shown: without a password, and without
/// properties, which may hold one.
///
/// ```
/// use tidings::config::redacted;
///
/// assert_eq!(redacted("postgres://shop:secret@db/shop"), "postgres://shop@db/shop");
/// ```
pub fn redacted(url: &str) -> String {
    let (place, properties) = url.split_once(['?', '#']).unwrap_or((url, ""));
    let (scheme, rest) = match place.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), place),
    };
    // A password that was not escaped may have come apart anywhere, and `host=… password=…` is no URL at all.
    if properties.contains('@') || place.to_ascii_lowercase().contains("password") {
        return format!("{scheme}…");
    }
    match rest.rsplit_once('@') {
        None => place.to_owned(),
        Some((user, host)) if !scheme.is_empty() => {
            format!("{scheme}{}@{host}", user.split(':').next().unwrap_or_default())
        }
        Some((_, host)) => format!("…@{host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (url, expected) in [
            ("postgres://u:p4ss@h:5432/db?password=p4ss", "postgres://u@h:5432/db"),
            ("postgres://u:p4/ss@h/db", "postgres://u@h/db"),
            ("postgres://u:p4?ss@h/db", "postgres://…"),
            ("postgres://u:p4#ss@h/db", "postgres://…"),
            ("mysql://u:p4ss@h", "mysql://u@h"),
            ("mysql:u:p4ss@h", "…@h"),
            ("host=h user=u password=p4ss", "…"),
            ("kafka://a:9092,b:9092?sasl.password=p4ss", "kafka://a:9092,b:9092"),
            ("kafka://u:p4ss@a:9092", "kafka://u@a:9092"),
            ("stripe:http://u:p4ss@h", "stripe:http://u@h"),
            ("sqlite:data", "sqlite:data"),
            ("six", "six"),
        ] {
            assert_eq!(redacted(url), expected, "{url}");
        }
    }
}
