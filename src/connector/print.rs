//! `print`: rows as text on standard output.
//!
//! `print.format` is `table` (aligned columns under one header; columns only ever get wider), `json` (an object a line) or
//! `changelog` (a change a line: `+I[a, 1]` inserted, `-U[a, 1]` and `+U[a, 2]` replaced, `-D[a, 2]` deleted), which is the
//! default of an updating query. A row that is taken back directly before one is added is replaced by it, if the table
//! declares no PRIMARY KEY or both have the same; what JSON says of a change is the weight, in `__weight`.
//!
//! A terminal can stop (Ctrl-S, a pager), so a thread writes: a flush in one piece, and the next one waits for it.

use super::{Changes, Context, OptionSpec, Options, Preset, Shard, Sink, SinkInput, Table, Takes};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::format::Encode;
use crate::format::json::{JsonEncoder, Settings};
use crate::plan::WEIGHT;
use arrow::array::{ArrayRef, AsArray, BinaryArray, DynComparator, make_comparator};
use arrow::compute::{SortOptions, concat_batches};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::cmp::Ordering;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

/// A sink that a person reads.
#[derive(Debug)]
pub struct PrintSink {
    schema: SchemaRef,
    style: Style,
    updating: bool,
    key: Vec<usize>,
}

/// How rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Table,
    Json,
    Changelog,
}

/// How rows are written.
pub const FORMAT: OptionSpec = OptionSpec::writing(
    "print.format",
    Takes::Choice(&["table", "json", "changelog"]),
    Preset::None("`changelog` for results that change, else `table`"),
    "how rows are shown: columns aligned, an object a line, or each change (`+I[…]` inserted, `-U[…]` and `+U[…]` replaced, `-D[…]` deleted)",
);

/// What this connector takes.
pub const OPTIONS: &[&OptionSpec] = &[&FORMAT];

impl PrintSink {
    /// Checks the options.
    pub fn new(table: &Table, input: &SinkInput) -> Result<Self> {
        let style = match table.options.if_given(&FORMAT, Options::choice)? {
            Some("table") => Style::Table,
            Some("json") => Style::Json,
            None if !input.updating => Style::Table,
            _ => Style::Changelog,
        };
        let sink = PrintSink {
            schema: Arc::clone(&table.schema),
            style,
            updating: input.updating,
            key: table.primary_key.clone(),
        };
        Printer::new(&sink)?;
        Ok(sink)
    }
}

impl Sink for PrintSink {
    fn single(&self) -> bool {
        true
    }

    fn open(&self, _shard: usize, _shards: usize, _context: &Context) -> Result<Box<dyn Shard>> {
        let output = Output::start(io::stdout())?;
        Ok(Box::new(PrintShard { printer: Printer::new(self)?, rows: Vec::new(), text: Vec::new(), bytes: 0, output }))
    }

    fn changes(&self) -> Changes {
        Changes::All
    }
}

