//! Steps over collections: what queries make of rows that may be taken back.
//!
//! Rows enter collections through a step that keeps them, one for each step that they come from. Aggregates that can be worked out from
//! weights alone, counts and sums of whole numbers, need no collection: they stay ordinary aggregates, over what weights make of their
//! arguments.

use super::{Place, Planner, ProjectBuilder, Role, Stay, Stream, aggregate_name, called, compile, compile_call};
use crate::error::{Error, Result};
use crate::expr::from_datafusion;
use crate::operator::transform::with_weight;
use crate::plan::{
    Action, Aggregation, Emit, Grouping, Input, Keeping, OutputColumn, Reducing, Reduction, Route, StepId, There,
    Topping, Ttl, WEIGHT, inside, made_whole,
};
use crate::sql::hints::StateTtl;
use crate::time::Micros;
use arrow::datatypes::{DataType, FieldRef, Fields, Schema};
use datafusion_common::{Column, DFSchema, TableReference};
use datafusion_expr::expr::AggregateFunction;
use datafusion_expr::logical_plan::{Aggregate, RecursiveQuery, TableScan};
use datafusion_expr::{Expr as Logical, ExprSchemable, cast, lit, when};
use datafusion_functions_aggregate::expr_fn::sum;
use std::sync::Arc;

