//! The operator that asks a table outside: rows wait, with the capability of their epoch, until their keys are answered.
//!
//! ```text
//! batch ─ keys ─▶ cache ─ those it does not know ─▶ backlog ─▶ threads that ask ─▶ answers ─▶ cache, and every batch that waits for them
//! ```
//! Threads wait, the worker never does: other steps go on, and so does this one with batches whose keys are known. A key is asked for once,
//! however many rows have it, until the cache forgets it. What waits belongs to its epoch, which is not complete before it has left; so the sources' budget bounds
//! it, and no checkpoint has it. State: none. The cache is made anew by every run.

use super::exchange::Packet;
use super::steps::{Rows, Site};
use crate::batch::{BATCH_ROWS, Batch, batch_of, from_arrow};
use crate::connector::{Asking, Context, Lookup};
use crate::error::{Error, Result};
use crate::plan::{JoinCondition, JoinKind, LookupStep};
use crate::time::Epoch;
use arrow::array::{Array, ArrayRef, AsArray, UInt32Array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::{concat_batches, take};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::ParallelizationContract;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::SyncActivator;

/// A key's columns, in Arrow's row encoding.
type Key = Arc<[u8]>;

/// What a key has outside.
type Answer = Arc<Batch>;

/// The rows of `step`, which `input` brings by `pact`.
pub fn asking<'scope>(
    input: Rows<'scope>,
    pact: impl ParallelizationContract<Epoch, Packet>,
    step: &LookupStep,
    schema: &SchemaRef,
    site: Site,
) -> Result<Rows<'scope>> {
    let scope = input.scope();
    let mut builder = OperatorBuilder::new(site.name(), scope);
    let mut batches = builder.new_input(input, pact);
    builder.set_notify_for(0, timely::progress::operate::FrontierInterest::Never);
    let (rows, stream) = builder.new_output();
    let mut rows: OutputBuilder<Epoch, NoopBuilder<Packet>> = OutputBuilder::from(rows);
    let wake = scope.worker().sync_activator_for(builder.operator_info().address.to_vec());
    let mut desk = Desk::new(step, Arc::clone(schema), &site, wake)?;
    builder.build(move |_| {
        let mut waiting: BTreeMap<u64, (Capability<Epoch>, Waiting)> = BTreeMap::new();
        let mut next = 0;
        move |_| {
            let _busy = site.busy();
            let mut done: Vec<u64> = Vec::new();
            batches.for_each(|capability, packet| {
                let taken = site.attempt(|| {
                    let batch = packet.take(&site.input)?;
                    site.cells.takes(batch.num_rows());
                    desk.take(next, batch)
                });
                if let Some(batch) = taken {
                    if batch.missing == 0 {
                        done.push(next);
                    }
                    let epoch = *capability.least().expect("a message that holds something has a time");
                    waiting.insert(next, (capability.delayed(&epoch, 0), batch));
                    next += 1;
                }
            });
            let answered = site.attempt(|| {
                desk.answers(|id, place, answer| {
                    if let Some((_, batch)) = waiting.get_mut(&id) {
                        batch.answers[place] = Some(Arc::clone(answer));
                        batch.missing -= 1;
                        if batch.missing == 0 {
                            done.push(id);
                        }
                    }
                })
            });
            if answered.is_none() || site.local.fate.failed() {
                waiting.clear();
                desk.close();
                return;
            }
            for id in done {
                let (capability, batch) = waiting.remove(&id).expect("what is done has waited");
                let Some(joined) = site.attempt(|| desk.join(&batch)) else { return };
                let mut output = rows.activate();
                let mut session = output.session_with_builder(&capability);
                for batch in joined {
                    site.cells.gives(batch.num_rows());
                    session.give_container(&mut Packet::Rows(batch));
                }
            }
        }
    });
    Ok(stream)
}

/// Rows whose keys are not all answered.
struct Waiting {
    rows: Batch,
    /// For each row: which of the batch's different keys it has; none with NULL in it.
    keys: Vec<Option<u32>>,
    answers: Vec<Option<Answer>>,
    missing: usize,
}

/// Where questions are put.
struct Desk {
    kind: JoinKind,
    /// The columns of a row's key.
    keys: Vec<usize>,
    output: [Vec<usize>; 2],
    condition: Option<JoinCondition>,
    schema: SchemaRef,
    /// The columns of answers.
    given: SchemaRef,
    /// Those of a question.
    asked: SchemaRef,
    coder: RowConverter,
    keys_max: usize,
    cache: Cache,
    /// Keys that are asked for, with what waits for them: which batch, which of its keys.
    open: HashMap<Key, Vec<(u64, usize)>>,
    /// Questions that no thread has room for.
    backlog: VecDeque<Question>,
    threads: Option<Threads>,
    site: Site,
}

