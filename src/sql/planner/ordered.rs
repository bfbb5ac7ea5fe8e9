//! Aggregates that depend on the order of their rows get one that the rows themselves decide: an epoch is a set.

use super::rank::place_of;
use super::{Planner, bare};
use crate::error::{Error, Result};
use crate::expr::from_datafusion;
use arrow::datatypes::DataType;
use datafusion_common::DFSchema;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::expr::Sort;
use datafusion_expr::{Expr as Logical, ExprSchemable};

impl Planner<'_> {
    /// `call` with an order that leaves nothing to chance: what ORDER BY inside it does not tell apart, the aggregated value does.
    pub(super) fn ordered(&mut self, call: &Logical, schema: &DFSchema) -> Result<Logical> {
        let mut refused = None;
        let ordered = call.clone().transform(|part| {
            let Logical::AggregateFunction(mut call) = part else { return Ok(Transformed::no(part)) };
            let Some(value) = call.params.args.first() else {
                return Ok(Transformed::no(Logical::AggregateFunction(call)));
            };
            let ordered = !call.params.order_by.is_empty();
            match call.func.name() {
                name @ ("first_value" | "last_value") if !ordered => {
                    refused = Some((refusal(name, value), place_of(value)));
                }
                name @ "any_value" => refused = Some((refusal(name, value), place_of(value))),
                // DISTINCT leaves no two values alike
                "array_agg" | "string_agg" if call.params.distinct && ordered => {}
                name @ ("array_agg" | "first_value" | "last_value") if has_map(&value.get_type(schema)?) => {
                    let error = Error::invalid(format!("{name} of a MAP is refused: no MAP is before another"))
                        .help("map_entries(…) makes a list of it, and lists have an order");
                    refused = Some((error, place_of(value)));
                }
                "array_agg" | "string_agg" | "first_value" | "last_value" => {
                    let value = value.clone();
                    if !call.params.order_by.iter().any(|sort| sort.expr == value) {
                        call.params.order_by.push(Sort::new(value, true, false));
                        return Ok(Transformed::yes(Logical::AggregateFunction(call)));
                    }
                }
                _ => {}
            }
            Ok(Transformed::no(Logical::AggregateFunction(call)))
        });
        if let Some((error, place)) = refused {
            self.blame = place;
            return Err(error);
        }
        ordered.map(|ordered| ordered.data).map_err(from_datafusion)
    }
}

/// True if values of this type cannot be put in order.
fn has_map(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(..) => true,
        DataType::List(element) => has_map(element.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_map(field.data_type())),
        _ => false,
    }
}

fn refusal(function: &str, value: &Logical) -> Error {
    let value = bare(value).map_or("x", |column| column.name.as_str());
    let error = Error::invalid(format!("{function} is refused: its result depends on which row comes first"));
    match function {
        "any_value" => error.help(format!("min({value}) is one value, too, and always the same")),
        _ => error.help(format!("say which row is meant: {function}({value} ORDER BY …)")),
    }
}
