//! A broker in memory that behaves as Kafka was measured to, and a sink that publishes to it by the rules of `connector::kafka::publish`.
//!
//! - A transactional id has one producer; `init` raises its epoch, fences who had it, and aborts what is open.
//! - Who is fenced learns so from everything that it tries. A transaction that is open for too long is aborted, and its owner fenced, too.
//! - `end` decides a transaction at once and writes its control records later, partition by partition; until then the id is busy.
//! - A reader of committed records sees none behind the first that is undecided (the last stable offset).
//! - A request may be lost, its answer may be lost, or it arrives when nobody waits for it any more.
//! - Committing into a topic that was deleted succeeds.
#![allow(dead_code)] // each test file uses its part

use crate::pipeline::texts;
use crate::world::{Life, World};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use highwater::connector::{Changes, Context, Publisher, Shard, ShardName, Sink, Stager, Staging};
use highwater::error::{Error, ErrorKind, Result};
use highwater::time::{Clock, Epoch};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// After which time the broker ends a transaction.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// As in `connector::kafka::publish`.
const INIT_WAIT: Duration = Duration::from_secs(60);
const HIDDEN_WAIT: Duration = Duration::from_secs(90);
const COMMIT_WAIT: Duration = Duration::from_secs(48);
const PAUSE: Duration = Duration::from_millis(50);

/// Records that go with one request.
const REQUEST_RECORDS: usize = 16;

/// A topic and a partition.
pub type Place = (String, usize);

/// Who writes: a transactional id and an epoch of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    id: String,
    epoch: u64,
}

/// Why the broker does not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A newer epoch of the id is there.
    Fenced,
    /// What was ended before is not finished.
    Busy,
    /// There is no such topic.
    Unknown,
    /// There is nothing to end.
    Nothing,
}

/// A record of a partition.
#[derive(Debug, Clone)]
enum Slot {
    Record {
        id: String,
        key: String,
        value: String,
    },
    /// Ends what `id` has in this partition.
    Control {
        id: String,
        commit: bool,
    },
}

#[derive(Default)]
struct Topic {
    id: u64,
    partitions: Vec<Vec<Slot>>,
}

#[derive(Default)]
struct Transactional {
    epoch: u64,
    /// Where the open transaction has records, and since when.
    open: Option<(BTreeSet<Place>, Duration)>,
    /// Decided, and where that is not written yet.
    ending: Option<(bool, BTreeSet<Place>)>,
    /// How the last one of this epoch ended.
    last: Option<bool>,
}

/// Something that arrives later.
enum Late {
    End(Producer, bool),
    Init(String),
}

/// All that the broker knows.
#[derive(Default)]
pub struct State {
    topics: BTreeMap<String, Topic>,
    ids: BTreeMap<String, Transactional>,
    topics_made: u64,
    late: Vec<Late>,
}

impl State {
    pub fn create_topic(&mut self, name: &str, partitions: usize) {
        if !self.topics.contains_key(name) {
            self.topics_made += 1;
            let topic = Topic { id: self.topics_made, partitions: vec![Vec::new(); partitions] };
            self.topics.insert(name.to_owned(), topic);
        }
    }

    pub fn delete_topic(&mut self, name: &str) {
        self.topics.remove(name);
    }

    pub fn topic_id(&self, name: &str) -> Option<u64> {
        self.topics.get(name).map(|topic| topic.id)
    }

    pub fn init(&mut self, id: &str) -> Result<Producer, Refusal> {
        let known = self.ids.entry(id.to_owned()).or_default();
        if known.ending.is_some() {
            return Err(Refusal::Busy);
        }
        known.epoch += 1;
        known.last = None;
        if let Some((places, _)) = known.open.take() {
            known.ending = Some((false, places));
            return Err(Refusal::Busy);
        }
        Ok(Producer { id: id.to_owned(), epoch: known.epoch })
    }

