//! What every publisher must do, whatever it publishes to: the simulated broker is held to the same as Kafka and the development broker.

use highwater::connector::Publisher;
use highwater::error::{ErrorKind, Result};
use highwater::time::Epoch;
use rand::Rng;
use rand::rngs::StdRng;

/// One shard, written by several publishers, one after the other or at once. What an epoch's records are is a function of the epoch;
/// some epochs have none, some are enough for several transactions.
pub trait Shard {
    /// A new publisher.
    fn publisher(&self) -> Result<Box<dyn Publisher>>;
    /// Gives it the records of `epoch`.
    fn publish(&self, publisher: &mut dyn Publisher, epoch: Epoch) -> Result<()>;
    /// How many records `epoch` has.
    fn rows(&self, epoch: Epoch) -> usize;
    /// Publishes what is missing up to epoch `last`, by a publisher that may die at a place by chance. True if it did.
    fn publish_or_die(&self, last: Epoch, random: &mut StdRng) -> bool;
    /// Someone else begins a transaction in the partition of the markers, which ends when its time is up.
    fn leave_open(&self);
    /// Every record up to epoch `last` is there once, and nothing else.
    fn check(&self, last: Epoch);
    /// What a failure is told with.
    fn seed(&self) -> u64;

    /// Publishes what is missing up to epoch `last`.
    fn publish_to(&self, last: Epoch) -> Result<()> {
        let mut publisher = self.publisher()?;
        for epoch in publisher.published().unwrap_or(0) + 1..=last {
            self.publish(publisher.as_mut(), epoch)?;
        }
        Ok(())
    }
}

pub fn what_is_published_is_known_when_it_is_opened_again(shard: &impl Shard) {
    let mut publisher = shard.publisher().unwrap();
    assert_eq!(publisher.published(), None);
    for epoch in 1..=20 {
        shard.publish(publisher.as_mut(), epoch).unwrap();
        // what it says while it lives is what its successor will say
        let last = (1..=epoch).rfind(|epoch| shard.rows(*epoch) > 0);
        assert_eq!(publisher.published(), last);
    }
    publisher.finish(true).unwrap();
    shard.check(20);
    let last = (1..=20).rfind(|epoch| shard.rows(*epoch) > 0);
    assert_eq!(shard.publisher().unwrap().published(), last);
    // the one before is fenced, and does nothing more after that
    let busy = (21..).find(|epoch| shard.rows(*epoch) > 0).unwrap();
    let error = shard.publish(publisher.as_mut(), busy).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert_eq!(shard.publish(publisher.as_mut(), busy).unwrap_err().kind(), ErrorKind::Unavailable);
    shard.publish_to(30).unwrap();
    shard.check(30);
}

pub fn an_open_transaction_of_another_hides_no_marker(shard: &impl Shard) {
    shard.publisher().unwrap();
    shard.leave_open();
    let epoch = (1..).find(|epoch| shard.rows(*epoch) > 0).unwrap();
    shard.publish_to(epoch).unwrap();
    let found = shard.publisher().unwrap().published();
    assert_eq!(found, Some(epoch), "the marker behind an open transaction is found");
    shard.check(epoch);
}

/// Publishers die at places and moments by chance, one after the other, `deaths` times. Gives the last epoch that is published.
pub fn deaths_lose_and_double_nothing(shard: &impl Shard, deaths: usize, random: &mut StdRng) -> Epoch {
    let seed = shard.seed();
    let (mut died, mut runs, mut last) = (0, 0, 0);
    while died < deaths {
        last += random.random_range(0..6);
        died += usize::from(shard.publish_or_die(last, random));
        runs += 1;
        assert!(runs < 10 * deaths + 20, "SEED={seed}: hardly anyone dies");
    }
    shard.publish_to(last).unwrap_or_else(|error| panic!("SEED={seed}: the last run: {error:?}"));
    shard.check(last);
    last
}
