//! `highwater replay`: recorded epochs, seen again on the terminal. The real sinks are left alone, the store is only read.

use super::explain::Definition;
use crate::batch::{Batch, batch_of};
use crate::checkpoint::history::{Begin, Stretch};
use crate::checkpoint::store::Store;
use crate::connector::print::{FORMAT, PrintSink};
use crate::connector::{self, Connectors, Context, Options, Shard, Sink, SinkInput};
use crate::error::{Error, Result, nearest};
use crate::expr::Expr;
use crate::plan::WEIGHT;
use crate::runtime::replay::{self, Told, Written};
use crate::sql::{self, Text};
use crate::time::{Clock, Epoch, SystemClock};
use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use clap::{Args, ValueEnum};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

/// How long a terminal that has no room is left alone.
const NAP: Duration = Duration::from_millis(1);

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    definition: Definition,
    /// The checkpoint after which it begins, or `start` for the pipeline's first epoch [default: as early as is recorded]
    #[arg(long, value_name = "EPOCH", value_parser = begin)]
    from: Option<Begin>,
    /// The last epoch; or a condition over the columns of a table that is written, such as "n > 100": it ends with the epoch of the
    /// first row for which that is true [default: the newest checkpoint]
    #[arg(long, value_name = "EPOCH|CONDITION")]
    until: Option<String>,
    /// Show only the rows of this table
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// How rows are shown [default: a table, or a changelog if rows are taken back]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Worker threads
    #[arg(long, short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Aligned columns
    Table,
    /// An object a line
    Json,
    /// A change a line: +I[…] added, -U[…] and +U[…] replaced, -D[…] taken back
    Changelog,
}

fn begin(text: &str) -> Result<Begin, String> {
    match text {
        "start" => Ok(Begin::Start),
        epoch => {
            epoch.parse().map(Begin::Checkpoint).map_err(|_| "expected the epoch of a checkpoint, or `start`".into())
        }
    }
}

/// Where it ends.
enum Until {
    Newest,
    Epoch(Epoch),
    /// With a row of the table at this place for which the condition is true.
    Row(usize, Expr),
}

