//! What operators remember, as rows: a state is the sum of its deltas.
//!
//! A [`Delta`] is what an operator has learnt since it gave the one before, or since it began. All deltas in order, given to an
//! operator without state, make the same operator again; so do those rows of them whose key groups a worker owns, for that
//! worker's share. No table says which worker wrote it.

use crate::batch::keys::{KEY_GROUPS, hash_keys};
use crate::batch::{Batch, batch_of, from_arrow, take_rows};
use crate::error::{Error, Result};
use crate::time::Micros;
use arrow::array::ArrayRef;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use std::ops::Range;
use std::sync::Arc;

/// Rows of one kind. What they mean to the operator, an insertion or a removal, is in the name.
#[derive(Debug, Clone)]
pub struct Table {
    /// Which of the operator's kinds of rows: letters, digits and `_`, the same in every version that can read it.
    pub name: String,
    /// The rows.
    pub rows: Batch,
    /// The columns by which a row finds its worker, in the order in which the edge into the step routes by them. Without any all rows are of key group 0.
    pub keys: Vec<usize>,
    /// From when on the rows say nothing any more: once the watermark of their step has come so far. None if they always do.
    pub until: Option<Micros>,
}

/// What an operator has learnt in a stretch of epochs. The order of its tables is the order in which they are taken back.
pub type Delta = Vec<Table>;

impl Table {
    /// A table of `rows` that find their worker by the columns `keys`.
    pub fn new(name: &str, rows: Batch, keys: Vec<usize>) -> Self {
        Table { name: name.to_owned(), rows, keys, until: None }
    }

    /// The table of the rows of `batches`, which have the columns of `schema`. None if there are no rows: such a table says nothing.
    pub fn of_batches(name: &str, schema: &SchemaRef, batches: &[Batch], keys: Vec<usize>) -> Result<Option<Self>> {
        if batches.iter().all(|batch| batch.num_rows() == 0) {
            return Ok(None);
        }
        let rows = concat_batches(schema, batches).map_err(from_arrow)?;
        Ok(Some(Table::new(name, rows, keys)))
    }

    /// The rows, if this is the table `name` with the columns of `schema`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) if it is not: another definition, or another version, has written it.
    pub fn into_rows(self, name: &str, schema: &SchemaRef) -> Result<Batch> {
        let types = |schema: &SchemaRef| schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
        if self.name != name || types(&self.rows.schema()) != types(schema) {
            let advice = "restore it with the definition and the version of Highwater that wrote it";
            let found = format!("table \"{}\" with columns {:?}", self.name, types(&self.rows.schema()));
            let wanted = format!("table \"{name}\" with columns {:?}", types(schema));
            return Err(Error::invalid(format!("the saved state has {found}, not {wanted}")).help(advice));
        }
        let rows = self.rows.num_rows();
        batch_of(Arc::clone(schema), self.rows.columns().to_vec(), rows)
    }

    /// The rows whose key groups lie in `groups`, in order.
    pub fn share(&self, groups: &Range<usize>) -> Result<Table> {
        if *groups == (0..KEY_GROUPS) {
            return Ok(self.clone());
        }
        if let Some(wrong) = self.keys.iter().find(|key| **key >= self.rows.num_columns()) {
            return Err(Error::internal(format!("table \"{}\" has no key column {wrong}", self.name)));
        }
        let keys: Vec<ArrayRef> = self.keys.iter().map(|key| self.rows.column(*key).clone()).collect();
        let mut hashes = Vec::new();
        hash_keys(&keys, self.rows.num_rows(), &mut hashes)?;
        let own = |hash: &u64| groups.contains(&((hash % KEY_GROUPS as u64) as usize));
        if hashes.iter().all(own) {
            return Ok(self.clone());
        }
        let rows = (0..hashes.len() as u32).filter(|row| own(&hashes[*row as usize])).collect();
        Ok(Table { rows: take_rows(&self.rows, rows)?, ..self.clone() })
    }
}

/// The key groups that `worker` of `workers` owns.
pub fn groups_of(worker: usize, workers: usize) -> Range<usize> {
    // the least group whose owner is at least `worker`, as `batch::keys::owner` deals them
    let first = |worker: usize| (worker * KEY_GROUPS).div_ceil(workers);
    first(worker)..first(worker + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::keys::owner;
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use std::sync::Arc;

    #[test]
    fn the_groups_of_all_workers_are_all_groups_and_those_that_rows_are_sent_by() {
        for workers in [1, 2, 3, 5, 7, 64, 1000] {
            let mut next = 0;
            for worker in 0..workers {
                let groups = groups_of(worker, workers);
                assert_eq!(groups.start, next);
                next = groups.end;
                assert!(groups.clone().all(|group| owner(group as u64, workers) == worker));
            }
            assert_eq!(next, KEY_GROUPS);
        }
    }

    #[test]
    fn rows_that_another_definition_wrote_are_refused() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..3));
        let table = Table::new("rows", Batch::try_from_iter([("n", numbers)]).unwrap(), vec![0]);
        let schema = table.rows.schema();
        assert_eq!(table.clone().into_rows("rows", &schema).unwrap().num_rows(), 3);
        for (name, schema) in [("open", schema), ("rows", Arc::new(arrow::datatypes::Schema::empty()))] {
            let error = table.clone().into_rows(name, &schema).unwrap_err().to_string();
            assert!(error.contains("has table \"rows\" with columns [Int64], not table"), "{error}");
        }
    }

    #[test]
    fn every_row_is_in_the_share_of_one_worker() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let table = Table::new("rows", Batch::try_from_iter([("n", numbers)]).unwrap(), vec![0]);
        for workers in [1, 3] {
            let mut all: Vec<i64> = Vec::new();
            for worker in 0..workers {
                let share = table.share(&groups_of(worker, workers)).unwrap();
                all.extend(share.rows.column(0).as_primitive::<Int64Type>().values());
            }
            all.sort_unstable();
            assert_eq!(all, (0..1000).collect::<Vec<_>>());
        }
    }
}
