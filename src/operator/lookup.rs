//! The rows of a stream, each beside its partners in a table that ends.
//!
//! The table is whole in the first epoch whose watermark, which is that of the table's sources alone, is the end. The stream's rows
//! wait until then; those of later epochs go along the table as they come. So each row meets all of the table, whichever of the two
//! was read faster. State: the rows of the table, and those that wait for it.

use super::join::{Matching, SLICES};
use super::pile::Pile;
use super::{Confluence, Output};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::plan::Joining;
use crate::state::{self, Delta};
use crate::time::{Epoch, Watermark};
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// The operator.
pub struct Lookup {
    spec: Arc<Joining>,
    /// Which input is the table.
    table: usize,
    inputs: [SchemaRef; 2],
    schema: SchemaRef,
    phase: Phase,
    /// What has come since the last delta, by input; None without deltas.
    fresh: Option<[Vec<Batch>; 2]>,
}

/// What the tables of a delta are called: the rows of the table, and those that wait for it.
const TABLE: &str = "table";
const WAITING: &str = "waiting";

enum Phase {
    /// The table is being read: its rows, and those that wait for it.
    Reading { table: Pile, waiting: Pile },
    /// The table is whole.
    Whole(Box<Matching>),
}

impl Lookup {
    /// The operator of `spec` over rows of `inputs`, of which number `table` ends; what it gives has the columns of `schema`.
    pub fn new(spec: Arc<Joining>, table: usize, inputs: [SchemaRef; 2], schema: SchemaRef) -> Self {
        let phase = Phase::Reading { table: Pile::default(), waiting: Pile::default() };
        Lookup { spec, table, inputs, schema, phase, fresh: None }
    }
}

impl Lookup {
    /// Rows of the table, and rows that wait for it, as a delta.
    fn delta_of(&self, table: &[Batch], waiting: &[Batch]) -> Result<Delta> {
        let rows = |name: &str, port: usize, batches: &[Batch]| {
            let keys = self.spec.sides[port].keys.clone();
            state::Table::of_batches(name, &self.inputs[port], batches, keys)
        };
        Ok(rows(TABLE, self.table, table)?.into_iter().chain(rows(WAITING, 1 - self.table, waiting)?).collect())
    }

    /// Nothing waits for the table any more.
    fn close(&mut self) -> Result<()> {
        let Phase::Reading { table, waiting } = &mut self.phase else { return Ok(()) };
        let (table, waiting) = (std::mem::take(table), std::mem::take(waiting));
        let mut matching = Matching::with(&self.spec, &self.inputs, &self.schema, self.table, table)?;
        matching.add(waiting.into_batches()?);
        self.phase = Phase::Whole(Box::new(matching));
        if let Some(fresh) = &mut self.fresh {
            fresh[1 - self.table].clear();
        }
        Ok(())
    }
}

impl Confluence for Lookup {
    fn on_batch(&mut self, port: usize, batch: Batch, out: &mut Output) -> Result<()> {
        if let (Some(fresh), Phase::Reading { .. }) = (&mut self.fresh, &self.phase) {
            fresh[port].push(batch.clone());
        }
        match &mut self.phase {
            Phase::Reading { table, .. } if port == self.table => table.push(batch),
            Phase::Reading { waiting, .. } => waiting.push(batch),
            Phase::Whole(_) if port == self.table => Err(Error::internal("a table has rows after its end")),
            Phase::Whole(matching) => {
                matching.add([batch]);
                // what has many partners goes on at the end of the epoch, slice by slice
                work(matching, out).map(drop)
            }
        }
    }

    fn on_epoch(&mut self, _: Epoch, mark: Watermark, _: &mut Output) -> Result<()> {
        if mark == Watermark::END { self.close() } else { Ok(()) }
    }

    fn say_more(&mut self, out: &mut Output) -> Result<bool> {
        match &mut self.phase {
            Phase::Reading { .. } => Ok(false),
            Phase::Whole(matching) => work(matching, out),
        }
    }

    fn take_late_rows(&mut self) -> u64 {
        0
    }

    fn track(&mut self) {
        self.fresh.get_or_insert_default();
    }

    fn delta(&mut self) -> Result<Delta> {
        let mut fresh = self.fresh.as_mut().map(std::mem::take).unwrap_or_default();
        let (table, waiting) = (std::mem::take(&mut fresh[self.table]), std::mem::take(&mut fresh[1 - self.table]));
        self.delta_of(&table, &waiting)
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        let Phase::Reading { table, waiting } = &mut self.phase else { return Ok(()) };
        for saved in saved {
            match saved.name.as_str() {
                TABLE => table.push(saved.into_rows(TABLE, &self.inputs[self.table])?)?,
                _ => waiting.push(saved.into_rows(WAITING, &self.inputs[1 - self.table])?)?,
            }
        }
        Ok(())
    }

    fn restored(&mut self, mark: Watermark) -> Result<()> {
        if mark != Watermark::END {
            return Ok(());
        }
        // what had waited has met the table
        if let Phase::Reading { waiting, .. } = &mut self.phase {
            *waiting = Pile::default();
        }
        self.close()
    }