    fn owned(&mut self, producer: &Producer) -> Result<&mut Transactional, Refusal> {
        self.ids.get_mut(&producer.id).filter(|known| known.epoch == producer.epoch).ok_or(Refusal::Fenced)
    }

    /// Appends records, keys and values, to the producer's transaction, which begins with its first ones.
    pub fn produce(
        &mut self,
        producer: &Producer,
        records: &[(Place, String, String)],
        now: Duration,
    ) -> Result<(), Refusal> {
        let known = self.owned(producer)?;
        if known.ending.is_some() {
            return Err(Refusal::Busy);
        }
        let places = &mut known.open.get_or_insert_with(|| (BTreeSet::new(), now)).0;
        places.extend(records.iter().map(|(place, ..)| place.clone()));
        for ((topic, partition), key, value) in records {
            // a topic that is gone takes everything
            let Some(topic) = self.topics.get_mut(topic) else { continue };
            let slot = Slot::Record { id: producer.id.clone(), key: key.clone(), value: value.clone() };
            topic.partitions[*partition].push(slot);
        }
        Ok(())
    }

    /// Decides the producer's transaction.
    pub fn end(&mut self, producer: &Producer, commit: bool) -> Result<(), Refusal> {
        let known = self.owned(producer)?;
        match (known.open.take(), known.last) {
            (Some((places, _)), _) => {
                known.ending = Some((commit, places));
                known.last = Some(commit);
                Ok(())
            }
            // asked again
            (None, Some(last)) if last == commit => Ok(()),
            (None, _) => Err(Refusal::Nothing),
        }
    }

    /// Ends what has been open for too long.
    pub fn expire(&mut self, now: Duration, timeout: Duration) -> usize {
        let mut ended = 0;
        for known in self.ids.values_mut() {
            if let Some((places, _)) = known.open.take_if(|(_, since)| now.saturating_sub(*since) > timeout) {
                known.epoch += 1;
                known.last = None;
                known.ending = Some((false, places));
                ended += 1;
            }
        }
        ended
    }

    /// Writes one of the control records that are due; false if there is none.
    pub fn control(&mut self, choose: &mut dyn FnMut(usize) -> usize) -> bool {
        let due = |(id, known): (&String, &Transactional)| {
            known.ending.iter().flat_map(|(_, places)| places).map(|place| (id.clone(), place.clone())).collect()
        };
        let due: Vec<(String, Place)> = self.ids.iter().flat_map(|entry| -> Vec<_> { due(entry) }).collect();
        if due.is_empty() {
            return false;
        }
        let (id, place) = due[choose(due.len())].clone();
        let known = self.ids.get_mut(&id).expect("it was just found");
        let Some((commit, places)) = &mut known.ending else { return false };
        let commit = *commit;
        places.remove(&place);
        if places.is_empty() {
            known.ending = None;
        }
        if let Some(topic) = self.topics.get_mut(&place.0) {
            topic.partitions[place.1].push(Slot::Control { id, commit });
        }
        true
    }

    fn partition(&self, place: &Place) -> Result<&[Slot], Refusal> {
        let topic = self.topics.get(&place.0).ok_or(Refusal::Unknown)?;
        topic.partitions.get(place.1).map(Vec::as_slice).ok_or(Refusal::Unknown)
    }

    /// The offset behind the last record, whoever wrote it.
    pub fn high_watermark(&self, place: &Place) -> Result<usize, Refusal> {
        Ok(self.partition(place)?.len())
    }

