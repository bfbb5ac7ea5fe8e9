//! A wall clock that nobody should trust.

use highwater::time::{Clock, Micros, SystemClock};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HOUR: Micros = 3_600_000_000;

/// It goes wrong by `skew`, and with `jumps` now and then by up to an hour more, forth and back.
pub struct WildClock {
    real: SystemClock,
    skew: Micros,
    jumps: Option<Mutex<(StdRng, Micros)>>,
}

impl WildClock {
    pub fn jumping(seed: u64) -> Arc<dyn Clock> {
        let jumps = Some(Mutex::new((StdRng::seed_from_u64(seed), 0)));
        Arc::new(WildClock { real: SystemClock::default(), skew: 0, jumps })
    }

    /// By so many hours.
    pub fn wrong_by(hours: i64) -> Arc<dyn Clock> {
        Arc::new(WildClock { real: SystemClock::default(), skew: hours * HOUR, jumps: None })
    }
}

impl Clock for WildClock {
    fn wall(&self) -> Micros {
        let jump = self.jumps.as_ref().map_or(0, |jumps| {
            let (random, jump) = &mut *jumps.lock().unwrap();
            if random.random_bool(0.1) {
                *jump = random.random_range(-HOUR..HOUR);
            }
            *jump
        });
        self.real.wall() + self.skew + jump
    }

    fn monotonic(&self) -> Duration {
        self.real.monotonic()
    }
}
