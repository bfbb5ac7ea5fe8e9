//! `LATE INTO`: what a table of late rows is given.
//!
//! Its columns are filled by their names: with those of the rows that the window function reads, and with what is known of the
//! lateness. The views of such a query are planned for it alone, so that its clause reaches the windows in them.

use super::catalog::ViewRead;
use super::windows::{LateColumn, LateInto, WINDOW_COLUMNS, WindowAssign};
use crate::connector;
use crate::error::{Error, Result};
use crate::plan::{event_time_type, type_name};
use arrow::datatypes::DataType;
use datafusion_common::Column;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_expr::logical_plan::{Extension, LogicalPlan, LogicalPlanBuilder};
use std::sync::Arc;

/// `plan` with its views in place of their names.
pub(super) fn with_own_views(plan: LogicalPlan) -> datafusion_common::Result<LogicalPlan> {
    let own = plan.transform_down(|part| match &part {
        LogicalPlan::TableScan(scan) => match scan.source.downcast_ref::<ViewRead>() {
            Some(view) => {
                let plan = LogicalPlanBuilder::from(view.0.plan.clone()).alias(scan.table_name.clone())?;
                Ok(Transformed::yes(plan.build()?))
            }
            None => Ok(Transformed::no(part)),
        },
        _ => Ok(Transformed::no(part)),
    });
    own.map(|own| own.data)
}

/// True if `plan` has windows, which its rows can come too late for.
pub(super) fn has_windows(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = plan.apply(|part| {
        found |= window(part).is_some();
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.is_ok() && found
}

/// `plan`, whose windows give their late rows to `table`.
pub(super) fn with_late_rows(plan: LogicalPlan, table: &connector::Table) -> Result<LogicalPlan> {
    let mut wrong = None;
    let changed = plan.transform_up(|part| {
        let Some(assign) = window(&part) else { return Ok(Transformed::no(part)) };
        match late_into(assign, table) {
            Ok(late) => {
                let mut assign = assign.clone();
                assign.late = Some(late);
                Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(assign) })))
            }
            Err(error) => {
                wrong.get_or_insert(error);
                Ok(Transformed::no(part))
            }
        }
    });
    let changed = changed.map_err(crate::expr::from_datafusion)?;
    wrong.map_or(Ok(changed.data), Err)
}

fn window(plan: &LogicalPlan) -> Option<&WindowAssign> {
    match plan {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref::<WindowAssign>(),
        _ => None,
    }
}

fn late_into(assign: &WindowAssign, table: &connector::Table) -> Result<LateInto> {
    let mut columns = Vec::new();
    for field in table.schema.fields() {
        let name = field.name().as_str();
        let row = assign.input.schema().iter().find(|(_, row)| row.name() == name && !WINDOW_COLUMNS.contains(&name));
        let (column, given) = match (row, name) {
            (Some((qualifier, row)), _) => {
                (LateColumn::Row(Column::new(qualifier.cloned(), name)), row.data_type().clone())
            }
            (None, "reason") => (LateColumn::Reason, DataType::Utf8),
            (None, "place") => (LateColumn::Place, DataType::Utf8),
            (None, "watermark") => (LateColumn::Watermark, event_time_type()),
            (None, "window_start") => (LateColumn::WindowStart, event_time_type()),
            (None, "window_end") => (LateColumn::WindowEnd, event_time_type()),
            _ => (LateColumn::Nothing, DataType::Null),
        };
        if !super::assignable(&given, field.data_type()) {
            let (have, want) = (type_name(&given), type_name(field.data_type()));
            return Err(Error::invalid(format!(
                "column '{name}' of '{}' is {want}, but that of late rows is {have}",
                table.name
            ))
            .help(format!("declare it as {have}")));
        }
        if !field.is_nullable() && matches!(column, LateColumn::Nothing | LateColumn::Place) {
            let error = format!("column '{name}' of '{}' is NOT NULL, but late rows may have none", table.name);
            return Err(Error::invalid(error).help(
                "it takes the columns of the rows that the window goes over, and reason, watermark, window_start, window_end, place",
            ));
        }
        columns.push(column);
    }
    Ok(LateInto { table: table.name.clone(), schema: Arc::clone(&table.schema), columns })
}