    /// The last stable offset, and the keys and values before it that are committed.
    pub fn committed(&self, place: &Place) -> Result<(usize, Vec<(String, String)>), Refusal> {
        let slots = self.partition(place)?;
        let mut decided: BTreeMap<&str, bool> = BTreeMap::new();
        let mut stable = slots.len();
        let mut visible = Vec::new();
        for (offset, slot) in slots.iter().enumerate().rev() {
            match slot {
                Slot::Control { id, commit } => drop(decided.insert(id, *commit)),
                Slot::Record { id, key, value } => match decided.get(id.as_str()) {
                    None => stable = offset,
                    Some(true) => visible.push((offset, key.clone(), value.clone())),
                    Some(false) => {}
                },
            }
        }
        visible.reverse();
        let before = visible.into_iter().filter(|(offset, ..)| *offset < stable);
        Ok((stable, before.map(|(_, key, value)| (key, value)).collect()))
    }
}

/// The broker, and its topics for one sink.
pub struct Broker {
    state: Mutex<State>,
    pub world: Arc<World>,
    /// Shards that have a partition of their own for their markers.
    markers: usize,
    /// Nobody drives it: it goes on with each request.
    alone: Mutex<Option<StdRng>>,
}

/// Of the topic that is written.
const PARTITIONS: usize = 2;
const TOPIC: &str = "out";
const PROGRESS: &str = "progress";

impl Broker {
    /// With `markers` partitions for markers.
    pub fn new(world: &Arc<World>, markers: usize) -> Arc<Self> {
        let mut state = State::default();
        state.create_topic(TOPIC, PARTITIONS);
        state.create_topic(PROGRESS, markers);
        let (state, alone) = (Mutex::new(state), Mutex::new(None));
        Arc::new(Broker { state, world: Arc::clone(world), markers, alone })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// For tests that drive nothing: with each request it goes on by itself.
    pub fn go_on_alone(&self, rng: StdRng) {
        *self.alone.lock().unwrap() = Some(rng);
    }

    /// What happens by itself: timeouts, control records, requests that were on their way.
    pub fn tick(&self, rng: &mut StdRng) {
        let mut state = self.state();
        let ended = state.expire(self.world.clock.monotonic(), TRANSACTION_TIMEOUT);
        if ended > 0 {
            self.world.note(format_args!("broker: {ended} transactions have been open for too long"));
        }
        if rng.random_bool(0.3) {
            state.control(&mut |due| rng.random_range(0..due));
        }
        if !state.late.is_empty() && rng.random_bool(0.05) {
            let at = rng.random_range(0..state.late.len());
            match state.late.remove(at) {
                Late::End(producer, commit) => {
                    let answer = state.end(&producer, commit);
                    self.world.note(format_args!("broker: late end of {producer:?}: {answer:?}"));
                }
                Late::Init(id) => {
                    let answer = state.init(&id);
                    self.world.note(format_args!("broker: late init of {id}: {answer:?}"));
                }
            }
        }
    }

    /// Nothing is on its way any more, and everything open has had its time.
    pub fn settle(&self) {
        let mut state = self.state();
        for late in std::mem::take(&mut state.late) {
            if let Late::End(producer, commit) = late {
                let _ = state.end(&producer, commit);
            }
        }
        state.expire(Duration::MAX, TRANSACTION_TIMEOUT);
        while state.control(&mut |_| 0) {}
    }

    /// The committed values of the topic that is written.
    pub fn published(&self) -> Vec<String> {
        let state = self.state();
        let of = |partition| state.committed(&(TOPIC.into(), partition)).expect("the topic is there").1;
        (0..PARTITIONS).flat_map(of).map(|(_, value)| value).collect()
    }

    /// The first marker that says less than one before it.
    pub fn broken_marker(&self) -> Option<String> {
        let state = self.state();
        let mut last: BTreeMap<String, Marker> = BTreeMap::new();
        for partition in 0..self.markers {
            for (key, value) in state.committed(&(PROGRESS.into(), partition)).expect("the topic is there").1 {
                let marker = Marker::read(&value);
                let says = |marker: &Marker| (marker.epoch, marker.rows_done, marker.last);
                if let Some(before) = last.get(&key)
                    && says(before) >= says(&marker)
                {
                    return Some(format!("shard {key}: {marker:?} comes after {before:?}"));
                }
                last.insert(key, marker);
            }
        }
        None
    }

    /// A sink as `life` sees it; `records_max` go into one transaction.
    pub fn sink(self: &Arc<Self>, life: &Arc<Life>, single: bool, records_max: usize) -> Arc<dyn Sink> {
        Arc::new(SimulatedSink(Desk { broker: Arc::clone(self), life: Arc::clone(life), single, records_max }))
    }
}

/// What one transaction has made true; as in `connector::kafka::progress`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marker {
    epoch: Epoch,
    chunk: u64,
    rows_done: u64,
    last: bool,
    topic_id: u64,
}