impl Planner<'_> {
    /// The edge by which the rows of `stream`, all of whose stages are steps, enter a step over collections that reads them by `keys`.
    /// `what` is that step, for who must be told that its state has no bound.
    pub(super) fn entering(&mut self, stream: &Stream, keys: &[usize], what: &str) -> Result<Input> {
        self.entering_for(stream, keys, what, None)
    }

    /// The same, where rows are there as `keeping` says, by a watermark that is so much behind the sources'.
    pub(super) fn entering_for(
        &mut self,
        stream: &Stream,
        keys: &[usize],
        what: &str,
        keeping: Option<(Keeping, Micros)>,
    ) -> Result<Input> {
        let route = if keys.is_empty() { Route::Single } else { Route::Key(keys.to_vec()) };
        if keeping.is_none() && made_whole(&self.steps, stream.base) {
            return Ok(Input { from: stream.base, route });
        }
        let from = self.keeper(stream, route.clone(), what, keeping)?;
        // they may have been sent there already
        let route = if self.steps[from].inputs[0].route == route { Route::Forward } else { route };
        Ok(Input { from, route })
    }

    /// `WITH RECURSIVE`: what it begins with, and what it makes of the rows of each round.
    pub(super) fn recurse(&mut self, query: &RecursiveQuery, last: bool) -> Result<Stream> {
        let fields = query.schema.fields().clone();
        let mut seed = self.lower(&query.static_term, last)?;
        self.exactly(&mut seed, &fields)?;
        self.materialise(&mut seed)?;
        let all: Vec<usize> = (0..fields.len()).collect();
        let from = self.entering(&seed, &all, "WITH RECURSIVE")?.from;
        // a later round may find NULL where the first one has none
        let rows = Arc::new(Schema::new(
            fields
                .iter()
                .zip(self.steps[from].schema.fields())
                .map(|(field, there)| {
                    Arc::new(field.as_ref().clone().with_nullable(field.is_nullable() || there.is_nullable()))
                })
                .collect::<Fields>(),
        ));
        let begin = Input { from, route: Route::Forward };
        let round = self.step(
            format!("round of {}", query.name),
            Action::Round,
            vec![begin.clone()],
            Arc::clone(&rows),
            Emit::Updating,
        );
        let mut of_round = Stream::of_step(round, Arc::clone(&rows), Emit::Updating);
        of_round.own = false;
        self.rounds.push((query.name.clone(), of_round));
        // what is inside is not what is equal to it outside, or in another recursion
        let outside = std::mem::take(&mut self.lowered);
        let body = self.lower(&query.recursive_term, last);
        self.lowered = outside;
        self.rounds.pop();
        let mut body = body?;
        self.exactly(&mut body, rows.fields())?;
        self.materialise(&mut body)?;
        if !inside(&self.steps, body.base) {
            return Err(Error::invalid(format!(
                "the second query of '{}' does not read it, so it is no recursion",
                query.name
            ))
            .help("leave RECURSIVE out, or read it in the second query"));
        }
        if let Some(step) = self.outsider(body.base) {
            return Err(Error::invalid(format!("step \"{}\" cannot be part of a recursion", self.steps[step].name))
                .help("filters, projections, joins without windows, UNION and aggregates can"));
        }
        let again = Input { from: body.base, route: Route::Forward };
        let action = Action::Recurse { round, distinct: query.is_distinct };
        let name = format!("recursion {}", query.name);
        let base = self.step(name, action, vec![begin, again], Arc::clone(&rows), Emit::Updating);
        Ok(Stream::of_step(base, rows, Emit::Updating))
    }

    /// A step inside that a recursion cannot have.
    fn outsider(&self, id: StepId) -> Option<StepId> {
        if !inside(&self.steps, id) {
            return None;
        }
        let step = &self.steps[id];
        match &step.action {
            Action::Round => None,
            Action::Transform(_) | Action::Union | Action::Join(_) | Action::Reduce(_) => {
                step.inputs.iter().find_map(|input| self.outsider(input.from))
            }
            _ => Some(id),
        }
    }

    /// The rows of the round before.
    pub(super) fn scan_round(&mut self, name: &str, scan: &TableScan) -> Result<Stream> {
        let round = self.rounds.iter().rev().find(|(of, _)| of == name);
        let mut stream = round.ok_or_else(|| Error::internal(format!("no recursion {name}")))?.1.clone();
        if let Some(columns) = &scan.projection {
            stream.columns = columns.iter().map(|column| stream.columns[*column]).collect();
        }
        for filter in &scan.filters {
            self.filter(&mut stream, filter, &scan.projected_schema)?;
        }
        Ok(stream)
    }

    /// The step that keeps the rows of `stream`.
    pub(super) fn keeper(
        &mut self,
        stream: &Stream,
        route: Route,
        what: &str,
        keeping: Option<(Keeping, Micros)>,
    ) -> Result<StepId> {
        let (keeping, behind) = match keeping {
            Some(keeping) => keeping,
            None => (Keeping { ttl: Self::ttl(stream), ..Keeping::default() }, self.behind(stream.base)),
        };
        let known = (stream.base, keeping, behind);
        if let Some(keeper) = self.keepers.get(&known) {
            return Ok(*keeper);
        }
        let keeping = known.1.clone();
        let endless = crate::plan::grows(&self.steps, stream.base).filter(|_| keeping.ttl.is_none());
        if let Some(source) = endless.filter(|_| !self.settings.unbounded_state) {
            let table = match &self.steps[source].action {
                Action::Source(source) => format!(" of table '{}', which does not end", source.table),
                _ => String::new(),
            };
            return Err(Error::invalid(format!("{what} has to keep all rows{table}")).help(
                "give the query windows, as in JOIN … ON a.window_start = b.window_start AND a.window_end = b.window_end AND …; or SET 'state_ttl' \
                 to how long rows count, by event time; or allow it: SET 'unbounded_state' = 'true'",
            ));
        }
        let emit = if keeping.ttl.is_some() { Emit::Updating } else { stream.emit };
        let verb = if keeping.there == There::Last { "wait with" } else { "keep" };
        let name = format!("{verb} {}", self.steps[stream.base].name);
        let input = Input { from: stream.base, route };
        let keeper = self.step(name, Action::Keep(keeping), vec![input], Arc::clone(&stream.rows), emit);
        self.steps[keeper].lateness = behind;
        self.keepers.insert(known, keeper);
        Ok(keeper)
    }

    /// How long rows of `stream` stay in collections.
    pub(super) fn ttl(stream: &Stream) -> Option<Ttl> {
        let Some(Stay::For(keep)) = stream.stay else { return None };
        stream.mortal().map(|time| Ttl { time, keep, admit: keep })
    }

    /// The rows of a relation of which a hint says how long they stay.
    pub(super) fn hinted(&mut self, hint: &StateTtl, last: bool) -> Result<Stream> {
        let mut stream = self.lower(&hint.input, last)?;
        if matches!(hint.stay, Stay::For(_)) && !stream.roles.contains(&Role::Time) {
            return Err(Error::invalid("the hint STATE_TTL goes by event time, and what it names has none")
                .help("declare a WATERMARK in CREATE TABLE, and have the query select its column"));
        }
        stream.stay = Some(hint.stay);
        Ok(stream)
    }

    /// Sends the rows of those of `streams` that no collection has made through one, if another one is part of a recursion: all that is
    /// read there is.
    pub(super) fn keep_beside(&mut self, streams: &mut [Stream]) -> Result<()> {
        if !streams.iter().any(|stream| inside(&self.steps, stream.base)) {
            return Ok(());
        }
        for stream in streams {
            if !made_whole(&self.steps, stream.base) {
                let all = Route::Key((0..stream.rows.fields().len()).collect());
                stream.base = self.keeper(stream, all, "a UNION in a recursion", None)?;
                stream.emit = self.steps[stream.base].emit;
                stream.own = false;
            }
        }
        Ok(())
    }

    /// Adds a step that makes `what` of all rows of each key. Its rows have the columns of `schema`.
    pub(super) fn reduce(
        &mut self,
        stream: &Stream,
        reducing: Reducing,
        name: String,
        what: &str,
        schema: &Arc<Schema>,
    ) -> Result<Stream> {
        let (input, action) = match self.topping(stream, &reducing)? {
            Some(top) => {
                let route = if top.keys.is_empty() { Route::Single } else { Route::Key(top.keys.clone()) };
                (Input { from: stream.base, route }, Action::Top(Arc::new(top)))
            }
            None => (self.entering(stream, &reducing.keys, what)?, Action::Reduce(Arc::new(reducing))),
        };
        let base = self.step(name, action, vec![input], Arc::clone(schema), Emit::Updating);
        Ok(Stream::of_step(base, Arc::clone(schema), Emit::Updating))
    }

    /// `reducing` as what keeps no more than the first rows of each key: where rows are never taken back, others are not needed again.
    fn topping(&self, stream: &Stream, reducing: &Reducing) -> Result<Option<Topping>> {
        let Reduction::First { order, skip, limit: Some(limit), numbered } = &reducing.what else { return Ok(None) };
        let stand =
            stream.emit != Emit::Updating && Planner::ttl(stream).is_none() && !inside(&self.steps, stream.base);
        let topping = || Topping {
            keys: reducing.keys.clone(),
            order: order.clone(),
            skip: *skip,
            limit: *limit,
            numbered: *numbered,
        };
        Ok(stand.then(topping))
    }

    /// An aggregate over rows that may be taken back.
    pub(super) fn updating_aggregate(&mut self, mut stream: Stream, aggregate: &Aggregate) -> Result<Stream> {
        let schema = aggregate.input.schema();
        if let Some(split) = self.over_distinct(&mut stream, aggregate)? {
            return Ok(split);
        }
        if let Some(split) = self.over_extremes(&mut stream, aggregate)? {
            return Ok(split);
        }
        let linear = aggregate.aggr_expr.iter().map(|call| Linear::of(call, schema));
        match linear.collect::<Result<Option<Vec<_>>>>()? {
            Some(linear) if !inside(&self.steps, stream.base) => self.linear_aggregate(stream, aggregate, linear),
            _ => self.group_aggregate(stream, aggregate),
        }
    }

    /// One whose calls are sums of what weights make of their arguments.
    fn linear_aggregate(&mut self, mut stream: Stream, aggregate: &Aggregate, linear: Vec<Linear>) -> Result<Stream> {
        let schema = aggregate.input.schema();
        let bound = stream.bind(schema)?;
        let rows = with_weight(&stream.rows);
        let weighted: Vec<(Option<TableReference>, FieldRef)> = bound
            .iter()
            .map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)))
            .chain([(None, Arc::clone(&rows.fields()[stream.rows.fields().len()]))])
            .collect();
        let weighted = DFSchema::new_with_metadata(weighted, bound.metadata().clone()).map_err(from_datafusion)?;
        let mut keys = Vec::new();
        for (expr, (_, field)) in aggregate.group_expr.iter().zip(aggregate.schema.iter()) {
            let value = compile(expr, &bound, &stream.rows)?;
            let field = called(&value, field);
            keys.push((value, field));
        }
        let mut sums = Sums { exprs: vec![sum(weight())], labels: vec!["rows".into()] };
        let text = |expr: &Logical| compile(expr, &bound, &stream.rows).map(|expr| expr.to_string());
        let mut results = Vec::new();
        for (call, (_, field)) in linear.iter().zip(aggregate.schema.iter().skip(keys.len())) {
            results.push(sums.result(call, field, &text)?);
        }
        let calls = sums.exprs.iter().zip(&sums.labels);
        let calls = calls.map(|(expr, label)| Ok(compile_call(expr, &weighted)?.labelled(label)));
        let calls = calls.collect::<Result<Vec<_>>>()?;
        self.materialise(&mut stream)?;
        let output: Vec<OutputColumn> =
            (0..keys.len()).map(OutputColumn::Key).chain((0..calls.len()).map(OutputColumn::Call)).collect();
        let grouping = Grouping::Updating;
        let name = aggregate_name(aggregate, &keys, &grouping);
        // without keys there is always a result
        let present = (!keys.is_empty()).then_some(0);
        let aggregation = Arc::new(Aggregation { input: rows, keys, calls: calls.into(), grouping, output, present });
        let raw: Fields = aggregation
            .keys
            .iter()
            .map(|(_, field)| Arc::clone(field))
            .chain(
                aggregation
                    .calls
                    .iter()
                    .map(|call| Arc::new(call.field().as_ref().clone().with_name(call.to_string()))),
            )
            .collect();
        let raw = Arc::new(Schema::new(raw));
        let base = self.two_halves(&name, &aggregation, stream.base, Arc::clone(&raw), Emit::Updating)?;
        let mut stream = Stream::of_step(base, Arc::clone(&raw), Emit::Updating);
        // the results, over numbered names for the columns
        let numbered = raw.fields().iter().enumerate();
        let numbered: Vec<(Option<TableReference>, FieldRef)> =
            numbered.map(|(n, field)| (None, Arc::new(field.as_ref().clone().with_name(format!("c{n}"))))).collect();
        let numbered = DFSchema::new_with_metadata(numbered, Default::default()).map_err(from_datafusion)?;
        let mut builder = ProjectBuilder::default();
        let width = aggregation.keys.len();
        for key in 0..width {
            builder.copy(&stream, key, raw.field(key).name());
        }
        for (result, (_, field)) in results.iter().zip(aggregate.schema.iter().skip(width)) {
            let value = compile(&result(width), &numbered, &raw)?;
            builder.add(value, Arc::clone(field), Role::None);
        }
        builder.apply(&mut stream);
        stream.columns = (0..stream.rows.fields().len()).map(Place::Row).collect();
        Ok(stream)
    }

    /// One that is worked out from all rows of a key.
    fn group_aggregate(&mut self, mut stream: Stream, aggregate: &Aggregate) -> Result<Stream> {
        let schema = aggregate.input.schema();
        stream.compact();
        let values: Vec<&Logical> = aggregate.group_expr.iter().collect();
        let keys = stream.with_values(&values, schema)?;
        let bound = stream.bind(schema)?;
        // binding may have moved the columns
        let keys =
            if stream.rows.fields().len() > bound.fields().len() { stream.with_values(&values, schema)? } else { keys };
        let mut calls = Vec::new();
        for expr in &aggregate.aggr_expr {
            calls.push(compile_call(&self.ordered(expr, schema)?, &bound)?);
        }
        self.materialise(&mut stream)?;
        let key = |key: &usize| {
            let field = &stream.rows.fields()[*key];
            (crate::expr::Expr::column(field.name(), *key), Arc::clone(field))
        };
        let output: Vec<OutputColumn> =
            (0..keys.len()).map(OutputColumn::Key).chain((0..calls.len()).map(OutputColumn::Call)).collect();
        let grouping = Grouping::Updating;
        let key_fields: Vec<_> = keys.iter().map(key).collect();
        let name = aggregate_name(aggregate, &key_fields, &grouping);
        let fields = key_fields.iter().map(|(_, field)| Arc::clone(field)).chain(
            calls
                .iter()
                .zip(aggregate.schema.fields().iter().skip(keys.len()))
                .map(|(call, field)| Arc::new(field.as_ref().clone().with_name(call.to_string()))),
        );
        let rows = Arc::new(Schema::new(fields.collect::<Fields>()));
        let input = Arc::clone(&stream.rows);
        let spec = Aggregation { input, keys: key_fields, calls: calls.into(), grouping, output, present: None };
        let reducing = Reducing { keys, what: Reduction::Aggregate(Arc::new(spec)) };
        self.reduce(&stream, reducing, name, "this aggregate of rows that may be taken back", &rows)
    }

    /// Both halves of an aggregate over the rows of step `from`.
    pub(super) fn two_halves(
        &mut self,
        name: &str,
        aggregation: &Arc<Aggregation>,
        from: StepId,
        rows: Arc<Schema>,
        emit: Emit,
    ) -> Result<StepId> {
        let partial = aggregation.partial_schema()?;
        let forward = Input { from, route: Route::Forward };
        let action = Action::PreAggregate(Arc::clone(aggregation));
        let first = self.step(format!("{name}, partial"), action, vec![forward], partial, Emit::Append);
        let keys = aggregation.partial_keys();
        let route = if keys.is_empty() { Route::Single } else { Route::Key(keys) };
        let input = Input { from: first, route };
        Ok(self.step(name.to_owned(), Action::Aggregate(Arc::clone(aggregation)), vec![input], rows, emit))
    }
}

