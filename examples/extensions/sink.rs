//! A sink: tables with `'connector' = 'log'` are lines on standard output, after what `'prefix'` says.

use arrow::util::display::{ArrayFormatter, FormatOptions};
use highwater::batch::{Batch, from_arrow};
use highwater::connector::{
    Changes, Connector, ConnectorSpec, Context, OptionSpec, Preset, Shard, Sink, SinkInput, Table, Takes,
};
use highwater::error::{Error, Result};
use std::io::Write;
use std::sync::Arc;

const PREFIX: OptionSpec = OptionSpec::writing("prefix", Takes::Text, Preset::Is(""), "what each line starts with");

pub struct Log;

impl Connector for Log {
    fn spec(&self) -> ConnectorSpec {
        ConnectorSpec { writes: true, options: &[&PREFIX], ..ConnectorSpec::new("log", "Lines on standard output") }
    }

    fn sink(&self, table: &Table, _input: &SinkInput) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(Lines { prefix: table.options.text(&PREFIX).unwrap_or_default().to_owned() }))
    }
}

/// A table that is written: the same in every process.
struct Lines {
    prefix: String,
}

impl Sink for Lines {
    /// There is one standard output, so one worker writes everything.
    fn single(&self) -> bool {
        true
    }

    fn open(&self, _shard: usize, _shards: usize, _context: &Context) -> Result<Box<dyn Shard>> {
        Ok(Box::new(Writer { prefix: self.prefix.clone(), lines: Vec::new() }))
    }

    /// What is printed cannot be taken back.
    fn changes(&self) -> Changes {
        Changes::AppendOnly
    }
}

struct Writer {
    prefix: String,
    /// What is not yet written.
    lines: Vec<u8>,
}

impl Shard for Writer {
    fn write(&mut self, rows: Batch) -> Result<()> {
        let options = FormatOptions::new().with_null("-");
        let columns = rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(from_arrow)?;
        for row in 0..rows.num_rows() {
            self.lines.extend(self.prefix.bytes());
            let cells: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            self.lines.extend(format!("{}\n", cells.join(" ")).bytes());
        }
        Ok(())
    }

    /// Called when an epoch is complete: true says that everything is out.
    fn flush(&mut self) -> Result<bool> {
        let written = std::io::stdout().lock().write_all(&std::mem::take(&mut self.lines));
        written.map_err(|error| Error::unavailable("standard output cannot be written").caused_by(error))?;
        Ok(true)
    }
}