impl Marker {
    fn text(&self) -> String {
        let Marker { epoch, chunk, rows_done, last, topic_id } = self;
        format!("{epoch} {chunk} {rows_done} {} {topic_id}", u64::from(*last))
    }

    fn read(text: &str) -> Self {
        let numbers: Vec<u64> = text.split(' ').map(|word| word.parse().expect("a marker has numbers")).collect();
        let [epoch, chunk, rows_done, last, topic_id] = numbers[..] else { panic!("this is no marker: {text}") };
        Marker { epoch, chunk, rows_done, last: last == 1, topic_id }
    }

    fn published(&self) -> Option<Epoch> {
        if self.last { Some(self.epoch) } else { self.epoch.checked_sub(1) }
    }
}

#[derive(Clone)]
struct Desk {
    broker: Arc<Broker>,
    life: Arc<Life>,
    single: bool,
    records_max: usize,
}

/// An answer, and whether the request may have been sent twice.
struct Answer<T> {
    value: T,
    doubtful: bool,
}

impl Desk {
    /// Sends a request. What was lost on its way may arrive `late`.
    fn ask<T>(
        &self,
        what: &str,
        late: impl Fn() -> Option<Late>,
        request: impl FnOnce(&mut State) -> Result<T, Refusal>,
    ) -> Result<Result<Answer<T>, Refusal>> {
        let (life, swarm) = (&self.life, &self.life.world.swarm);
        let lost = || Error::unavailable(format!("injected: no answer to {what}"));
        life.live()?;
        if let Some(rng) = self.broker.alone.lock().unwrap().as_mut() {
            self.broker.tick(rng);
        }
        if !self.broker.world.broker_is_back() {
            life.note(format_args!("{what}: the broker is gone"));
            return Err(lost());
        }
        if life.bad_luck(swarm.broker) {
            life.note(format_args!("{what}: lost on its way"));
            return Err(lost());
        }
        if life.bad_luck(swarm.late)
            && let Some(late) = late()
        {
            life.note(format_args!("{what}: given up, but still on its way"));
            self.broker.state().late.push(late);
            return Err(lost());
        }
        let answer = request(&mut self.broker.state());
        life.note(format_args!("{what}: {:?}", answer.as_ref().map(drop)));
        life.live()?;
        if life.bad_luck(swarm.broker) {
            life.note(format_args!("{what}: the answer is lost"));
            return Err(lost());
        }
        let mut doubtful = false;
        if life.bad_luck(swarm.late)
            && let Some(late) = late()
        {
            life.note(format_args!("{what}: sent twice"));
            self.broker.state().late.push(late);
            doubtful = true;
        }
        Ok(answer.map(|value| Answer { value, doubtful }))
    }

    fn question<T>(&self, what: &str, request: impl FnOnce(&mut State) -> Result<T, Refusal>) -> Result<T> {
        match self.ask(what, || None, request)? {
            Ok(answer) => Ok(answer.value),
            Err(refusal) => Err(failure(refusal)),
        }
    }
}

fn failure(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Fenced => Error::new(ErrorKind::Fenced, "another publishes this shard, or it took too long"),
        other => Error::unavailable(format!("it is not known what is published: {other:?}")),
    }
}

struct SimulatedSink(Desk);