    fn whole(&mut self) -> Result<Delta> {
        match &mut self.phase {
            Phase::Reading { table, waiting } => {
                let (table, waiting) = (std::mem::take(table), std::mem::take(waiting));
                self.delta_of(&table.into_batches()?, &waiting.into_batches()?)
            }
            Phase::Whole(matching) => {
                let table = matching.take_table();
                self.delta_of(&table, &[])
            }
        }
    }
}

/// Works off a few slices; true if there are more.
fn work(matching: &mut Matching, out: &mut Output) -> Result<bool> {
    for _ in 0..SLICES {
        if !matching.work(out)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{JoinKind, JoinSide, Meeting};
    use arrow::array::{Array, AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use std::fmt::Write;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]))
    }

    fn rows(values: impl IntoIterator<Item = i64>) -> Batch {
        Batch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(values))]).unwrap()
    }

    fn lookup(kind: JoinKind, table: usize) -> Lookup {
        let side = |output| JoinSide { keys: vec![0], output };
        let pairs = kind.gives_pairs();
        let sides = [side(vec![0]), side(if pairs { vec![0] } else { Vec::new() })];
        let fields = ["a", "b"].map(|name| Field::new(name, DataType::Int64, true));
        let output = Arc::new(Schema::new(fields.into_iter().take(if pairs { 2 } else { 1 }).collect::<Vec<_>>()));
        let spec = Joining { kind, meeting: Meeting::WithTable { table }, sides, condition: None, nulls_equal: false };
        Lookup::new(Arc::new(spec), table, [schema(), schema()], output)
    }

    /// What it has said, `a b` a row, sorted.
    fn said(lookup: &mut Lookup, out: &mut Output) -> String {
        while lookup.say_more(out).unwrap() {}
        let mut lines = Vec::new();
        for batch in out.drain() {
            for row in 0..batch.num_rows() {
                let mut line = String::new();
                for column in batch.columns() {
                    let column = column.as_primitive::<Int64Type>();
                    let value = if column.is_null(row) { "-".into() } else { column.value(row).to_string() };
                    write!(line, " {value}").unwrap();
                }
                lines.push(line.trim().to_owned());
            }
        }
        lines.sort();
        lines.join(", ")
    }

    #[test]
    fn rows_wait_for_the_end_of_the_table_and_then_for_nothing() {
        for (kind, table, before, after) in [
            (JoinKind::Inner, 1, "1 1, 1 1, 2 2", "1 1, 1 1"),
            (JoinKind::Left, 1, "1 1, 1 1, 2 2, 9 -", "1 1, 1 1, 8 -"),
            (JoinKind::Semi, 1, "1, 2", "1"),
            (JoinKind::Anti, 1, "9", "8"),
            (JoinKind::Right, 0, "- 9, 1 1, 1 1, 2 2", "- 8, 1 1, 1 1"),
        ] {
            let (mut lookup, mut out) = (lookup(kind, table), Output::default());
            lookup.on_batch(1 - table, rows([1, 9]), &mut out).unwrap();
            lookup.on_batch(table, rows([1, 2, 3]), &mut out).unwrap();
            lookup.on_epoch(0, Watermark::NONE, &mut out).unwrap();
            assert_eq!(said(&mut lookup, &mut out), "", "{kind:?}: the table may have more rows");
            lookup.on_batch(1 - table, rows([2]), &mut out).unwrap();
            lookup.on_batch(table, rows([1]), &mut out).unwrap();
            lookup.on_epoch(1, Watermark::END, &mut out).unwrap();
            assert_eq!(said(&mut lookup, &mut out), before, "{kind:?}");
            lookup.on_batch(1 - table, rows([8, 1]), &mut out).unwrap();
            let mut now = Output::default();
            std::mem::swap(&mut now, &mut out);
            assert_eq!(said(&mut lookup, &mut now), after, "{kind:?}: before the epoch has ended");
        }
    }

    #[test]
    fn a_row_with_many_partners_does_not_give_them_all_at_once() {
        let (mut lookup, mut out) = (lookup(JoinKind::Inner, 1), Output::default());
        lookup.on_batch(1, rows((0..1000).map(|_| 7)), &mut out).unwrap();
        lookup.on_epoch(0, Watermark::END, &mut out).unwrap();
        lookup.on_batch(0, rows((0..1000).map(|_| 7)), &mut out).unwrap();
        let mut pairs = 0;
        loop {
            let slice: usize = out.drain().map(|batch| batch.num_rows()).sum();
            assert!(slice <= SLICES * crate::batch::BATCH_ROWS, "{slice} rows at once");
            pairs += slice;
            if !lookup.say_more(&mut out).unwrap() {
                pairs += out.drain().map(|batch| batch.num_rows()).sum::<usize>();
                break;
            }
        }
        assert_eq!(pairs, 1_000_000);
    }
}
