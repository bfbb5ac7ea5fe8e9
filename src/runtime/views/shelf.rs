//! Where the rows of served views are: as of one epoch for all of them, behind one lock.
//!
//! The rows of a view are the sum of its *layers*, batches of changes with weights, each of them consolidated and at least twice as large
//! as the next one. An epoch's changes are a new layer, and layers that have become alike in size are made one, beside the lock; so
//! a change is worked on as often as the rows double, and a reader takes the list of layers and adds them up on its own thread.
//!
//! For subscriptions the changes of the last epochs stay, too, once for all of them and up to a bound in bytes: who falls further behind is
//! told so and cut off. Nobody waits for a subscriber.

use super::super::metrics::StepCells;
use crate::batch::Batch;
use crate::batch::changes::consolidated;
use crate::error::Result;
use crate::plan::{Plan, StepId};
use crate::time::{Epoch, Watermark};
use arrow::datatypes::SchemaRef;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes of recent changes that are kept for the subscriptions of a view.
const RECENT_BYTES_MAX: usize = 64 << 20;

/// And for how many epochs with changes.
const RECENT_EPOCHS_MAX: usize = 1024;

/// A view that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewInfo {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub schema: SchemaRef,
}

/// The views of a run.
pub struct Shelf {
    views: Vec<ViewInfo>,
    /// False on a process that has no view's rows.
    here: bool,
    recent_bytes_max: usize,
    state: Mutex<State>,
    news: Condvar,
}

/// What is there now.
#[derive(Default)]
struct State {
    /// The last complete epoch; none before the first one.
    epoch: Option<Epoch>,
    /// No epoch will come any more.
    over: bool,
    held: Vec<Held>,
}

/// What is there of one view.
struct Held {
    layers: Vec<Batch>,
    mark: Watermark,
    recent: VecDeque<Recent>,
    recent_bytes: usize,
    /// Changes up to this epoch are gone from `recent`.
    gone: Option<Epoch>,
    listeners: usize,
}

/// The changes of one epoch.
#[derive(Clone)]
pub struct Recent {
    /// The epoch.
    pub epoch: Epoch,
    /// The watermark at its end.
    pub mark: Watermark,
    /// With weights, consolidated.
    pub changes: Batch,
}

/// All views at one epoch.
pub struct Snapshot {
    /// The epoch.
    pub epoch: Epoch,
    /// For each view: its layers, and the watermark.
    pub views: Vec<(Vec<Batch>, Watermark)>,
}

/// What a subscription hears.
pub struct News {
    /// Changes of epochs, in order.
    pub recent: Vec<Recent>,
    /// How far the view is.
    pub epoch: Epoch,
    /// And its watermark.
    pub mark: Watermark,
    /// True if nothing more will come.
    pub over: bool,
}

/// A subscription has not kept up: what it should hear next is gone.
pub struct Behind(pub Epoch);

impl Shelf {
    /// For `views`; what is asked on a process that is not `here` cannot be answered.
    pub fn new(views: Vec<ViewInfo>, here: bool) -> Self {
        let held = || Held {
            layers: Vec::new(),
            mark: Watermark::NONE,
            recent: VecDeque::new(),
            recent_bytes: 0,
            gone: None,
            listeners: 0,
        };
        let state = State { epoch: None, over: false, held: views.iter().map(|_| held()).collect() };
        let (state, news) = (Mutex::new(state), Condvar::new());
        Shelf { views, here, recent_bytes_max: RECENT_BYTES_MAX, state, news }
    }