/// Keys, and their columns.
struct Question {
    keys: Vec<Key>,
    rows: Batch,
}

/// What came of a question, and how long it took.
struct Told {
    keys: Vec<Key>,
    answers: Result<Vec<Batch>>,
    took: Duration,
}

struct Threads {
    questions: Sender<Question>,
    told: Receiver<Told>,
}

impl Desk {
    fn new(step: &LookupStep, schema: SchemaRef, site: &Site, wake: SyncActivator) -> Result<Self> {
        let given = step.lookup.schema();
        let asked: SchemaRef = Arc::new(given.project(step.lookup.key()).map_err(from_arrow)?);
        let fields = asked.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        let asking = step.lookup.asking();
        Ok(Desk {
            kind: step.kind,
            keys: step.keys.clone(),
            output: step.output.clone(),
            condition: step.condition.clone(),
            schema,
            given,
            coder: RowConverter::new(fields.collect()).map_err(from_arrow)?,
            asked,
            keys_max: asking.keys_max.max(1),
            cache: Cache::new(asking),
            open: HashMap::new(),
            backlog: VecDeque::new(),
            threads: Some(Threads::start(&step.table, &step.lookup, asking, &site.local.context, &wake)?),
            site: site.clone(),
        })
    }

    /// Looks up the keys of `rows`, which are batch `id`, and asks for those that are not known.
    fn take(&mut self, id: u64, rows: Batch) -> Result<Waiting> {
        let columns: Vec<ArrayRef> = self.keys.iter().map(|column| Arc::clone(rows.column(*column))).collect();
        let nulls = columns
            .iter()
            .fold(None, |nulls, column| NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref()));
        let coded = self.coder.convert_columns(&columns).map_err(from_arrow)?;
        let now = self.site.local.context.clock.monotonic();
        let mut numbers: HashMap<&[u8], u32> = HashMap::new();
        let mut keys = Vec::with_capacity(rows.num_rows());
        let (mut answers, mut fresh, mut fresh_rows) = (Vec::new(), Vec::new(), Vec::new());
        let (mut hits, mut missing) = (0, 0);
        for row in 0..rows.num_rows() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                keys.push(None);
                continue;
            }
            let bytes = coded.row(row).data();
            if let Some(number) = numbers.get(bytes) {
                keys.push(Some(*number));
                continue;
            }
            let number = answers.len() as u32;
            numbers.insert(bytes, number);
            keys.push(Some(number));
            let known = self.cache.get(bytes, now);
            hits += u64::from(known.is_some());
            if known.is_none() {
                missing += 1;
                match self.open.get_mut(bytes) {
                    Some(waiting) => waiting.push((id, number as usize)),
                    None => {
                        let key: Key = bytes.into();
                        self.open.insert(Arc::clone(&key), vec![(id, number as usize)]);
                        fresh.push(key);
                        fresh_rows.push(row as u32);
                    }
                }
            }
            answers.push(known);
        }
        self.site.cells.looked_up(hits, missing as u64);
        let picks = UInt32Array::from(fresh_rows);
        let columns = columns.iter().map(|column| take(column, &picks, None).map_err(from_arrow));
        let asked = batch_of(Arc::clone(&self.asked), columns.collect::<Result<_>>()?, fresh.len())?;
        let mut from = 0;
        while from < fresh.len() {
            let count = self.keys_max.min(fresh.len() - from);
            let keys = fresh[from..from + count].to_vec();
            self.backlog.push_back(Question { keys, rows: asked.slice(from, count) });
            from += count;
        }
        self.push_on();
        Ok(Waiting { rows, keys, answers, missing })
    }

    /// Takes what was answered: `learn` is told of each batch and which of its keys.
    fn answers(&mut self, mut learn: impl FnMut(u64, usize, &Answer)) -> Result<()> {
        loop {
            let Some(threads) = &self.threads else { return Ok(()) };
            let Told { keys, answers, took } = match threads.told.try_recv() {
                Ok(told) => told,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Error::internal("a thread that asks panicked")),
            };
            let answers = answers?;
            if answers.len() != keys.len() {
                return Err(Error::internal(format!("{} answers to {} keys", answers.len(), keys.len())));
            }
            self.site.cells.asked(took);
            let now = self.site.local.context.clock.monotonic();
            for (key, answer) in keys.into_iter().zip(answers) {
                let answer = Arc::new(answer);
                for (id, place) in self.open.remove(&key).unwrap_or_default() {
                    learn(id, place, &answer);
                }
                self.cache.put(key, answer, now);
            }
            self.push_on();
        }
        self.site.cells.remembers(self.cache.entries.len());
        Ok(())
    }

    /// Gives the threads what they have room for.
    fn push_on(&mut self) {
        let Some(threads) = &self.threads else { return };
        while let Some(question) = self.backlog.pop_front() {
            if let Err(refused) = threads.questions.try_send(question) {
                // a thread that is gone is noticed when its answer is asked for
                self.backlog.push_front(refused.into_inner());
                return;
            }
        }
    }

    /// Asks no more.
    fn close(&mut self) {
        self.backlog.clear();
        self.open.clear();
        self.threads = None;
    }

    /// What the rows of an answered batch leave as.
    fn join(&self, batch: &Waiting) -> Result<Vec<Batch>> {
        let answers: Vec<&Batch> =
            batch.answers.iter().map(|answer| answer.as_deref().expect("all are there")).collect();
        let mut starts = Vec::with_capacity(answers.len() + 1);
        let mut count = 0;
        for answer in &answers {
            starts.push(count);
            count += answer.num_rows();
        }
        starts.push(count);
        let given = concat_batches(&self.given, answers.iter().copied()).map_err(from_arrow)?;
        let mut out = Vec::new();
        let (mut own, mut theirs, mut from): (Vec<u32>, Vec<u32>, usize) = (Vec::new(), Vec::new(), 0);
        let rows = batch.keys.len();
        for row in 0..rows {
            let range = batch.keys[row].map_or(0..0, |key| starts[key as usize]..starts[key as usize + 1]);
            own.resize(own.len() + range.len(), row as u32);
            theirs.extend(range.map(|place| place as u32));
            if own.len() >= BATCH_ROWS || row + 1 == rows {
                let pairs = (std::mem::take(&mut own), std::mem::take(&mut theirs));
                out.push(self.leave(&batch.rows, &given, from..row + 1, pairs)?);
                from = row + 1;
            }
        }
        out.retain(|batch| batch.num_rows() > 0);
        Ok(out)
    }

    /// The `pairs` of rows that meet the condition, and where those are wanted the rows `range` that are in none.
    fn leave(
        &self,
        rows: &Batch,
        given: &Batch,
        range: Range<usize>,
        (mut own, mut theirs): (Vec<u32>, Vec<u32>),
    ) -> Result<Batch> {
        if let Some(condition) = &self.condition {
            let picks = [UInt32Array::from(own.clone()), UInt32Array::from(theirs.clone())];
            let read = |&(side, column): &(usize, usize)| {
                let rows = if side == 0 { rows } else { given };
                take(rows.column(column), &picks[side], None).map_err(from_arrow)
            };
            let columns = condition.reads.iter().map(read).collect::<Result<Vec<_>>>()?;
            let holds = condition.holds.evaluate(&batch_of(Arc::clone(&condition.schema), columns, own.len())?)?;
            let holds = holds.as_boolean();
            let kept = (0..own.len()).filter(|&pair| holds.is_valid(pair) && holds.value(pair));
            (own, theirs) = kept.map(|pair| (own[pair], theirs[pair])).unzip();
        }
        let mut theirs: Vec<Option<u32>> = theirs.into_iter().map(Some).collect();
        if self.kind == JoinKind::Left {
            let mut alone = vec![true; range.len()];
            own.iter().for_each(|row| alone[*row as usize - range.start] = false);
            own.extend(range.clone().filter(|row| alone[row - range.start]).map(|row| row as u32));
            theirs.resize(own.len(), None);
        }
        let count = own.len();
        let (own, theirs) = (UInt32Array::from(own), UInt32Array::from(theirs));
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for &column in &self.output[0] {
            columns.push(take(rows.column(column), &own, None).map_err(from_arrow)?);
        }
        for &column in &self.output[1] {
            columns.push(match given.num_rows() {
                0 => new_null_array(self.given.field(column).data_type(), count),
                _ => take(given.column(column), &theirs, None).map_err(from_arrow)?,
            });
        }
        batch_of(Arc::clone(&self.schema), columns, count)
    }
}

