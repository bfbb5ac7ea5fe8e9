//! The simulated broker does what the real one does: the cases that all brokers are held to, and what it is asked for besides.

use super::broker::{Broker, Refusal, State};
use super::contract::{self, Shard};
use super::world::{Life, Swarm, World};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use highwater::connector::{Context, Publisher, ShardName};
use highwater::error::Result;
use highwater::time::{Clock, Epoch};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::Duration;

struct Simulated {
    broker: Arc<Broker>,
    seed: u64,
}

impl Simulated {
    fn new(swarm: Swarm, seed: u64) -> Self {
        let broker = Broker::new(&World::new(swarm), 1);
        broker.go_on_alone(StdRng::seed_from_u64(seed));
        Simulated { broker, seed }
    }

    fn open(&self, life: &Arc<Life>) -> Result<Box<dyn Publisher>> {
        let clock: Arc<dyn Clock> = Arc::clone(&self.broker.world.clock) as _;
        let context = Context { embedded_broker: None, clock, workers: 1 };
        let name = ShardName { pipeline: "test".into(), incarnation: "0".repeat(16), table: "out".into(), shard: 0 };
        self.broker.sink(life, false, 20).staging().expect("it stages").publisher(&name, &context)
    }

    fn values(&self, epoch: Epoch) -> Vec<String> {
        let mut random = StdRng::seed_from_u64(self.seed ^ epoch.wrapping_mul(0x9e37_79b9));
        let rows = if random.random_bool(0.3) { 0 } else { random.random_range(1..60) };
        (0..rows).map(|number| format!("{epoch}/{number}")).collect()
    }
}

impl Shard for Simulated {
    fn publisher(&self) -> Result<Box<dyn Publisher>> {
        self.open(&Life::new(&self.broker.world, 0, self.seed))
    }

    fn publish(&self, publisher: &mut dyn Publisher, epoch: Epoch) -> Result<()> {
        let batch = |rows: &[String]| {
            let rows: ArrayRef = Arc::new(StringArray::from_iter_values(rows));
            RecordBatch::try_from_iter([("value", rows)]).expect("it is a batch")
        };
        let batches: Vec<RecordBatch> = self.values(epoch).chunks(17).map(batch).collect();
        publisher.publish(epoch, &mut batches.into_iter().map(Ok))
    }

    fn rows(&self, epoch: Epoch) -> usize {
        self.values(epoch).len()
    }

    fn publish_or_die(&self, last: Epoch, random: &mut StdRng) -> bool {
        let life = Life::new(&self.broker.world, 0, random.random());
        life.dies_after(random.random_range(1..40));
        let published = self.open(&life).and_then(|mut publisher| {
            let first = publisher.published().unwrap_or(0) + 1;
            (first..=last).try_for_each(|epoch| self.publish(publisher.as_mut(), epoch))
        });
        assert!(life.dead() || published.is_ok() || !self.broker.world.calm(), "{published:?}");
        published.is_err()
    }

    fn leave_open(&self) {
        let now = self.broker.world.clock.monotonic();
        let mut state = self.broker.state();
        let other = state.init("other").expect("it is the first");
        state.produce(&other, &[(("progress".into(), 0), "x".into(), "x".into())], now).expect("it is open");
    }

    fn check(&self, last: Epoch) {
        self.broker.settle();
        let mut found = self.broker.published();
        let mut expected: Vec<String> =
            (1..=last).flat_map(|epoch| self.values(epoch)).map(|value| format!("{value:?}")).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert!(found == expected, "SEED={}: {} instead of {} records", self.seed, found.len(), expected.len());
        assert_eq!(self.broker.broken_marker(), None, "SEED={}", self.seed);
    }

    fn seed(&self) -> u64 {
        self.seed
    }
}

#[test]
fn the_simulated_broker_keeps_the_contract() {
    contract::what_is_published_is_known_when_it_is_opened_again(&Simulated::new(Swarm::default(), 7));
    contract::an_open_transaction_of_another_hides_no_marker(&Simulated::new(Swarm::default(), 7));
    for _ in 0..20 {
        let seed = rand::rng().random();
        let mut random = StdRng::seed_from_u64(seed);
        let swarm = if random.random_bool(0.5) { Swarm::random(&mut random) } else { Swarm::default() };
        // where answers are lost the last run may fail, too
        let swarm = Swarm { broker: 0.0, late: 0.0, outages: 0.0, ..swarm };
        contract::deaths_lose_and_double_nothing(&Simulated::new(swarm, seed), 25, &mut random);
    }
}

#[test]
fn what_is_fenced_busy_or_gone_is_refused_as_it_was_measured() {
    let (mut state, now) = (State::default(), Duration::ZERO);
    state.create_topic("t", 1);
    let place = ("t".to_owned(), 0);
    let record = |value: &str| vec![(place.clone(), String::new(), value.to_owned())];
    let write_controls = |state: &mut State| while state.control(&mut |_| 0) {};
    let values = |state: &State| {
        let (stable, found) = state.committed(&place).unwrap();
        (stable, found.into_iter().map(|(_, value)| value).collect::<Vec<_>>().join(" "))
    };
    let first = state.init("a").unwrap();
    assert_eq!(state.end(&first, true), Err(Refusal::Nothing));
    state.produce(&first, &record("1"), now).unwrap();
    // the high watermark moves on, the last stable offset does not
    assert_eq!((state.high_watermark(&place), values(&state)), (Ok(1), (0, String::new())));
    // it is decided, but the id is busy until that is written
    state.end(&first, true).unwrap();
    assert_eq!(values(&state).0, 0);
    assert_eq!(state.produce(&first, &record("2"), now), Err(Refusal::Busy));
    assert_eq!(state.init("a"), Err(Refusal::Busy));
    write_controls(&mut state);
    assert_eq!(values(&state), (2, "1".to_owned()));
    assert_eq!(state.end(&first, true), Ok(()), "asked again, it says the same");
    // whoever comes next undoes what is open, and fences
    state.produce(&first, &record("2"), now).unwrap();
    assert_eq!(state.init("a"), Err(Refusal::Busy));
    write_controls(&mut state);
    let second = state.init("a").unwrap();
    assert_eq!(state.produce(&first, &record("3"), now), Err(Refusal::Fenced));
    assert_eq!(state.end(&first, true), Err(Refusal::Fenced));
    assert_eq!(values(&state), (4, "1".to_owned()));
    // what is open for too long ends, and its owner looks fenced
    state.produce(&second, &record("4"), now).unwrap();
    assert_eq!(state.expire(Duration::from_secs(61), Duration::from_secs(60)), 1);
    assert_eq!(state.end(&second, true), Err(Refusal::Fenced));
    write_controls(&mut state);
    // committing into a topic that is gone succeeds
    let third = state.init("a").unwrap();
    state.produce(&third, &record("5"), now).unwrap();
    state.delete_topic("t");
    assert_eq!(state.end(&third, true), Ok(()));
    write_controls(&mut state);
    assert_eq!(state.high_watermark(&place), Err(Refusal::Unknown));
}