    /// For the views of `plan`, whose rows are in this process if it is `here`.
    pub fn of(plan: &Plan, here: bool) -> Self {
        let view =
            |(id, name): (StepId, &str)| ViewInfo { name: name.to_owned(), schema: Arc::clone(&plan.steps[id].schema) };
        Shelf::new(plan.views().map(view).collect(), here)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // each change of it is whole
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The views.
    pub fn list(&self) -> Vec<ViewInfo> {
        self.views.clone()
    }

    /// True if their rows are in this process.
    pub fn here(&self) -> bool {
        self.here
    }

    /// Puts an epoch there that is complete: what it has changed in each view, where it has, and the watermarks.
    pub fn put(&self, epoch: Epoch, told: Vec<Told>) {
        let mut old = Vec::new();
        let mut state = self.lock();
        for (held, Told { layers, changes, mark }) in state.held.iter_mut().zip(told) {
            held.mark = mark;
            if let Some(layers) = layers {
                old.push(std::mem::replace(&mut held.layers, layers));
            }
            if let Some(changes) = changes.filter(|_| held.listeners > 0) {
                held.recent_bytes += changes.get_array_memory_size();
                held.recent.push_back(Recent { epoch, mark, changes });
                while held.recent_bytes > self.recent_bytes_max || held.recent.len() > RECENT_EPOCHS_MAX {
                    let Some(first) = held.recent.pop_front() else { break };
                    held.recent_bytes -= first.changes.get_array_memory_size();
                    held.gone = Some(first.epoch);
                }
            }
        }
        state.epoch = Some(epoch);
        drop(state);
        self.news.notify_all();
        // rows that nobody reads any more are freed without the lock
        drop(old);
    }

    /// Learns that all epochs up to `epoch` are complete.
    pub fn reach(&self, epoch: Epoch) {
        let mut state = self.lock();
        if state.epoch.is_none_or(|before| before < epoch) {
            state.epoch = Some(epoch);
            drop(state);
            self.news.notify_all();
        }
    }

    /// Learns that no epoch will come any more.
    pub fn end(&self) {
        self.lock().over = true;
        self.news.notify_all();
    }

    /// True once no epoch will come any more.
    pub fn ended(&self) -> bool {
        self.lock().over
    }

    /// Waits for an epoch that is complete, at most for `patience`. None if there is none yet; true with it once none will come.
    pub fn snapshot(&self, patience: Duration) -> (Option<Snapshot>, bool) {
        let state = self.lock();
        let waited = self.news.wait_timeout_while(state, patience, |state| state.epoch.is_none() && !state.over);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let views = || state.held.iter().map(|held| (held.layers.clone(), held.mark)).collect();
        (state.epoch.map(|epoch| Snapshot { epoch, views: views() }), state.over)
    }

    /// As [`Shelf::snapshot`]; from then on the changes of `view` are kept for a subscription, until [`Shelf::leave`].
    pub fn listen(&self, view: usize, patience: Duration) -> (Option<Snapshot>, bool) {
        let state = self.lock();
        let waited = self.news.wait_timeout_while(state, patience, |state| state.epoch.is_none() && !state.over);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let over = state.over;
        let Some(epoch) = state.epoch else { return (None, over) };
        state.held[view].listeners += 1;
        let views = state.held.iter().map(|held| (held.layers.clone(), held.mark)).collect();
        (Some(Snapshot { epoch, views }), over)
    }

    /// A subscription of `view` has ended.
    pub fn leave(&self, view: usize) {
        let held = &mut self.lock().held[view];
        held.listeners -= 1;
        if held.listeners == 0 {
            (held.recent_bytes, held.gone) = (0, None);
            held.recent.clear();
        }
    }

    /// What has come of `view` after epoch `since`, waited for at most for `patience`; None if that is nothing.
    pub fn news(&self, view: usize, since: Epoch, patience: Duration) -> Result<Option<News>, Behind> {
        let state = self.lock();
        let nothing = |state: &mut State| state.epoch.is_none_or(|epoch| epoch <= since) && !state.over;
        let (state, waited) =
            self.news.wait_timeout_while(state, patience, nothing).unwrap_or_else(PoisonError::into_inner);
        let held = &state.held[view];
        if held.gone.is_some_and(|gone| gone > since) {
            return Err(Behind(since));
        }
        if waited.timed_out() {
            return Ok(None);
        }
        let recent = held.recent.iter().filter(|recent| recent.epoch > since).cloned().collect();
        Ok(Some(News { recent, epoch: state.epoch.unwrap_or(since).max(since), mark: held.mark, over: state.over }))
    }
}

/// What an epoch means for one view.
pub struct Told {
    /// Its rows now; None if they are as before.
    pub layers: Option<Vec<Batch>>,
    /// What was changed, consolidated; None if nothing was.
    pub changes: Option<Batch>,
    /// The watermark at the epoch's end.
    pub mark: Watermark,
}

/// The rows of one view, on the side of who adds to them.
pub struct Layers {
    /// With the weight.
    schema: SchemaRef,
    layers: Vec<Batch>,
}

impl Layers {
    /// No rows; `schema` has the weight.
    pub fn new(schema: SchemaRef) -> Self {
        Layers { schema, layers: Vec::new() }
    }

