//! `shopctl orders`: the orders as the order service tells them.

use std::process::ExitCode;

use clap::Subcommand;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::Value;
use tidings_client::{Client, Error, Format, Target, client, output, percent_encoded};

/// A bound for one look; the service may have a smaller one.
const LIST_LIMIT_MAX: i64 = 1000;

/// Arguments of `shopctl orders`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List orders, newest first
    List(ListArgs),
    /// Show one order
    Show {
        /// The order's id
        id: String,
    },
    /// Show every event of an order from all services, in order
    History {
        /// The order's id
        id: String,
    },
    /// Cancel an order, also one already confirmed
    Cancel {
        /// The order's id
        id: String,
    },
}

#[derive(clap::Args)]
struct ListArgs {
    /// Only orders of this status: processing, confirmed, completed, cancelling or cancelled
    #[arg(long)]
    status: Option<String>,
    /// Only orders of this customer
    #[arg(long)]
    customer_id: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=LIST_LIMIT_MAX))]
    limit: u16,
    /// Go on where an earlier list ended
    #[arg(long)]
    cursor: Option<String>,
}

/// Runs one of the subcommands.
///
/// # Errors
/// No answer, or a refusal.
pub async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut orders = target.client("/products").await?;
    let text = match args.command {
        Command::List(list) => view(&mut orders, &list.path(), format, listing).await?,
        Command::Show { id } => view(&mut orders, &path(&id, ""), format, details).await?,
        Command::History { id } => view(&mut orders, &path(&id, "/history"), format, history).await?,
        Command::Cancel { id } => cancel(&mut orders, &id, format).await?,
    };
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// JSON goes through untouched; people get it drawn.
async fn view(
    orders: &mut Client,
    path: &str,
    format: Format,
    draw: fn(&Value) -> String,
) -> Result<Bytes, Error> {
    let body = orders.get(path).await?;
    if format == Format::Json {
        return Ok(body);
    }
    let value = serde_json::from_slice(&body)
        .map_err(|error| Error::new(format!("cannot read the answer to GET {path}: {error}")))?;
    Ok(draw(&value).into())
}

impl ListArgs {
    fn path(&self) -> String {
        let filters =
            [("status", &self.status), ("customer_id", &self.customer_id), ("cursor", &self.cursor)];
        filters.iter().fold(format!("/orders?limit={}", self.limit), |path, (name, value)| match value {
            Some(value) => format!("{path}&{name}={}", percent_encoded(value)),
            None => path,
        })
    }
}

fn path(id: &str, rest: &str) -> String {
    format!("/orders/{}{rest}", percent_encoded(id))
}

fn listing(page: &Value) -> String {
    let orders = items(page);
    if orders.is_empty() {
        return "no orders".to_owned();
    }
    let mut text = output::table(
        &[
            ("ID", &["id"]),
            ("STATUS", &["status"]),
            ("REASON", &["reason"]),
            ("PAYMENT", &["payment"]),
            ("STOCK", &["stock"]),
            ("TOTAL", &["total"]),
            ("CUSTOMER", &["customer_id"]),
            ("CREATED", &["created_at"]),
            ("UPDATED", &["updated_at"]),
        ],
        orders,
    );
    if let Some(cursor) = page.get("next_cursor").and_then(Value::as_str) {
        text += &format!("\nmore with --cursor {}\n", output::printable(cursor));
    }
    text
}

fn details(order: &Value) -> String {
    let fields =
        ["id", "status", "reason", "payment", "stock", "total", "customer_id", "created_at", "updated_at"];
    let rows: Vec<Vec<String>> = fields
        .iter()
        .filter_map(|name| Some(vec![(*name).to_owned(), output::cell(order.get(name)?)]))
        .filter(|row| !row[1].is_empty())
        .collect();
    let lines = output::table(
        &[("PRODUCT", &["product_id"]), ("QUANTITY", &["quantity"]), ("UNIT PRICE", &["unit_price"])],
        items(order),
    );
    format!("{}\n{lines}", output::aligned(&rows))
}

fn history(events: &Value) -> String {
    output::table(
        &[
            ("TIME", &["time", "occurred_at", "recorded_at", "at"]),
            ("SOURCE", &["source", "service"]),
            ("SEQ", &["seq", "streamseq"]),
            ("TYPE", &["type", "event_type"]),
            ("EVENT", &["id", "event_id"]),
            ("HANDLED BY", &["handled_by", "handlers", "handler"]),
        ],
        items(events),
    )
}

/// The objects of an answer: a bare array, or the array under `items` or `events`.
fn items(answer: &Value) -> &[Value] {
    let array = answer.get("items").or_else(|| answer.get("events")).unwrap_or(answer);
    array.as_array().map_or(&[], Vec::as_slice)
}

async fn cancel(orders: &mut Client, id: &str, format: Format) -> Result<Bytes, Error> {
    let answer = orders.send(client::request(Method::POST, &path(id, "/cancel"))?).await?;
    let shown = output::printable(id);
    let rendered = match answer.status() {
        StatusCode::ACCEPTED => format!("{shown} will end cancelled"),
        _ => format!("{shown} was already cancelled"),
    };
    let body = answer.success()?;
    Ok(if format == Format::Json { body } else { rendered.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn a_list_says_how_to_go_on() {
        let page = json!({"items": [{
            "id": "o-1", "status": "cancelled", "reason": "declined",
            "total": {"amount": 2598, "currency": "EUR"}, "created_at": "2026-01-01T00:00:00Z",
        }], "next_cursor": "abc"});
        expect![[r#"
            ID   STATUS     REASON    TOTAL      CREATED
            o-1  cancelled  declined  25.98 EUR  2026-01-01T00:00:00Z

            more with --cursor abc
        "#]]
        .assert_eq(&listing(&page));
    }

    #[test]
    fn an_order_is_shown_with_its_lines() {
        let order = json!({
            "id": "o-1", "status": "completed", "payment": "captured", "stock": "committed",
            "items": [{"product_id": "tea", "quantity": 2, "unit_price": {"amount": 1299, "currency": "EUR"}}],
        });
        expect![[r#"
            id       o-1
            status   completed
            payment  captured
            stock    committed

            PRODUCT  QUANTITY  UNIT PRICE
            tea      2         12.99 EUR
        "#]]
        .assert_eq(&details(&order));
    }

    #[test]
    fn filters_become_a_query() {
        let args = ListArgs {
            status: Some("completed".into()),
            customer_id: Some("c&1".into()),
            limit: 5,
            cursor: None,
        };
        assert_eq!("/orders?limit=5&status=completed&customer_id=c%261", args.path());
    }
}
