//! How likely each value is: shapes over ranks, which have a table, and over all numbers, which have a formula.

use rand::RngCore;
use rand_pcg::Pcg64Dxsm;
use std::f64::consts::TAU;
use std::fmt;

/// The most ranks a table may have.
pub const RANKS_MAX: usize = 1 << 24;

/// How likelihood falls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// All are as likely.
    Uniform,
    /// Rank r, from 1 on, is as likely as 1 / r^exponent.
    Zipf { exponent: f64 },
    /// Around the mean.
    Normal { mean: f64, deviation: f64 },
    /// Falls from the first on.
    Exponential { mean: f64 },
}

impl Shape {
    /// How likely `rank` is, from 0 on, as a multiple of something.
    fn weight(self, rank: usize) -> f64 {
        let rank = rank as f64;
        match self {
            Shape::Uniform => 1.0,
            Shape::Zipf { exponent: 1.0 } => 1.0 / (rank + 1.0),
            Shape::Zipf { exponent } => (rank + 1.0).powf(-exponent),
            Shape::Normal { mean, deviation } => (-0.5 * ((rank - mean) / deviation).powi(2)).exp(),
            Shape::Exponential { mean } => (-rank / mean).exp(),
        }
    }

    /// Random words that [`Shape::number`] takes.
    pub fn draws(self) -> u64 {
        if matches!(self, Shape::Normal { .. }) { 2 } else { 1 }
    }

    /// A number; from 0 to 1 if it is uniform. Zipf's are ranks, which have a table.
    pub fn number(self, random: &mut Pcg64Dxsm) -> f64 {
        // 53 random bits: all that an f64 holds between 0 and 1
        let mut part = || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        match self {
            Shape::Uniform | Shape::Zipf { .. } => part(),
            Shape::Exponential { mean } => -mean * (1.0 - part()).ln(),
            // Box and Muller's, of which the second number is not used, so that a row's draws are its own
            Shape::Normal { mean, deviation } => {
                let radius = (-2.0 * (1.0 - part()).ln()).sqrt();
                mean + deviation * radius * (TAU * part()).cos()
            }
        }
    }
}

/// Ranks and how likely each is: an alias table, so that a draw takes one word whatever the shape.
pub struct Ranks(Vec<Slot>);

/// A draw chooses a slot, and in it the slot's own rank or the other one.
struct Slot {
    /// The part of the slot, of 2^32, that is its own rank's.
    own: u32,
    other: u32,
}

impl fmt::Debug for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ranks", self.0.len())
    }
}

impl Ranks {
    /// `count` ranks, at least one; None if none of them is likely at all.
    pub fn new(count: usize, shape: Shape) -> Option<Self> {
        let weights: Vec<f64> = (0..count).map(|rank| shape.weight(rank)).collect();
        let total: f64 = weights.iter().sum();
        if !(total.is_finite() && total > 0.0) {
            return None;
        }
        // Vose's method: slots that are less than full are filled up by ranks that have too much
        let mut parts: Vec<f64> = weights.iter().map(|weight| weight * count as f64 / total).collect();
        let mut slots: Vec<Slot> = (0..count as u32).map(|rank| Slot { own: u32::MAX, other: rank }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..count).partition(|rank| parts[*rank] < 1.0);
        while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
            slots[less] = Slot { own: (parts[less] * f64::from(u32::MAX)) as u32, other: more as u32 };
            parts[more] -= 1.0 - parts[less];
            if parts[more] < 1.0 {
                small.extend(large.pop());
            }
        }
        Some(Ranks(slots))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The rank that a random word means.
    pub fn pick(&self, draw: u64) -> usize {
        let slot = ((draw >> 32) * self.0.len() as u64) >> 32;
        let Slot { own, other } = self.0[slot as usize];
        if draw as u32 <= own { slot as usize } else { other as usize }
    }
}
