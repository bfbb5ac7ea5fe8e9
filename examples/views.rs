//! A program that runs a pipeline and asks it: one moment of all its views, and their changes as they come.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::util::pretty::pretty_format_batches;
use highwater::connector::extensions::Extensions;
use highwater::runtime::views::Event;
use highwater::runtime::{self, Workers};
use highwater::sql::{self, Text};
use highwater::time::SystemClock;
use std::sync::Arc;

const PIPELINE: &str = "
    CREATE TABLE transfers (src BIGINT, dst BIGINT, amount BIGINT) WITH (
      'connector' = 'datagen', 'rows-per-second' = '100', 'number-of-rows' = '300',
      'fields.src.min' = '1', 'fields.src.max' = '5', 'fields.dst.min' = '1', 'fields.dst.max' = '5',
      'fields.amount.min' = '1', 'fields.amount.max' = '100'
    );
    CREATE MATERIALIZED VIEW balances AS
      SELECT account, sum(amount) AS balance FROM (
        SELECT src AS account, -amount AS amount FROM transfers UNION ALL SELECT dst, amount FROM transfers
      ) GROUP BY account;
    CREATE MATERIALIZED VIEW total AS SELECT sum(balance) AS total FROM balances;
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let extensions = Extensions::new();
    let plan = sql::plan(Text { name: "bank.sql", sql: PIPELINE }, &[], &extensions)?;
    let running = runtime::start(plan, Workers::Threads(2), None, Arc::new(SystemClock::default()))?;

    let views = running.views();
    let answer = views.query("SELECT balance, total FROM balances CROSS JOIN total ORDER BY balance DESC LIMIT 3")?;
    println!("at the end of epoch {}, watermark {}:", answer.epoch, answer.watermark);
    println!("{}", pretty_format_batches(&answer.batches)?);

    let mut overdrawn = 0;
    for event in views.subscribe("SELECT account FROM balances WHERE balance < 0")? {
        match event? {
            Event::Changes { rows, .. } => {
                let weights = rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>();
                overdrawn += weights.values().iter().sum::<i64>();
            }
            Event::Progress { epoch, .. } => println!("epoch {epoch}: {overdrawn} accounts are overdrawn"),
        }
    }
    running.wait().1?;
    Ok(())
}