    /// Adds the changes of an epoch, with weights, and says what they come to.
    pub fn add(&mut self, changes: &[Batch], mark: Watermark, cells: &StepCells) -> Result<Told> {
        if changes.iter().all(|changes| changes.num_rows() == 0) {
            return Ok(Told { layers: None, changes: None, mark });
        }
        let changes = consolidated(changes, &self.schema)?;
        if changes.num_rows() == 0 {
            return Ok(Told { layers: None, changes: None, mark });
        }
        self.layers.push(changes.clone());
        while let [.., larger, smaller] = self.layers.as_slice()
            && larger.num_rows() < 2 * smaller.num_rows()
        {
            let merged = consolidated(&[larger.clone(), smaller.clone()], &self.schema)?;
            self.layers.truncate(self.layers.len() - 2);
            if merged.num_rows() > 0 {
                self.layers.push(merged);
            }
        }
        let rows = self.layers.iter().map(Batch::num_rows).sum();
        let bytes = self.layers.iter().map(Batch::get_array_memory_size).sum();
        cells.holds(rows, bytes);
        Ok(Told { layers: Some(self.layers.clone()), changes: Some(changes), mark })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::metrics::Metrics;
    use super::*;
    use crate::batch::changes::{standing, weights};
    use crate::time::SystemClock;
    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use std::collections::BTreeMap;

    const NO_TIME: Duration = Duration::ZERO;

    fn schema() -> SchemaRef {
        let field = |name| Field::new(name, DataType::Int64, false);
        Arc::new(Schema::new(vec![field("n"), field("weight")]))
    }

    fn changes(rows: &[(i64, i64)]) -> Batch {
        let column = |of: fn(&(i64, i64)) -> i64| Arc::new(rows.iter().map(of).collect::<Int64Array>()) as ArrayRef;
        crate::batch::batch_of(schema(), vec![column(|row| row.0), column(|row| row.1)], rows.len()).unwrap()
    }

    /// A shelf for two views, one of which is written to.
    struct One {
        shelf: Shelf,
        layers: Layers,
        cells: Arc<StepCells>,
    }

    impl One {
        fn new(recent_bytes_max: usize) -> One {
            let view = |name: &str| ViewInfo { name: name.into(), schema: schema() };
            let mut shelf = Shelf::new(vec![view("a"), view("b")], true);
            shelf.recent_bytes_max = recent_bytes_max;
            let step = crate::plan::Step {
                name: "view a".into(),
                action: crate::plan::Action::View("a".into()),
                inputs: Vec::new(),
                schema: schema(),
                emit: crate::plan::Emit::Updating,
                lateness: 0,
            };
            let plan = Plan { settings: Default::default(), steps: vec![step] };
            let cells = Metrics::new(&plan, 0, 1, Arc::new(SystemClock::default())).cells(0, 0);
            One { shelf, layers: Layers::new(schema()), cells }
        }

        fn put(&mut self, epoch: Epoch, rows: &[(i64, i64)]) {
            let mark = Watermark::at(epoch as i64);
            let told = self.layers.add(&[changes(rows)], mark, &self.cells).unwrap();
            self.shelf.put(epoch, vec![told, Told { layers: None, changes: None, mark }]);
        }

        fn rows(&self) -> (Epoch, Vec<i64>) {
            let (snapshot, _) = self.shelf.snapshot(NO_TIME);
            let snapshot = snapshot.unwrap();
            (snapshot.epoch, rows(&snapshot.views[0].0))
        }
    }

    fn rows(layers: &[Batch]) -> Vec<i64> {
        let rows = standing(&consolidated(layers, &schema()).unwrap()).unwrap();
        rows.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    #[test]
    fn what_is_there_is_the_sum_of_all_epochs_and_an_older_epoch_stays_for_who_has_it() {
        let mut one = One::new(RECENT_BYTES_MAX);
        assert!(matches!(one.shelf.snapshot(NO_TIME), (None, false)));
        one.put(3, &[(1, 1), (2, 2), (4, -1), (4, 1)]);
        assert_eq!(one.rows(), (3, vec![1, 2, 2]));
        let (before, _) = one.shelf.snapshot(NO_TIME);
        one.put(4, &[(2, -1), (3, 1)]);
        one.put(5, &[]);
        assert_eq!(one.rows(), (5, vec![1, 2, 3]));
        assert_eq!(rows(&before.unwrap().views[0].0), [1, 2, 2]);
        one.shelf.reach(9);
        one.shelf.reach(7);
        assert_eq!(one.rows(), (9, vec![1, 2, 3]));
        one.shelf.end();
        assert!(matches!(one.shelf.snapshot(NO_TIME), (Some(_), true)));
    }

    #[test]
    fn layers_are_few_and_their_sum_is_right_whatever_comes() {
        let seed: u64 = rand::random();
        let mut random = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
        let mut number = |below: i64| rand::Rng::random_range(&mut random, 0..below);
        let mut one = One::new(RECENT_BYTES_MAX);
        let mut expected: BTreeMap<i64, i64> = BTreeMap::new();
        for epoch in 0..200 {
            let mut told = Vec::new();
            for _ in 0..number(20) {
                let n = number(500);
                let there = expected.entry(n).or_default();
                let weight = if *there > 0 && number(2) == 0 { -1 } else { 1 };
                *there += weight;
                told.push((n, weight));
            }
            one.put(epoch, &told);
            let all: Vec<i64> =
                expected.iter().flat_map(|(n, times)| std::iter::repeat_n(*n, *times as usize)).collect();
            assert_eq!(one.rows(), (epoch, all), "seed {seed}");
            let layers = &one.layers.layers;
            assert!(layers.windows(2).all(|pair| pair[0].num_rows() >= 2 * pair[1].num_rows()), "seed {seed}");
            let held = one.cells.held_rows();
            assert_eq!(held, layers.iter().map(Batch::num_rows).sum::<usize>() as u64, "seed {seed}");
        }
    }

    #[test]
    fn who_listens_hears_each_epoch_once_and_who_is_too_slow_is_told_so() {
        let mut one = One::new(3 * changes(&[(1, 1)]).get_array_memory_size());
        one.put(0, &[(1, 1)]);
        let (snapshot, _) = one.shelf.listen(0, NO_TIME);
        assert_eq!(snapshot.unwrap().epoch, 0);
        assert!(one.shelf.news(0, 0, NO_TIME).is_ok_and(|news| news.is_none()));
        one.put(1, &[(2, 1)]);
        one.put(2, &[]);
        one.put(3, &[(1, -1), (1, 1)]);
        let news = one.shelf.news(0, 0, NO_TIME).ok().flatten().unwrap();
        let told: Vec<(Epoch, i64)> = news.recent.iter().map(|one| (one.epoch, weights(&one.changes)[0])).collect();
        assert_eq!((told, news.epoch, news.mark), (vec![(1, 1)], 3, Watermark::at(3)));
        for epoch in 4..9 {
            one.put(epoch, &[(epoch as i64, 1)]);
        }
        assert!(one.shelf.news(0, 3, NO_TIME).is_err(), "what came first is gone");
        let news = one.shelf.news(0, 5, NO_TIME).ok().flatten().unwrap();
        assert_eq!(news.recent.iter().map(|one| one.epoch).collect::<Vec<_>>(), [6, 7, 8]);
        one.shelf.leave(0);
        one.put(9, &[(9, 1)]);
        assert_eq!(one.shelf.lock().held[0].recent.len(), 0, "nobody listens");
    }
}