fn weight() -> Logical {
    Logical::Column(Column::from_name(WEIGHT))
}

/// A call whose result follows from sums over weights.
pub(super) enum Linear {
    /// Rows for which this is true; all if there is none.
    Count(Option<Logical>),
    /// The sum of `value` over such rows; it is not NULL in them.
    Sum { value: Logical, over: Option<Logical> },
    /// Their mean.
    Mean { value: Logical, over: Option<Logical> },
}

impl Linear {
    /// What `call` is, or None.
    pub(super) fn of(call: &Logical, schema: &DFSchema) -> Result<Option<Linear>> {
        let mut call = call;
        while let Logical::Alias(alias) = call {
            call = &alias.expr;
        }
        let Logical::AggregateFunction(AggregateFunction { func, params }) = call else { return Ok(None) };
        if params.distinct || !params.order_by.is_empty() || params.null_treatment.is_some() {
            return Ok(None);
        }
        let [value] = params.args.as_slice() else { return Ok(None) };
        let filter = params.filter.as_deref().cloned();
        // what a mean is made a DOUBLE for is NULL where it was
        let value = match value {
            Logical::Cast(cast) if func.name() == "avg" && cast.expr.get_type(schema).is_ok_and(|t| t.is_integer()) => {
                &cast.expr
            }
            value => value,
        };
        let there = match value {
            Logical::Literal(literal, _) if !literal.is_null() => None,
            value if !value.nullable(schema).map_err(from_datafusion)? => None,
            value => Some(value.clone().is_not_null()),
        };
        let over = match (filter, there) {
            (Some(filter), Some(there)) => Some(filter.and(there)),
            (filter, there) => filter.or(there),
        };
        let whole = |value: &Logical| -> Result<Option<Logical>> {
            let data_type = value.get_type(schema).map_err(from_datafusion)?;
            Ok(match data_type {
                DataType::Int64 | DataType::Decimal128(..) => Some(value.clone()),
                DataType::UInt64 => Some(cast(value.clone(), DataType::Decimal128(20, 0))),
                other if other.is_integer() => Some(cast(value.clone(), DataType::Int64)),
                _ => None,
            })
        };
        Ok(match func.name() {
            "count" => Some(Linear::Count(over)),
            "sum" => whole(value)?.map(|value| Linear::Sum { value, over }),
            "avg" if value.get_type(schema).map_err(from_datafusion)?.is_integer() => {
                whole(value)?.map(|value| Linear::Mean { value, over })
            }
            _ => None,
        })
    }
}