/// `rows` as this connector shows them, each line with its end. `changes` have a weight as their last column, which makes them a changelog.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for a type that cannot be shown.
pub fn text_of(rows: &Batch, changes: bool, json: bool) -> Result<String> {
    let columns = rows.num_columns() - usize::from(changes);
    let fields: Vec<_> = rows.schema().fields().iter().take(columns).cloned().collect();
    let style = match (json, changes) {
        (true, _) => Style::Json,
        (false, true) => Style::Changelog,
        (false, false) => Style::Table,
    };
    // without a key that is known no row is said to replace another
    let sink =
        PrintSink { schema: Arc::new(Schema::new(fields)), style, updating: changes, key: (0..columns).collect() };
    let mut text = Vec::new();
    Printer::new(&sink)?.print(rows, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

struct PrintShard {
    printer: Printer,
    /// Written, not yet shown.
    rows: Vec<Batch>,
    /// Shown, not yet taken by the thread.
    text: Vec<u8>,
    /// Shown since someone asked.
    bytes: u64,
    output: Output,
}

impl PrintShard {
    fn show(&mut self) -> Result<()> {
        if let Some(first) = self.rows.first() {
            let rows = concat_batches(&first.schema(), &self.rows)
                .map_err(|error| Error::internal(format!("batches of one sink differ: {error}")))?;
            self.rows.clear();
            let before = self.text.len();
            self.printer.print(&rows, &mut self.text)?;
            self.bytes += (self.text.len() - before) as u64;
        }
        Ok(())
    }
}

impl Shard for PrintShard {
    fn write(&mut self, rows: Batch) -> Result<()> {
        self.rows.push(rows);
        Ok(())
    }

    fn flush(&mut self) -> Result<bool> {
        self.show()?;
        self.output.offer(&mut self.text)?;
        Ok(self.text.is_empty() && self.output.unanswered == 0)
    }

    fn finish(&mut self) -> Result<()> {
        self.show()?;
        self.output.write(std::mem::take(&mut self.text))
    }

    fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

/// The thread that writes.
struct Output {
    texts: Sender<Vec<u8>>,
    answers: Receiver<io::Result<()>>,
    unanswered: usize,
}

impl Output {
    fn start(mut target: impl Write + Send + 'static) -> Result<Output> {
        let (texts, given) = bounded::<Vec<u8>>(1);
        // One text waits, one is being written, one was written since the last offer.
        let (answer, answers) = bounded(3);
        let write = move || {
            for text in given {
                if answer.send(target.write_all(&text).and_then(|()| target.flush())).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("print".into()).spawn(write);
        thread.map_err(|error| Error::unavailable(format!("cannot start a thread to print: {error}")))?;
        Ok(Output { texts, answers, unanswered: 0 })
    }

    /// Hands `text` to the thread if it has time.
    fn offer(&mut self, text: &mut Vec<u8>) -> Result<()> {
        while let Ok(answer) = self.answers.try_recv() {
            self.answered(answer)?;
        }
        if text.is_empty() {
            return Ok(());
        }
        match self.texts.try_send(std::mem::take(text)) {
            Ok(()) => self.unanswered += 1,
            Err(TrySendError::Full(back)) => *text = back,
            Err(TrySendError::Disconnected(_)) => return Err(closed()),
        }
        Ok(())
    }

    /// Hands `text` to the thread and waits until everything is written.
    fn write(&mut self, text: Vec<u8>) -> Result<()> {
        if !text.is_empty() {
            self.texts.send(text).map_err(|_| closed())?;
            self.unanswered += 1;
        }
        while self.unanswered > 0 {
            let answer = self.answers.recv().map_err(|_| closed())?;
            self.answered(answer)?;
        }
        Ok(())
    }

    fn answered(&mut self, answer: io::Result<()>) -> Result<()> {
        self.unanswered -= 1;
        answer.map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => closed(),
            _ => Error::unavailable(format!("cannot write to standard output: {error}")).caused_by(error),
        })
    }
}

fn closed() -> Error {
    Error::unavailable("output is closed").caused_by(io::Error::from(ErrorKind::BrokenPipe))
}

/// Makes text of rows.
struct Printer {
    style: Style,
    schema: SchemaRef,
    updating: bool,
    key: Vec<usize>,
    json: Option<JsonEncoder>,
    /// Of the table's columns; empty until the header is printed.
    widths: Vec<usize>,
}

impl Printer {
    fn new(sink: &PrintSink) -> Result<Printer> {
        let json = match sink.style {
            Style::Json => {
                let mut fields = sink.schema.fields().to_vec();
                fields.extend(sink.updating.then(|| Arc::new(Field::new(WEIGHT, DataType::Int64, false))));
                Some(JsonEncoder::new(&Arc::new(Schema::new(fields)), &Settings::default())?)
            }
            Style::Table | Style::Changelog => None,
        };
        let (style, updating, key) = (sink.style, sink.updating, sink.key.clone());
        Ok(Printer { style, schema: Arc::clone(&sink.schema), updating, key, json, widths: Vec::new() })
    }

    fn print(&mut self, rows: &Batch, text: &mut Vec<u8>) -> Result<()> {
        match (&mut self.json, self.style) {
            (Some(json), _) => lines(&json.encode(rows)?, text),
            (None, Style::Changelog) => self.changelog(rows, text)?,
            (None, _) => self.table(rows, text)?,
        }
        Ok(())
    }

    fn changelog(&self, rows: &Batch, text: &mut Vec<u8>) -> Result<()> {
        let columns = self.formatters(rows)?;
        for (row, (change, times)) in self.changes(rows)?.into_iter().enumerate() {
            let cells = columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(", ");
            for _ in 0..times {
                text.extend_from_slice(format!("{change}[{cells}]\n").as_bytes());
            }
        }
        Ok(())
    }

    fn table(&mut self, rows: &Batch, text: &mut Vec<u8>) -> Result<()> {
        let changes = self.updating.then(|| self.changes(rows)).transpose()?;
        let mut headers = vec!["op".to_owned(); usize::from(self.updating)];
        headers.extend(self.schema.fields().iter().map(|field| field.name().clone()));
        let mut columns: Vec<Vec<String>> =
            changes.iter().map(|all| all.iter().map(|one| one.0.to_owned()).collect()).collect();
        for column in self.formatters(rows)? {
            columns.push((0..rows.num_rows()).map(|row| visible(column.value(row).to_string())).collect());
        }
        let first = self.widths.is_empty();
        self.widths.resize(headers.len(), 0);
        for ((width, header), cells) in self.widths.iter_mut().zip(&headers).zip(&columns) {
            let widest = cells.iter().chain([header]).map(|cell| cell.chars().count()).max().unwrap_or(0);
            *width = widest.max(*width);
        }
        let mut right = vec![false; usize::from(self.updating)];
        right.extend(self.schema.fields().iter().map(|field| field.data_type().is_numeric()));
        let line = |cells: Vec<&str>| {
            let pad = |((cell, width), right): ((&&str, &usize), &bool)| match right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            };
            let cells: Vec<String> = cells.iter().zip(&self.widths).zip(&right).map(pad).collect();
            format!("{}\n", cells.join(" | ").trim_end())
        };
        if first {
            let rule: Vec<String> = self.widths.iter().map(|width| "-".repeat(*width)).collect();
            text.extend_from_slice(line(headers.iter().map(String::as_str).collect()).as_bytes());
            text.extend_from_slice(format!("{}\n", rule.join("-+-")).as_bytes());
        }
        for row in 0..rows.num_rows() {
            let times = changes.as_ref().map_or(1, |changes| changes[row].1);
            let shown = line(columns.iter().map(|cells| cells[row].as_str()).collect());
            text.extend(shown.as_bytes().repeat(times));
        }
        Ok(())
    }

    fn formatters<'a>(&self, rows: &'a Batch) -> Result<Vec<ArrayFormatter<'a>>> {
        const OPTIONS: FormatOptions<'static> = FormatOptions::new()
            .with_null("NULL")
            .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
            .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f%:z"));
        let columns = &rows.columns()[..self.schema.fields().len()];
        let formatters = columns.iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &OPTIONS));
        formatters.collect::<Result<_, _>>().map_err(|error| Error::invalid(format!("cannot print a column: {error}")))
    }

    /// What happens to each row, and how many times.
    fn changes(&self, rows: &Batch) -> Result<Vec<(&'static str, usize)>> {
        if !self.updating {
            return Ok(vec![("+I", 1); rows.num_rows()]);
        }
        let weights = rows.columns().last().and_then(|column| column.as_primitive_opt::<Int64Type>());
        let weights = weights.ok_or_else(|| Error::internal("an updating batch has no weight"))?.values();
        let same_key = self.key_comparators(rows)?;
        let replaces = |row: usize| {
            row > 0
                && weights.get(row).is_some_and(|weight| *weight == 1)
                && weights[row - 1] == -1
                && same_key.iter().all(|compare| compare(row - 1, row) == Ordering::Equal)
        };
        let change = |(row, weight): (usize, &i64)| {
            let name = match (*weight > 0, replaces(row), replaces(row + 1)) {
                (true, true, _) => "+U",
                (true, false, _) => "+I",
                (false, _, true) => "-U",
                (false, _, false) => "-D",
            };
            (name, usize::try_from(weight.unsigned_abs()).unwrap_or(usize::MAX))
        };
        Ok(weights.iter().enumerate().map(change).collect())
    }

    fn key_comparators(&self, rows: &Batch) -> Result<Vec<DynComparator>> {
        let compare = |column: &usize| {
            let column: &ArrayRef = rows.column(*column);
            make_comparator(column.as_ref(), column.as_ref(), SortOptions::default())
        };
        let comparators: Result<_, _> = self.key.iter().map(compare).collect();
        comparators.map_err(|error| Error::invalid(format!("cannot compare a key: {error}")))
    }
}

