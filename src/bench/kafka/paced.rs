//! A topic that is copied exactly once while it is written: how long a record takes from its append to a reader of what is committed.
//!
//! Writer, pipeline and reader are threads of one process, which share a clock. A record holds its number and the moment
//! of its append; each has to come out once. The first records, which meet a pipeline that starts, are not counted in.

use super::super::meter::Preparation;
use super::super::task::Said;
use super::super::{Case, Input, pipelines};
use super::{PARTITION, Reader, client, no_answer};
use crate::connector::blackhole::Blackhole;
use crate::error::{Error, Result};
use crate::runtime::{self, Workers};
use crate::time::{Clock, SystemClock};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::sync::Arc;
use std::time::Duration;

/// The variant that this is.
pub const PACED: &str = "latency";

/// How many records are written, if nobody says.
pub const PACED_RECORDS: u64 = 20 * PER_SECOND;

/// Records a second.
const PER_SECOND: u64 = 10_000;

/// Records of this share of the run come first and are not counted in.
const WARM_UP: u64 = 10;

/// How long the last record may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks whether records are due.
const NAP: Duration = Duration::from_millis(1);

/// Runs the pipeline beside its writer and its reader. The latency is what it says instead of that of its epochs.
pub fn run(case: &Case, preparation: Preparation) -> Result<Said> {
    let Input::Topic { bootstrap, topic, answers: Some(answers) } = &case.input else {
        return Err(Error::internal("a paced copy reads a topic and writes one"));
    };
    let store = pipelines::store(case)?;
    let plan = pipelines::plan(case, Arc::new(Blackhole::default()), store.as_ref().map(tempfile::TempDir::path))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let mut reader = Reader::new(bootstrap, answers)?;
    let meter = preparation.done()?;
    let running = runtime::start(plan, Workers::Threads(case.workers), None, Arc::clone(&clock))?;
    let (bootstrap, topic, rows, now) = (bootstrap.clone(), topic.clone(), case.rows, Arc::clone(&clock));
    let writer = std::thread::spawn(move || write(&bootstrap, &topic, rows, now.as_ref()));
    let mut seen = Seen { taken: vec![None; case.rows as usize], strange: None, count: 0 };
    let due = clock.monotonic() + Duration::from_secs(case.rows / PER_SECOND) + PATIENCE;
    while seen.count < case.rows && !running.finished() {
        reader.step(|record| seen.take(record, clock.monotonic()))?;
        if let Some(strange) = seen.strange {
            return Err(Error::internal(strange).within(case.to_string()));
        }
        if clock.monotonic() > due {
            let error = format!("{} of {} records came out", seen.count, case.rows);
            return Err(Error::internal(error).within(case.to_string()));
        }
    }
    running.fate().stop();
    let (counted, result) = running.wait();
    result?;
    writer.join().map_err(|_| Error::internal("the writer panicked"))??;
    let spent = meter.stop()?;
    reader.step(|record| seen.take(record, clock.monotonic()))?;
    match seen.strange.take() {
        Some(strange) => Err(Error::internal(strange).within(case.to_string())),
        None => Ok(Said { spent, answer: None, epochs: counted.epochs, epoch_micros: Some(seen.percentiles()) }),
    }
}

/// Appends `rows` records at their pace.
fn write(bootstrap: &str, topic: &str, rows: u64, clock: &dyn Clock) -> Result<()> {
    let producer: BaseProducer = client(bootstrap, &[("linger.ms", "0")]).create().map_err(no_answer)?;
    let begin = clock.monotonic();
    let mut written = 0;
    while written < rows {
        let due = ((clock.monotonic() - begin).as_secs_f64() * PER_SECOND as f64) as u64;
        while written < due.min(rows) {
            let record = format!("{written} {}", clock.monotonic().as_micros());
            let send = BaseRecord::<(), [u8]>::to(topic).partition(PARTITION).payload(record.as_bytes());
            producer.send(send).map_err(|(error, _)| no_answer(error))?;
            written += 1;
        }
        producer.poll(Duration::ZERO);
        std::thread::sleep(NAP);
    }
    producer.flush(PATIENCE).map_err(no_answer)
}

/// By number, how many microseconds each record took.
struct Seen {
    taken: Vec<Option<u32>>,
    /// What is wrong with the first record with which something is.
    strange: Option<String>,
    count: u64,
}

impl Seen {
    fn take(&mut self, record: &[u8], now: Duration) {
        let text = String::from_utf8_lossy(record);
        let numbers = text.split_once(' ').and_then(|(number, at)| Some((number.parse().ok()?, at.parse().ok()?)));
        let place = numbers.and_then(|(number, at): (usize, u64)| Some((self.taken.get_mut(number)?, at)));
        match place {
            Some((place @ None, at)) => {
                *place = Some((now.as_micros() as u64).saturating_sub(at) as u32);
                self.count += 1;
            }
            Some(_) => self.strange = Some(format!("record '{text}' came out twice")),
            None => self.strange = Some(format!("'{text}' was never written")),
        }
    }

    fn percentiles(&self) -> (u32, u32) {
        let first = self.taken.len() / WARM_UP as usize;
        let mut taken: Vec<u32> = self.taken.iter().skip(first).copied().flatten().collect();
        taken.sort_unstable();
        let at = |percent: usize| taken.get(taken.len() * percent / 100).copied().unwrap_or_default();
        (at(50), at(99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_comes_twice_or_from_nowhere_is_noticed() {
        let seen = || Seen { taken: vec![None; 3], strange: None, count: 0 };
        let mut good = seen();
        ["0 100", "2 100", "1 90"].iter().for_each(|text| good.take(text.as_bytes(), Duration::from_micros(200)));
        assert_eq!((good.count, good.strange.as_deref(), good.percentiles()), (3, None, (100, 110)));
        for wrong in ["0 100", "3 100", "nonsense"] {
            let mut bad = seen();
            bad.take(b"0 1", Duration::from_micros(2));
            bad.take(wrong.as_bytes(), Duration::from_micros(200));
            assert!(bad.strange.is_some(), "{wrong}");
        }
    }
}