impl Threads {
    /// As many as may ask at once; they end when this is dropped.
    fn start(
        table: &str,
        lookup: &Arc<dyn Lookup>,
        asking: Asking,
        context: &Context,
        wake: &SyncActivator,
    ) -> Result<Self> {
        let count = asking.parallelism.max(1);
        let (questions, given) = bounded::<Question>(count);
        let (tell, told) = bounded(count);
        for _ in 0..count {
            let (lookup, context, wake) = (Arc::clone(lookup), context.clone(), wake.clone());
            let (given, tell, place) = (given.clone(), tell.clone(), format!("table \"{table}\""));
            let run = move || {
                let mut asker = None;
                for Question { keys, rows } in given {
                    let since = context.clock.monotonic();
                    let asker = asker.get_or_insert_with(|| lookup.open(&context));
                    let answers = match asker {
                        Ok(asker) => asker.ask(&rows),
                        Err(error) => Err(error.clone()),
                    };
                    let answers = answers.map_err(|error| error.within(place.clone()));
                    let took = context.clock.monotonic().saturating_sub(since);
                    if tell.send(Told { keys, answers, took }).is_err() || wake.activate().is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name("lookup".into()).spawn(run);
            thread.map_err(|error| Error::unavailable(format!("no thread is left to ask: {error}")))?;
        }
        Ok(Threads { questions, told })
    }
}

/// What is remembered: the keys that were used last.
struct Cache {
    rows_max: usize,
    ttl: Option<Duration>,
    entries: HashMap<Key, Entry>,
    /// In the order of use; an older use of a key says nothing.
    used: VecDeque<(u64, Key)>,
    uses: u64,
}

struct Entry {
    answer: Answer,
    since: Duration,
    /// Its last use.
    used: u64,
}

impl Cache {
    fn new(asking: Asking) -> Self {
        Cache {
            rows_max: asking.cache_rows,
            ttl: asking.cache_ttl,
            entries: HashMap::new(),
            used: VecDeque::new(),
            uses: 0,
        }
    }

    /// What `key` has, if that is known and not too old.
    fn get(&mut self, key: &[u8], now: Duration) -> Option<Answer> {
        let old = |entry: &Entry| self.ttl.is_some_and(|ttl| now.saturating_sub(entry.since) >= ttl);
        let (known, entry) = self.entries.get_key_value(key)?;
        if old(entry) {
            self.entries.remove(key);
            return None;
        }
        let known = Arc::clone(known);
        self.uses += 1;
        self.used.push_back((self.uses, Arc::clone(&known)));
        let entry = self.entries.get_mut(key)?;
        entry.used = self.uses;
        let answer = Arc::clone(&entry.answer);
        self.tidy();
        Some(answer)
    }

    fn put(&mut self, key: Key, answer: Answer, now: Duration) {
        if self.rows_max == 0 {
            return;
        }
        self.uses += 1;
        self.used.push_back((self.uses, Arc::clone(&key)));
        self.entries.insert(key, Entry { answer, since: now, used: self.uses });
        self.tidy();
    }

    /// Forgets the keys that were used least lately where there are too many, and uses that are not a key's last.
    fn tidy(&mut self) {
        while self.entries.len() > self.rows_max {
            let Some((use_, key)) = self.used.pop_front() else { return };
            if self.entries.get(&key).is_some_and(|entry| entry.used == use_) {
                self.entries.remove(&key);
            }
        }
        if self.used.len() > 2 * self.entries.len() + BATCH_ROWS {
            let entries = &self.entries;
            self.used.retain(|(use_, key)| entries.get(key).is_some_and(|entry| entry.used == *use_));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Schema;

    fn key(number: u32) -> Key {
        number.to_be_bytes().as_slice().into()
    }

    #[test]
    fn the_cache_keeps_what_was_used_last_and_not_for_longer_than_it_may() {
        let ttl = Some(Duration::from_secs(10));
        let mut cache = Cache::new(Asking { parallelism: 1, keys_max: 1, cache_rows: 3, cache_ttl: ttl });
        let answer: Answer = Arc::new(Batch::new_empty(Arc::new(Schema::empty())));
        let at = Duration::from_secs;
        (1..=3).for_each(|number| cache.put(key(number), Arc::clone(&answer), at(0)));
        assert!(cache.get(&key(1), at(1)).is_some());
        cache.put(key(4), Arc::clone(&answer), at(5));
        assert!(cache.get(&key(2), at(5)).is_none(), "it was used least lately");
        assert!([1, 3, 4].iter().all(|number| cache.get(&key(*number), at(9)).is_some()));
        assert!(cache.get(&key(1), at(10)).is_none(), "it is too old");
        assert!(cache.get(&key(4), at(14)).is_some());
        for number in 0..100_000 {
            cache.put(key(number % 7), Arc::clone(&answer), at(20));
            cache.get(&key(number % 5), at(20));
            assert!(cache.entries.len() <= 3 && cache.used.len() <= 2 * 3 + BATCH_ROWS + 1);
        }
    }
}