/// A cell that stays on its line.
fn visible(cell: String) -> String {
    match cell.contains(char::is_control) {
        true => {
            cell.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
        }
        false => cell,
    }
}

fn lines(records: &BinaryArray, text: &mut Vec<u8>) {
    for record in records.iter().flatten() {
        text.extend_from_slice(record);
        text.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};

    fn check(style: Style, updating: bool, key: &[usize], flushes: &[&[(&str, i64, i64)]], expected: &str) {
        let fields = [Field::new("word", DataType::Utf8, true), Field::new("n", DataType::Int64, false)];
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let mut printer = Printer::new(&PrintSink { schema, style, updating, key: key.to_vec() }).unwrap();
        let mut text = Vec::new();
        for rows in flushes {
            let words: ArrayRef =
                Arc::new(rows.iter().map(|row| Some(row.0).filter(|word| !word.is_empty())).collect::<StringArray>());
            let numbers: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
            let weights: ArrayRef = Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>());
            let mut columns = vec![("a", words, true), ("b", numbers, false)];
            columns.extend(updating.then_some(("__weight", weights, false)));
            printer.print(&Batch::try_from_iter_with_nullable(columns).unwrap(), &mut text).unwrap();
        }
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn a_table_has_one_header_and_columns_that_only_get_wider() {
        let flushes: [&[_]; 3] =
            [&[("to", 1, 1), ("", 20, 1)], &[("a\nb", 3, 1)], &[("longer", 1000, 1), ("be", 1, 1)]];
        let expected = "word |  n\n-----+---\nto   |  1\nNULL | 20\na\\nb |  3\nlonger | 1000\nbe     |    1\n";
        check(Style::Table, false, &[], &flushes, expected);
        check(Style::Table, true, &[], &[&[("to", 1, -1)]], "op | word | n\n---+------+--\n-D | to   | 1\n");
    }

    #[test]
    fn a_changelog_says_what_happened_to_each_row() {
        check(Style::Changelog, false, &[], &[&[("to", 1, 1), ("", 2, 1)]], "+I[to, 1]\n+I[NULL, 2]\n");
        let changes: [&[_]; 1] = [&[("to", 1, -1), ("to", 2, 1), ("be", 1, 1), ("be", 1, -1), ("or", 1, 2)]];
        let expected = "-U[to, 1]\n+U[to, 2]\n+I[be, 1]\n-D[be, 1]\n+I[or, 1]\n+I[or, 1]\n";
        check(Style::Changelog, true, &[], &changes, expected);
        // with a key, neighbours that differ in it are two changes
        check(Style::Changelog, true, &[0], &[&[("to", 1, -1), ("be", 1, 1)]], "-D[to, 1]\n+I[be, 1]\n");
        check(Style::Changelog, true, &[0], &[&[("to", 1, -1), ("to", 2, 1)]], "-U[to, 1]\n+U[to, 2]\n");
    }

    #[test]
    fn json_has_the_weight_of_a_change() {
        check(
            Style::Json,
            false,
            &[],
            &[&[("to", 1, 1), ("", 2, 1)]],
            "{\"word\":\"to\",\"n\":1}\n{\"word\":null,\"n\":2}\n",
        );
        check(Style::Json, true, &[], &[&[("to", 1, -1)]], "{\"word\":\"to\",\"n\":1,\"__weight\":-1}\n");
    }

    #[test]
    fn a_closed_output_is_an_error_of_its_own() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = Output::start(Closed).unwrap().write(b"to be".to_vec()).unwrap_err();
        assert_eq!(error.to_string(), "output is closed");
    }
}
