//! `FOR SYSTEM_TIME AS OF PROCTIME()` to a step that asks a table outside.

use super::join::condition;
use super::rank::place_of;
use super::temporal::{equal, named, uncast, unfiltered};
use super::{Emit, Place, Planner, Stream, assign_windows, bare, connector_name};
use crate::connector::{self, Lookup};
use crate::error::{Error, Result};
use crate::expr::from_datafusion;
use crate::plan::{Action, Input, JoinKind, LookupStep, Route};
use crate::sql::catalog::{ColumnDef, TableDef, TableRead};
use crate::sql::temporal::TemporalJoin;
use arrow::datatypes::{FieldRef, Schema};
use datafusion_expr::logical_plan::{LogicalPlan, TableScan};
use datafusion_expr::utils::conjunction;
use datafusion_expr::{Expr as Logical, ExprSchemable, TryCast};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A table that is asked.
#[derive(Clone)]
pub(super) struct Outside {
    connector: String,
    lookup: Arc<dyn Lookup>,
    /// For each column of the table: where it is in what is answered, if some query needs it.
    columns: Vec<Option<usize>>,
}

impl Planner<'_> {
    /// Notes `table`, of which `needed` columns are asked for.
    pub fn lookup_table(
        &mut self,
        table: &TableDef,
        definition: &connector::Table,
        needed: &BTreeSet<usize>,
    ) -> Result<()> {
        if table.time.is_some() {
            return Err(Error::invalid(
                "a table that is looked up has no watermark: it is what it is when it is asked",
            )
            .help("leave WATERMARK out"));
        }
        let mut physical = BTreeSet::new();
        for column in needed {
            match &table.columns[*column] {
                ColumnDef::Physical(index) => drop(physical.insert(*index)),
                ColumnDef::Computed(_) => {
                    let name = table.schema.field(*column).name();
                    return Err(Error::invalid(format!("column '{name}' is computed, in a table that is looked up"))
                        .help("compute it in the query"));
                }
            }
        }
        let physical: Vec<usize> = physical.into_iter().collect();
        let lookup = self.connectors.lookup(definition, &physical)?;
        let given = lookup.schema();
        let columns = table.schema.fields().iter().map(|field| given.index_of(field.name()).ok()).collect();
        let outside = Outside { connector: connector_name(definition).to_owned(), lookup, columns };
        self.outside.insert(table.name.clone(), outside);
        Ok(())
    }

    /// Refuses to read a table that can only be asked.
    pub(super) fn refuse_outside(&self, name: &str) -> Result<()> {
        match self.outside.get(name) {
            None => Ok(()),
            Some(Outside { connector, lookup, .. }) => {
                let given = lookup.schema();
                let keys: Vec<String> =
                    lookup.key().iter().map(|key| format!("x.{} = …", given.field(*key).name())).collect();
                Err(Error::invalid(format!("table '{name}' of connector '{connector}' can only be looked up, by key"))
                    .help(format!(
                        "write … JOIN {name} FOR SYSTEM_TIME AS OF PROCTIME() AS x ON {}",
                        keys.join(" AND ")
                    )))
            }
        }
    }

    /// The rows of the first input that meet `keep`, each with what the second one answers.
    pub(super) fn look_up(&mut self, join: &TemporalJoin, keep: Option<Logical>, last: bool) -> Result<Stream> {
        self.blame = join.condition.as_ref().and_then(place_of);
        let (right, kept) = unfiltered(&join.right).map_err(from_datafusion)?;
        let Some((scan, columns)) = scanned(&right) else {
            return Err(Error::invalid("FOR SYSTEM_TIME AS OF PROCTIME() asks a table, and this is a query")
                .help("name the table; conditions and computed columns belong into the query around it"));
        };
        let name = scan.table_name.table();
        let Some(outside) = self.outside.get(name).cloned() else {
            return Err(Error::invalid(format!(
                "table {} is read, not looked up: it has no PROCTIME()",
                named(&right)
            ))
            .help("its version at the time of a row is found by FOR SYSTEM_TIME AS OF and the row's event time"));
        };
        let mut left = self.lower(&join.left, last)?;
        if let Some(keep) = &keep {
            self.filter(&mut left, keep, join.left.schema())?;
        }
        assign_windows(self, &mut left)?;
        self.blame = join.condition.as_ref().and_then(place_of);
        if left.emit == Emit::Updating {
            let changing = self.changing(left.base);
            let changing = changing.trim_end_matches(',');
            return Err(Error::invalid(format!(
                "a lookup takes rows that stand before JOIN, not {changing}: an answer could not be taken back"
            ))
            .help("look up before the rows are aggregated, or count in windows"));
        }
        left.compact();
        let given = outside.lookup.schema();
        let mut answers = Stream::of_step(left.base, Arc::clone(&given), Emit::Append);
        let known = |column: &usize| {
            let place = outside.columns[*column].map(Place::Row);
            place.ok_or_else(|| Error::internal(format!("column {column} of {name} is not asked for")))
        };
        answers.columns = columns.iter().map(known).collect::<Result<_>>()?;

        let (mut pairs, mut rest) = equal(join);
        let mut values = Vec::new();
        for &key in outside.lookup.key() {
            let asks = |expr: &Logical| {
                let column = bare(uncast(expr)).and_then(|column| right.schema().maybe_index_of_column(column));
                column.is_some_and(|column| answers.columns[column] == Place::Row(key))
            };
            let Some(at) = pairs.iter().position(|([_, expr], _)| asks(expr)) else {
                let key = given.field(key).name();
                return Err(Error::invalid(format!(
                    "the condition leaves '{key}' open, by which '{name}' is looked up"
                ))
                .help(format!("write ON … = {key}; other conditions may follow")));
            };
            let ([value, _], _) = pairs.remove(at);
            let wanted = given.field(key).data_type();
            let own = value.get_type(join.left.schema()).map_err(from_datafusion)?;
            // what does not fit is no key
            values.push(if own == *wanted {
                value
            } else {
                Logical::TryCast(TryCast::new(Box::new(value), wanted.clone()))
            });
        }
        rest.extend(pairs.into_iter().map(|(_, part)| part));
        rest.extend(kept);
        let keys = left.with_values(&values.iter().collect::<Vec<_>>(), join.left.schema())?;
        let streams = [left, answers];
        let plans: [&LogicalPlan; 2] = [&join.left, &right];
        let condition = conjunction(rest).map(|rest| condition(&rest, &streams, &plans)).transpose()?;
        let [mut left, answers] = streams;
        let place = left.place;
        let mut output = [left.row_places(), answers.row_places()];
        output[1].truncate(join.right.schema().fields().len());
        output[0].extend(place);
        let place = place.map(|_| output[0].len() - 1);
        self.materialise(&mut left)?;

        let mut fields: Vec<FieldRef> = output[0].iter().map(|row| Arc::clone(&left.rows.fields()[*row])).collect();
        let mut roles: Vec<_> = output[0].iter().map(|row| left.roles[*row]).collect();
        for &row in &output[1] {
            let field = given.field(row).clone();
            let nullable = field.is_nullable() || join.outer;
            fields.push(Arc::new(field.with_nullable(nullable)));
            roles.push(super::Role::None);
        }
        let by: Vec<&str> = keys.iter().map(|key| left.rows.field(*key).name().as_str()).collect();
        let called = format!("look up {name} by {}", by.join(", "));
        let kind = if join.outer { JoinKind::Left } else { JoinKind::Inner };
        let action = Action::Lookup(LookupStep {
            table: name.to_owned(),
            connector: outside.connector,
            lookup: outside.lookup,
            kind,
            keys: keys.clone(),
            output,
            condition,
        });
        let rows = Arc::new(Schema::new(fields));
        let input = Input { from: left.base, route: Route::Key(keys) };
        let base = self.step(called, action, vec![input], Arc::clone(&rows), left.emit);
        let mut stream = Stream::of_step(base, rows, left.emit);
        stream.roles = roles;
        stream.late = std::mem::take(&mut left.late);
        stream.place = place;
        stream.columns.retain(|column| Some(*column) != place.map(Place::Row));
        self.blame = None;
        Ok(stream)
    }
}

/// The table that `plan` reads and nothing else, and the columns of it that `plan` has.
fn scanned(plan: &LogicalPlan) -> Option<(&TableScan, Vec<usize>)> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let table = scan.source.downcast_ref::<TableRead>()?;
            let all = || (0..table.0.schema.fields().len()).collect();
            Some((scan, scan.projection.clone().unwrap_or_else(all)))
        }
        LogicalPlan::SubqueryAlias(alias) => scanned(&alias.input),
        LogicalPlan::Projection(projection) => {
            let (scan, columns) = scanned(&projection.input)?;
            let input = projection.input.schema();
            let place = |expr: &Logical| Some(columns[input.maybe_index_of_column(bare(expr)?)?]);
            Some((scan, projection.expr.iter().map(place).collect::<Option<_>>()?))
        }
        _ => None,
    }
}