/// Shows what recorded epochs say.
pub fn run(arguments: &Arguments, connectors: &dyn Connectors) -> Result<()> {
    let plan = arguments.definition.plan(connectors)?;
    plan.check()?;
    let location = plan.settings.checkpoint_store.as_deref().ok_or_else(|| {
        Error::invalid(format!("{}: the pipeline has no checkpoints", arguments.definition.file.display()))
            .help("SET 'checkpoint_store' to the place of those of its runs")
    })?;
    if let Some((_, source)) = plan.sources().find(|(_, source)| source.source.embedded()) {
        return Err(Error::invalid("what was in the broker 'embedded' went with the run that had it")
            .within(format!("table \"{}\"", source.table))
            .help("epochs can be seen again of pipelines that read a broker of their own"));
    }
    let store = Store::existing(location, &plan.settings.name)?;
    let tables = replay::written(&plan);
    let shown = shown(&tables, arguments.table.as_deref())?;
    let until = until(arguments.until.as_deref(), &tables, &shown, connectors)?;
    let last = match until {
        Until::Epoch(epoch) => Some(epoch),
        Until::Newest | Until::Row(..) => None,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let context = Context { embedded_broker: None, clock: Arc::clone(&clock), workers: 1 };
    let mut printers: BTreeMap<usize, Printer> = BTreeMap::new();
    for table in &shown {
        printers.insert(*table, Printer::new(&tables[*table], shown.len() > 1, arguments.format, &context)?);
    }
    let stretch = Stretch::read(&store, arguments.from.unwrap_or_default(), last)?;
    let (first, last) = (stretch.first(), stretch.last());
    let mut replaying = replay::start(plan, &store, stretch, arguments.workers.into(), None, clock)?;
    let mut found = None;
    let mut show = || -> Result<()> {
        while let Some(told) = replaying.hear() {
            if let Until::Row(table, condition) = &until
                && satisfied(&told, *table, &tables[*table].schema, condition)?
            {
                found = Some(told.epoch);
            }
            print(&mut printers, told)?;
            if found.is_some() {
                break;
            }
        }
        printers.values_mut().try_for_each(|printer| printer.shard.finish())
    };
    let showed = show();
    let (_, result) = replaying.finish();
    match showed {
        Err(error) if closed_by_reader(&error) => return Ok(()),
        showed => showed?,
    }
    result?;
    match (&until, found) {
        (Until::Row(..), Some(epoch)) => info!(epoch, "a row of this epoch is as asked for"),
        (Until::Row(..), None) => info!(first, last, "no row of these epochs is as asked for"),
        _ => info!(first, last, "these epochs were seen again"),
    }
    Ok(())
}

/// The places of the tables whose rows are shown.
fn shown(tables: &[Written], only: Option<&str>) -> Result<Vec<usize>> {
    let Some(only) = only else { return Ok((0..tables.len()).collect()) };
    let found: Vec<usize> = (0..tables.len()).filter(|at| tables[*at].table == only).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let names = || tables.iter().map(|table| table.table.as_str());
    let error = Error::invalid(format!("the pipeline does not write a table '{only}'"));
    Err(match nearest(only, names()) {
        Some(near) => error.help(format!("did you mean --table {near}?")),
        None => error.help(format!("it writes {}", names().collect::<Vec<_>>().join(", "))),
    })
}

fn until(text: Option<&str>, tables: &[Written], shown: &[usize], connectors: &dyn Connectors) -> Result<Until> {
    let Some(text) = text else { return Ok(Until::Newest) };
    if let Ok(epoch) = text.parse() {
        return Ok(Until::Epoch(epoch));
    }
    let [table] = *shown else {
        let names: Vec<&str> = shown.iter().map(|table| tables[*table].table.as_str()).collect();
        return Err(Error::invalid(
            "the pipeline writes several tables, so a condition needs to know of which one its columns are",
        )
        .help(format!("--table is one of {}", names.join(", "))));
    };
    let condition = sql::condition(Text { name: "--until", sql: text }, &tables[table].schema, connectors)?;
    Ok(Until::Row(table, condition))
}

/// True if a row of `table` satisfies `condition`.
fn satisfied(told: &Told, table: usize, schema: &SchemaRef, condition: &Expr) -> Result<bool> {
    for (_, rows) in told.rows.iter().filter(|(of, _)| *of == table) {
        let columns = rows.columns()[..schema.fields().len()].to_vec();
        let rows = batch_of(Arc::clone(schema), columns, rows.num_rows())?;
        if condition.filter(&rows)?.num_rows() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn print(printers: &mut BTreeMap<usize, Printer>, told: Told) -> Result<()> {
    let epoch = told.epoch;
    for (table, rows) in told.rows {
        if let Some(printer) = printers.get_mut(&table) {
            printer.write(epoch, &rows)?;
        }
    }
    for printer in printers.values_mut() {
        while !printer.shard.flush()? {
            std::thread::sleep(NAP);
        }
    }
    Ok(())
}

/// Shows the rows of one table, each behind its epoch and, where there are several, the table's name.
struct Printer {
    schema: SchemaRef,
    table: Option<String>,
    shard: Box<dyn Shard>,
}

impl Printer {
    fn new(table: &Written, several: bool, format: Option<Format>, context: &Context) -> Result<Self> {
        let free = |name: &str| match table.schema.index_of(name) {
            Ok(_) => format!("__{name}"),
            Err(_) => name.to_owned(),
        };
        let mut fields = vec![Arc::new(Field::new(free("epoch"), DataType::Int64, false))];
        fields.extend(several.then(|| Arc::new(Field::new(free("table"), DataType::Utf8, false))));
        let added = fields.len();
        fields.extend(table.schema.fields().iter().cloned());
        let given = format.map(|format| {
            let name = match format {
                Format::Table => "table",
                Format::Json => "json",
                Format::Changelog => "changelog",
            };
            (FORMAT.name.to_owned(), name.into())
        });
        let printed = connector::Table {
            name: table.table.clone(),
            schema: Arc::new(Schema::new(fields.clone())),
            metadata: BTreeMap::new(),
            primary_key: table.key.iter().map(|column| column + added).collect(),
            key_trusted: true,
            options: Options::new(given),
        };
        let input = SinkInput { schema: Arc::clone(&printed.schema), updating: table.updating };
        let shard = PrintSink::new(&printed, &input)?.open(0, 1, context)?;
        fields.extend(table.updating.then(|| Arc::new(Field::new(WEIGHT, DataType::Int64, false))));
        let schema = Arc::new(Schema::new(fields));
        Ok(Printer { schema, table: several.then(|| table.table.clone()), shard })
    }

    fn write(&mut self, epoch: Epoch, rows: &Batch) -> Result<()> {
        let count = rows.num_rows();
        let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![epoch; count]))];
        if let Some(table) = &self.table {
            columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(table, count))));
        }
        columns.extend(rows.columns().iter().cloned());
        self.shard.write(batch_of(Arc::clone(&self.schema), columns, count)?)
    }
}

/// True if the output's reader has gone: it has seen enough.
fn closed_by_reader(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