/// The sums that are asked for, each once; the first one counts the rows.
struct Sums {
    exprs: Vec<Logical>,
    /// What a person reads for each.
    labels: Vec<String>,
}

/// What a person reads for an expression.
type Text<'a> = &'a dyn Fn(&Logical) -> Result<String>;

/// A result, given how many columns come before those of the sums.
type Outcome = Box<dyn Fn(usize) -> Logical>;

impl Sums {
    fn place(&mut self, expr: Logical, label: String) -> usize {
        self.exprs.iter().position(|other| *other == expr).unwrap_or_else(|| {
            self.exprs.push(expr);
            self.labels.push(label);
            self.exprs.len() - 1
        })
    }

    fn count(&mut self, over: &Option<Logical>, text: Text) -> Result<usize> {
        Ok(match over {
            None => 0,
            Some(over) => {
                let counted = when(over.clone(), weight()).otherwise(lit(0_i64)).map_err(from_datafusion)?;
                self.place(sum(counted), format!("rows where {}", text(over)?))
            }
        })
    }

    fn sum(&mut self, value: &Logical, over: &Option<Logical>, text: Text) -> Result<usize> {
        let mut label = format!("sum({})", text(value)?);
        if let Some(over) = over {
            label.push_str(&format!(" where {}", text(over)?));
        }
        let negative = Logical::Negative(Box::new(value.clone()));
        let signed = when(weight().gt(lit(0_i64)), value.clone()).otherwise(negative).map_err(from_datafusion)?;
        let signed = match over {
            None => signed,
            Some(over) => when(over.clone(), signed).end().map_err(from_datafusion)?,
        };
        Ok(self.place(sum(signed), label))
    }