impl Sink for SimulatedSink {
    fn single(&self) -> bool {
        self.0.single
    }

    fn open(&self, _: usize, _: usize, _: &Context) -> Result<Box<dyn Shard>> {
        Err(Error::internal("it is written exactly once"))
    }

    fn changes(&self) -> Changes {
        Changes::All
    }

    fn staging(&self) -> Option<&dyn Staging> {
        Some(self)
    }
}

impl Staging for SimulatedSink {
    fn how(&self) -> &'static str {
        "simulated transactions"
    }

    fn records(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn stager(&self, _: usize, _: usize, _: &Context) -> Result<Box<dyn Stager>> {
        Ok(Box::new(AsTheyAre))
    }

    fn publisher(&self, shard: &ShardName, _: &Context) -> Result<Box<dyn Publisher>> {
        Ok(Box::new(TopicPublisher::new(self.0.clone(), shard)?))
    }
}

struct AsTheyAre;

impl Stager for AsTheyAre {
    fn stage(&mut self, rows: RecordBatch) -> Result<RecordBatch> {
        Ok(rows)
    }
}

/// Publishes one shard.
struct TopicPublisher {
    desk: Desk,
    producer: Producer,
    /// Where its markers go, and under which key.
    progress: Place,
    key: String,
    topic_id: u64,
    marker: Option<Marker>,
    published: Option<Epoch>,
    spent: bool,
}

impl TopicPublisher {
    fn new(desk: Desk, shard: &ShardName) -> Result<Self> {
        // the incarnation is not from the seed; that it stays the same is seen by the markers
        let id = format!("{}.{}", shard.table, shard.shard);
        let clock = Arc::clone(&desk.life.world.clock);
        let start = clock.monotonic();
        let producer = loop {
            let late = || Some(Late::Init(id.clone()));
            match desk.ask(&format!("init {id}"), late, |state| state.init(&id))? {
                Ok(answer) => break answer.value,
                Err(Refusal::Busy) if clock.monotonic() - start < INIT_WAIT => clock.sleep(PAUSE),
                Err(refusal) => return Err(failure(refusal)),
            }
        };
        let progress = (PROGRESS.to_owned(), shard.shard % desk.broker.markers);
        let key = format!("{}/{id}", shard.incarnation);
        let bound = desk.question(&format!("high watermark {id}"), |state| state.high_watermark(&progress))?;
        let start = clock.monotonic();
        let markers = loop {
            let (stable, markers) = desk.question(&format!("markers {id}"), |state| state.committed(&progress))?;
            if stable >= bound {
                break markers;
            }
            if clock.monotonic() - start > HIDDEN_WAIT {
                return Err(Error::unavailable("a transaction has been open for too long"));
            }
            clock.sleep(PAUSE);
        };
        let marker = markers.iter().rfind(|(of, _)| *of == key).map(|(_, value)| Marker::read(value));
        let topic_id = desk.question("topic id", |state| state.topic_id(TOPIC).ok_or(Refusal::Unknown))?;
        if marker.as_ref().is_some_and(|marker| marker.topic_id != topic_id) {
            return Err(Error::invalid("sink history lost: the topic was deleted and created again"));
        }
        let published = marker.as_ref().and_then(Marker::published);
        desk.life.note(format_args!("publishes {id} behind {published:?}"));
        Ok(TopicPublisher { desk, producer, progress, key, topic_id, marker, published, spent: false })
    }

