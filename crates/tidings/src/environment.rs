//! Variables of the environment that mean something else than they seem to.

/// Tells whether a variable is one by which Kubernetes and Docker give the address of another service: a service
/// called `tidings-broker` makes `TIDINGS_BROKER_SERVICE_HOST`, `TIDINGS_BROKER_PORT=tcp://10.0.0.1:9092`,
/// `TIDINGS_BROKER_PORT_9092_TCP_ADDR` and more in each container.
pub(crate) fn is_service_link(name: &str, value: &str) -> bool {
    let is_protocol = |word: &str| matches!(word, "TCP" | "UDP" | "SCTP");
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let words: Vec<&str> = name.split('_').collect();
    match words.as_slice() {
        [.., "SERVICE", "HOST"] | [.., "SERVICE", "PORT"] => true,
        [.., "PORT", number, protocol, "PROTO" | "PORT" | "ADDR"]
            if is_number(number) && is_protocol(protocol) =>
        {
            true
        }
        [.., "PORT", number, protocol] if is_number(number) && is_protocol(protocol) => is_address,
        [.., "PORT"] => is_address,
        // A named port: TIDINGS_BROKER_SERVICE_PORT_PLAINTEXT.
        words => words.windows(2).any(|pair| pair == ["SERVICE", "PORT"]) && is_number(value),
    }
}