    fn result(&mut self, call: &Linear, field: &FieldRef, text: Text) -> Result<Outcome> {
        let column = |first: usize, place: usize| Logical::Column(Column::from_name(format!("c{}", first + place)));
        let data_type = field.data_type().clone();
        Ok(match call {
            Linear::Count(over) => {
                let count = self.count(over, text)?;
                Box::new(move |first| column(first, count))
            }
            Linear::Sum { value, over } => {
                let (count, sum) = (self.count(over, text)?, self.sum(value, over, text)?);
                Box::new(move |first| some_of(column(first, count), cast(column(first, sum), data_type.clone())))
            }
            Linear::Mean { value, over } => {
                let (count, sum) = (self.count(over, text)?, self.sum(value, over, text)?);
                Box::new(move |first| {
                    let double = |place| cast(column(first, place), DataType::Float64);
                    some_of(column(first, count), double(sum) / double(count))
                })
            }
        })
    }
}

/// `value`, or NULL where `count` is none.
fn some_of(count: Logical, value: Logical) -> Logical {
    when(count.gt(lit(0_i64)), value).end().expect("a CASE with a condition is whole")
}

/// True for a grouping without keys: it has one row at most.
pub(super) fn one_row(plan: &datafusion_expr::LogicalPlan) -> bool {
    use datafusion_expr::LogicalPlan as P;
    match plan {
        P::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        P::Projection(_) | P::SubqueryAlias(_) | P::Filter(_) => plan.inputs().into_iter().all(one_row),
        _ => false,
    }
}