    fn records(&mut self, epoch: Epoch, records: &mut dyn Iterator<Item = Result<RecordBatch>>) -> Result<()> {
        if let Some(marker) = self.marker.as_ref().filter(|marker| !marker.last && marker.epoch < epoch) {
            return Err(Error::internal(format!("of checkpoint {} the rest is missing", marker.epoch)));
        }
        let begun = self.marker.clone().filter(|marker| marker.epoch == epoch);
        let skip = begun.as_ref().map_or(0, |marker| marker.rows_done);
        let mut chunk = begun.map_or(0, |marker| marker.chunk + 1);
        let (mut seen, mut open) = (0, None::<Vec<String>>);
        for batch in records {
            for row in texts(&batch?) {
                if seen < skip {
                    seen += 1;
                    continue;
                }
                // only when there is more to come, so that the last transaction has records
                if let Some(full) = open.take_if(|open| open.len() >= self.desk.records_max) {
                    let topic_id = self.topic_id;
                    self.transact(&full, Marker { epoch, chunk, rows_done: seen, last: false, topic_id })?;
                    chunk += 1;
                }
                open.get_or_insert_default().push(row);
                seen += 1;
            }
        }
        if seen < skip {
            return Err(Error::internal(format!("checkpoint {epoch} has {seen} records, {skip} of it are published")));
        }
        if open.is_none() && skip > 0 {
            open = Some(Vec::new());
        }
        match open {
            None => Ok(()),
            Some(open) => {
                let topic_id = self.topic_id;
                self.transact(&open, Marker { epoch, chunk, rows_done: seen, last: true, topic_id })
            }
        }
    }

    /// A transaction: records, the marker, the commit.
    fn transact(&mut self, rows: &[String], marker: Marker) -> Result<()> {
        let place = |row: &String| (TOPIC.to_owned(), row.bytes().map(usize::from).sum::<usize>() % PARTITIONS);
        let records: Vec<(Place, String, String)> =
            rows.iter().map(|row| (place(row), String::new(), row.clone())).collect();
        for piece in records.chunks(REQUEST_RECORDS) {
            self.produce(piece)?;
        }
        self.produce(&[(self.progress.clone(), self.key.clone(), marker.text())])?;
        let clock = Arc::clone(&self.desk.life.world.clock);
        let start = clock.monotonic();
        let what = format!("commit {} epoch {} rows {}", self.producer.id, marker.epoch, marker.rows_done);
        let late = || Some(Late::End(self.producer.clone(), true));
        match self.desk.ask(&what, late, |state| state.end(&self.producer, true))? {
            Ok(Answer { doubtful, .. }) if doubtful || clock.monotonic() - start > COMMIT_WAIT => {
                return Err(Error::unavailable("a commit may have been sent twice"));
            }
            Ok(_) => {}
            Err(refusal) => return Err(failure(refusal)),
        }
        self.marker = Some(marker);
        let topic_id = self.desk.question("topic id", |state| Ok(state.topic_id(TOPIC)))?;
        match topic_id == Some(self.topic_id) {
            true => Ok(()),
            false => Err(Error::invalid("sink history lost: the topic is gone")),
        }
    }

    /// Like librdkafka, tries again while the transaction before is not finished.
    fn produce(&self, records: &[(Place, String, String)]) -> Result<()> {
        let clock = Arc::clone(&self.desk.life.world.clock);
        let what = format!("produce {} × {}", self.producer.id, records.len());
        loop {
            let request = |state: &mut State| state.produce(&self.producer, records, clock.monotonic());
            match self.desk.ask(&what, || None, request)? {
                Ok(_) => return Ok(()),
                Err(Refusal::Busy) => clock.sleep(PAUSE),
                Err(refusal) => return Err(failure(refusal)),
            }
        }
    }
}

impl Publisher for TopicPublisher {
    fn published(&self) -> Option<Epoch> {
        self.published
    }

    fn publish(&mut self, epoch: Epoch, records: &mut dyn Iterator<Item = Result<RecordBatch>>) -> Result<()> {
        if self.spent {
            return Err(Error::unavailable("this publisher has failed before"));
        }
        self.spent = true;
        self.records(epoch, records)?;
        // without records there is no marker
        if self.marker.as_ref().is_some_and(|marker| marker.epoch == epoch && marker.last) {
            self.published = Some(epoch);
        }
        self.spent = false;
        Ok(())
    }
}
