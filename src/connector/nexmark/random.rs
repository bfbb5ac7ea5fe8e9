//! Random words by number: what event `n` has in a column is a function of the seed, the column and `n`.
//!
//! Word `n` of a [`Stream`] is SplitMix64's output for the state that it would reach after `n` steps, so any row can be made without
//! those before it, in any order, by any worker. Nothing here depends on the platform: there is no function of libm.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's output function.
#[inline(always)]
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The random words of one column, one for each event.
#[derive(Debug, Clone, Copy)]
pub struct Stream(u64);

impl Stream {
    /// Columns are told apart by `number`.
    pub fn new(seed: u64, number: u64) -> Self {
        Stream(mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add((number + 1).wrapping_mul(GOLDEN))))
    }

    /// The word of event `event`.
    #[inline(always)]
    pub fn word(self, event: u64) -> u64 {
        mix(self.0.wrapping_add(event.wrapping_mul(GOLDEN)))
    }

    /// As many words for event `event` as are asked for.
    #[inline(always)]
    pub fn words(self, event: u64) -> Words {
        Words(self.word(event))
    }
}

/// The random words of one event.
#[derive(Debug)]
pub struct Words(u64);

impl Words {
    #[inline(always)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }
}

/// A number below `end`, which has 32 bits, from the lower half of `word`.
#[inline(always)]
pub fn below(word: u64, end: u64) -> u64 {
    ((word & 0xFFFF_FFFF) * end) >> 32
}

/// The same from the upper half.
#[inline(always)]
pub fn below_by_upper(word: u64, end: u64) -> u64 {
    ((word >> 32) * end) >> 32
}

/// The powers 2^(n/16) for n from 0 to 15.
const SIXTEENTHS: [f64; 16] = {
    const ROOT: f64 = 1.044_273_782_427_413_8;
    let mut powers = [1.0; 16];
    let mut n = 1;
    while n < 16 {
        powers[n] = powers[n - 1] * ROOT;
        n += 1;
    }
    powers
};

/// A price in cents: 100 × 10^x where x is even between 0 and 6, so that it is log-uniform between 1 and 1,000,000 dollars.
///
/// As a power of 2: the whole part of the exponent goes into the float's own, its sixteenths are looked up, the rest is so small that a
/// few terms of the series give 1e-13 of it.
#[inline(always)]
pub fn price(word: u64) -> i64 {
    const SIXTEENTHS_OF_TEN: f64 = 16.0 * std::f64::consts::LOG2_10;
    // adding it rounds to a whole number, which then is in the lowest bits
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 × 2^52
    let part = f64::from_bits(word >> 12 | 1_f64.to_bits()) - 1.0;
    let exponent = 2.0 * SIXTEENTHS_OF_TEN + part * (6.0 * SIXTEENTHS_OF_TEN);
    let rounded = exponent + ROUND;
    let x = (exponent - (rounded - ROUND)) * (std::f64::consts::LN_2 / 16.0);
    let series = 1.0 + x * (1.0 + x * (0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0)))));
    let sixteenths = rounded.to_bits() & 0xFFFF;
    let scale = f64::from_bits((sixteenths / 16 + 1023) << 52);
    let cents = series * SIXTEENTHS[(sixteenths % 16) as usize] * scale + ROUND;
    // the lower 51 bits of the fraction
    (cents.to_bits() & ((1 << 51) - 1)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_the_power_of_ten_that_it_says() {
        let stream = Stream::new(7, 3);
        for event in 0..100_000 {
            let word = stream.word(event);
            let part = (word >> 12) as f64 / (1_u64 << 52) as f64;
            let expected = (100.0 * 10_f64.powf(part * 6.0)).round() as i64;
            assert!((price(word) - expected).abs() <= 1, "word {word}: {} for {expected}", price(word));
        }
        assert_eq!((price(0), price(u64::MAX)), (100, 100_000_000));
    }

    #[test]
    fn words_differ_by_seed_column_and_event() {
        let words: std::collections::BTreeSet<u64> = (0..10)
            .flat_map(|seed| (0..10).map(move |column| Stream::new(seed, column)))
            .flat_map(|stream| (0..100).map(move |event| stream.word(event)))
            .collect();
        assert_eq!(words.len(), 10_000);
    }

    #[test]
    fn numbers_below_an_end_are_even() {
        let mut counts = [[0_u32; 2]; 46];
        for event in 0..46_000 {
            let word = Stream::new(1, 1).word(event);
            counts[below(word, 46) as usize][0] += 1;
            counts[below_by_upper(word, 46) as usize][1] += 1;
        }
        assert!(counts.iter().flatten().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
