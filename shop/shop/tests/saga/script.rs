//! What a scenario can say, one step a line:
//!
//! ```text
//! POST /orders o-1 2×tea 1×mug card=declined   place an order; it is called o-1 from here on
//! cancel o-1                                   … is promised (202)
//! cancel o-1 = 409                             … is answered with this status
//! receive 5×tea r-1                            a delivery, under a reference
//! expect o-1 cancelled reason=declined         GET /orders/{id} says so now
//! expect 3 completed                           so many orders have this status now
//! foreign o-2 2×tea                            another program puts plain JSON on the topic
//! foreign o-2 2×tea unkeyed                    … without a key
//! fact payment.authorized o-1 #1               a fact, as its service would state it, with its number
//! again payments                               every message of a topic is delivered once more
//! raw orders k-1 nonsense                      a key and bytes that are no event
//! stop payment, start payment                  the service is down, is back
//! advance 15m                                  the clocks of all services move on
//! ```
//!
//! After each step the services run until nothing is left to do, unless the line ends with `&`.

use std::time::Duration;

/// One line of a script.
#[derive(Debug)]
pub struct Step {
    pub action: Action,
    /// Whether the services run until they are idle before the next step.
    pub waits: bool,
}

#[derive(Debug)]
pub enum Action {
    Post { order: String, lines: Vec<Line>, card: Option<String> },
    Cancel { order: String, status: u16 },
    Receive { line: Line, reference: String },
    Expect { order: String, fields: Vec<(String, String)> },
    Count { status: String, orders: usize },
    Foreign { order: String, lines: Vec<Line>, keyed: bool },
    Fact { name: String, order: String, seq: u64 },
    Again { topic: String },
    Raw { topic: String, key: String, value: String },
    Stop { service: String },
    Start { service: String },
    Advance(Duration),
}

/// `2×tea`.
#[derive(Clone, Debug)]
pub struct Line {
    pub quantity: u64,
    pub product_id: String,
}

impl Step {
    /// Reads a line; an empty one says nothing.
    pub fn read(line: &str) -> Option<Self> {
        let line = line.trim();
        let (text, waits) = match line.strip_suffix('&') {
            Some(text) => (text, false),
            None => (line, true),
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let (verb, rest) = words.split_first()?;
        let action =
            Action::read(verb, rest).unwrap_or_else(|| panic!("the script has no line like {line:?}"));
        Some(Self { action, waits })
    }
}

impl Action {
    fn read(verb: &str, words: &[&str]) -> Option<Self> {
        let action = match (verb, words) {
            ("POST", ["/orders", order, rest @ ..]) => Self::Post {
                order: text(order),
                lines: rest.iter().filter_map(|word| Line::read(word)).collect(),
                card: rest.iter().find_map(|word| word.strip_prefix("card=")).map(text),
            },
            ("cancel", [order]) => Self::Cancel { order: text(order), status: 202 },
            ("cancel", [order, "=", status]) => {
                Self::Cancel { order: text(order), status: status.parse().ok()? }
            }
            ("receive", [line, reference]) => {
                Self::Receive { line: Line::read(line)?, reference: text(reference) }
            }
            ("expect", [count, status]) if count.parse::<usize>().is_ok() => {
                Self::Count { status: text(status), orders: count.parse().ok()? }
            }
            ("expect", [order, status, rest @ ..]) => {
                let mut fields = vec![(text("status"), text(status))];
                for word in rest {
                    let (name, value) = word.split_once('=')?;
                    fields.push((text(name), text(value)));
                }
                Self::Expect { order: text(order), fields }
            }
            ("foreign", [order, rest @ ..]) => Self::Foreign {
                order: text(order),
                lines: rest.iter().filter_map(|word| Line::read(word)).collect(),
                keyed: !rest.contains(&"unkeyed"),
            },
            ("fact", [name, order, seq]) => {
                Self::Fact { name: text(name), order: text(order), seq: seq.strip_prefix('#')?.parse().ok()? }
            }
            ("again", [topic]) => Self::Again { topic: text(topic) },
            ("raw", [topic, key, value]) => {
                Self::Raw { topic: text(topic), key: text(key), value: text(value) }
            }
            ("stop", [service]) => Self::Stop { service: text(service) },
            ("start", [service]) => Self::Start { service: text(service) },
            ("advance", [time]) => Self::Advance(duration(time)?),
            _ => return None,
        };
        Some(action)
    }
}

impl Line {
    fn read(word: &str) -> Option<Self> {
        let (quantity, product_id) = word.split_once('×')?;
        Some(Self { quantity: quantity.parse().ok()?, product_id: text(product_id) })
    }
}

/// `15m`, `2s`.
fn duration(word: &str) -> Option<Duration> {
    let seconds = match word.strip_suffix('m') {
        Some(minutes) => minutes.parse::<u64>().ok()? * 60,
        None => word.strip_suffix('s')?.parse().ok()?,
    };
    Some(Duration::from_secs(seconds))
}

fn text(word: &str) -> String {
    word.to_owned()
}
