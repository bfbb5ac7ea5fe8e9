//! Which expression of a query is to blame for an error that has no place.
//!
//! An expression is to blame if the query can be planned with NULL in its place. Of those that are within each other the smallest is
//! named that alone is to blame: in `a + 'x'` either operand would do, so it is the sum.

use sqlparser::ast::{Expr, Query, Spanned, Value, Visit, VisitMut, Visitor, VisitorMut};
use sqlparser::tokenizer::Span;
use std::ops::ControlFlow;

/// More expressions than this are not tried: an error should not take long.
const TRIALS_MAX: usize = 100;

/// The place of what makes `fails` true of `query`, if it can be told.
pub(super) fn culprit(query: &Query, fails: impl Fn(&Query) -> bool) -> Option<Span> {
    let mut tree = Tree::default();
    let _ = query.visit(&mut tree);
    let mut trials = 0;
    let mut found = None;
    loop {
        let parts = tree.parents.iter().enumerate().filter(|(_, parent)| **parent == found).map(|(part, _)| part);
        let mut guilty = Vec::new();
        for part in parts {
            trials += 1;
            if trials > TRIALS_MAX {
                break;
            }
            let mut without = query.clone();
            let _ = VisitMut::visit(&mut without, &mut Replace { left: part });
            if !fails(&without) {
                guilty.push(part);
            }
        }
        match guilty.as_slice() {
            [part] => found = Some(*part),
            // two that do not go together: the later one is less likely to be meant
            [.., part] if found.is_none() => found = Some(*part),
            _ => break,
        }
    }
    found.map(|part| tree.spans[part]).filter(|span| span.start.line > 0)
}

/// The smallest expression of `query` that holds all of `place` and is none of `others`: its number and where it is.
pub(super) fn around(query: &Query, place: Span, others: &[Span]) -> Option<(usize, Span)> {
    let mut tree = Tree::default();
    let _ = query.visit(&mut tree);
    // an expression comes before its parts
    let part = tree.spans.iter().rposition(|span| holds(*span, place) && !others.contains(span))?;
    Some((part, tree.spans[part]))
}

/// Puts NULL in the place of expression `part` of `query`.
pub(super) fn forget(query: &mut Query, part: usize) {
    let _ = VisitMut::visit(query, &mut Replace { left: part });
}

/// True if `outer` goes over all of `inner`.
pub(super) fn holds(outer: Span, inner: Span) -> bool {
    outer.start.line > 0 && outer.start <= inner.start && inner.end <= outer.end
}

/// The expressions in the order in which they are visited: the one that each is in, and its place.
#[derive(Default)]
struct Tree {
    parents: Vec<Option<usize>>,
    spans: Vec<Span>,
    open: Vec<usize>,
}

impl Visitor for Tree {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.parents.push(self.open.last().copied());
        self.open.push(self.spans.len());
        self.spans.push(expr.span());
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _expr: &Expr) -> ControlFlow<()> {
        self.open.pop();
        ControlFlow::Continue(())
    }
}

/// Puts NULL in the place of the expression before which so many are visited.
struct Replace {
    left: usize,
}

impl VisitorMut for Replace {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.left == 0 {
            // it stays where the expression was
            *expr = Expr::Value(Value::Null.with_span(expr.span()));
            return ControlFlow::Break(());
        }
        self.left -= 1;
        ControlFlow::Continue(())
    }
}
