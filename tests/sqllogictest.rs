//! The SQL reference as sqllogictest files, tests/slt: what docs/sql.md says of SQL, on rows that end.
//!
//! `CREATE TABLE` makes a table in memory, `INSERT INTO … VALUES` adds rows to it, and a query is a pipeline over all rows so far,
//! whose changes are summed up. Each query is run twice, on one worker in one epoch and on several in many, and must say the same.

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use highwater::batch::Batch;
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::{MemorySink, MemorySource};
use highwater::connector::{ConnectorSpec, Connectors, Sink, SinkInput, Source, Table};
use highwater::error::{Error, Result};
use highwater::runtime::{self, Workers, replay};
use highwater::sql::{self, Text};
use highwater::time::SystemClock;
use sqllogictest::{DB, DBOutput, DefaultColumnType, Runner};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What was declared and inserted.
#[derive(Default)]
struct Database {
    definition: String,
    rows: BTreeMap<String, Vec<Batch>>,
}

/// Tables that hold what was inserted; whatever is written goes to one sink.
struct Memory<'a> {
    builtin: Builtin,
    rows: &'a BTreeMap<String, Vec<Batch>>,
    sink: MemorySink,
}

impl Connectors for Memory<'_> {
    fn specs(&self) -> &[ConnectorSpec] {
        self.builtin.specs()
    }

    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
        let schema = Arc::new(table.schema.project(columns).expect("the columns are the table's"));
        let batches = self.rows.get(&table.name).into_iter().flatten();
        let batches = batches.map(|batch| batch.project(columns).expect("the columns are the table's")).collect();
        Ok(Arc::new(MemorySource::new(schema, batches, 1)))
    }

    fn sink(&self, _: &Table, _: &SinkInput) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(self.sink.clone()))
    }
}

impl Database {
    /// The columns and the rows that `statement` writes, as text and sorted; and the batches as they came.
    fn write(&self, statement: &str, workers: usize, tick: &str) -> Result<(Schema, Vec<Vec<String>>, Vec<Batch>)> {
        let sink = MemorySink::new();
        let memory = Memory { builtin: Builtin::default(), rows: &self.rows, sink: sink.clone() };
        let sql = format!("{}{statement};", self.definition);
        let settings = [("tick".to_owned(), tick.to_owned())];
        let plan = sql::plan(Text { name: "slt", sql: &sql }, &settings, &memory)?;
        let written = replay::written(&plan).remove(0);
        runtime::start(plan, Workers::Threads(workers), None, Arc::new(SystemClock::default()))?.wait().1?;
        let batches = sink.batches();
        let width = written.schema.fields().len();
        let mut sums: BTreeMap<Vec<String>, i64> = BTreeMap::new();
        for batch in &batches {
            let weights = written.updating.then(|| batch.column(width).as_primitive::<Int64Type>());
            for (row, cells) in texts(batch, width).into_iter().enumerate() {
                *sums.entry(cells).or_default() += weights.map_or(1, |weights| weights.value(row));
            }
        }
        let mut rows = Vec::new();
        for (row, count) in sums {
            let count =
                usize::try_from(count).map_err(|_| Error::internal(format!("{row:?} is there {count} times")))?;
            rows.extend(std::iter::repeat_n(row, count));
        }
        Ok((written.schema.as_ref().clone(), rows, batches))
    }
}

fn texts(batch: &Batch, width: usize) -> Vec<Vec<String>> {
    let options = FormatOptions::new().with_null("NULL").with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"));
    let columns: Vec<ArrayFormatter> = batch.columns()[..width]
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("it can be shown"))
        .collect();
    let cell = |column: &ArrayFormatter, row: usize| match column.value(row).to_string() {
        empty if empty.is_empty() => "(empty)".to_owned(),
        text => text,
    };
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| cell(column, row)).collect()).collect()
}

fn column_type(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DefaultColumnType::Text,
        data_type if data_type.is_integer() => DefaultColumnType::Integer,
        data_type if data_type.is_numeric() => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Any,
    }
}

impl DB for Database {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, statement: &str) -> Result<DBOutput<DefaultColumnType>> {
        let statement = statement.trim().trim_end_matches(';');
        let mut words = statement.split_whitespace().map(str::to_uppercase);
        match (words.next().as_deref(), words.next().as_deref()) {
            (Some("CREATE" | "SET"), second) => {
                let table = second == Some("TABLE") && !statement.contains(" WITH (");
                let with = if table { " WITH ('connector' = 'memory')" } else { "" };
                let definition = format!("{}{statement}{with};\n", self.definition);
                sql::script(Text { name: "slt", sql: &definition }, &[], &self.memory())?;
                self.definition = definition;
                Ok(DBOutput::StatementComplete(0))
            }
            (Some("INSERT"), _) => {
                let name = statement.split_whitespace().nth(2).unwrap_or_default();
                let name = name.split('(').next().unwrap_or_default().to_lowercase();
                let (.., batches) = self.write(statement, 1, "1000 rows")?;
                let rows = batches.iter().map(Batch::num_rows).sum::<usize>() as u64;
                self.rows.entry(name).or_default().extend(batches);
                Ok(DBOutput::StatementComplete(rows))
            }
            _ => {
                let (schema, rows, _) = self.write(statement, 1, "1000 rows")?;
                let (_, others, _) = self.write(statement, 3, "2 rows")?;
                if rows != others {
                    let differ = format!("on 1 worker in one epoch {rows:?}, on 3 workers in many {others:?}");
                    return Err(Error::internal(differ));
                }
                let types = schema.fields().iter().map(|field| column_type(field.data_type())).collect();
                Ok(DBOutput::Rows { types, rows })
            }
        }
    }

    fn engine_name(&self) -> &str {
        "highwater"
    }
}

impl Database {
    fn memory(&self) -> Memory<'_> {
        Memory { builtin: Builtin::default(), rows: &self.rows, sink: MemorySink::new() }
    }
}

#[test]
fn the_reference_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder is in the repository")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    files.sort();
    let mut wrong = Vec::new();
    for file in files {
        let mut runner = Runner::new(|| async { Ok(Database::default()) });
        runner.with_column_validator(sqllogictest::strict_column_validator);
        if let Err(error) = runner.run_file(&file) {
            wrong.push(error.to_string());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
