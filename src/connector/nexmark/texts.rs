//! Names, addresses, channels and filler: the stream's texts, all ASCII.

use super::random::{Stream, Words, below, below_by_upper};
use std::ops::Range;

const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

/// Channels with a number for a name.
const CHANNELS: u64 = 10_000;

/// Letters that filler is cut from: so few that they stay in a core's own cache.
const FILLER: u64 = 1 << 17;

/// The longest average size of a row; with a fifth more it is still shorter than [`FILLER`].
pub const SIZE_MAX: u64 = 1 << 16;

/// Texts by number, one after the other.
#[derive(Debug, Default)]
pub struct Dictionary {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Dictionary {
    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len() as u32);
    }

    /// Appends text `number` to `text`.
    #[inline(always)]
    pub fn append_to(&self, text: &mut Vec<u8>, number: usize) {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        append(text, &self.bytes, start..self.ends[number] as usize);
    }
}

/// The names of all channels: the numbered ones, then the hot ones.
pub fn channels() -> Dictionary {
    let mut names = Dictionary::default();
    (0..CHANNELS).for_each(|number| names.add(|text| text.extend_from_slice(format!("channel-{number}").as_bytes())));
    HOT_CHANNELS.iter().for_each(|name| names.add(|text| text.extend_from_slice(name.as_bytes())));
    names
}

/// The address that comes with each channel. Nine of ten that are numbered say so in a parameter.
pub fn urls(stream: Stream) -> Dictionary {
    let mut urls = Dictionary::default();
    for channel in 0..CHANNELS + HOT_CHANNELS.len() as u64 {
        let mut words = stream.words(channel);
        urls.add(|text| {
            text.extend_from_slice(b"https://www.nexmark.com/");
            for _ in 0..3 {
                letters(&mut words, 5, b'_', text);
                text.push(b'/');
            }
            text.extend_from_slice(b"item.htm?query=1");
            if channel < CHANNELS && below(words.next(), 10) > 0 {
                let id = (channel as i32).reverse_bits().unsigned_abs();
                text.extend_from_slice(format!("&channel_id={id}").as_bytes());
            }
        });
    }
    urls
}

/// The channel of a bid, which is a hot one every other time.
#[inline(always)]
pub fn channel(word: u64) -> usize {
    let hot = CHANNELS + below_by_upper(word, HOT_CHANNELS.len() as u64);
    let numbered = below_by_upper(word, CHANNELS);
    (if word & 1 == 1 { hot } else { numbered }) as usize
}

/// Small letters at random, which filler is cut from.
pub fn filler(stream: Stream) -> Vec<u8> {
    let mut words = stream.words(0);
    let mut text = Vec::with_capacity(FILLER as usize);
    while text.len() < FILLER as usize {
        let word = words.next();
        text.extend([0, 16, 32, 48].map(|shift| b'a' + lane(word, shift, 26) as u8));
    }
    text
}

/// Where the filler is that brings a row of `size` bytes to `average` on average, give or take a fifth.
#[inline(always)]
pub fn filling(word: u64, size: u64, average: u64) -> Range<usize> {
    let Some(missing) = average.checked_sub(size) else { return 0..0 };
    let spread = (missing * 2 + 5) / 10;
    let length = missing - spread + below(word, 2 * spread);
    let start = below_by_upper(word, FILLER - length);
    start as usize..(start + length) as usize
}

/// Appends `from[piece]` to `text`. A short piece is copied in a fixed length and cut, so that no branch depends on its own.
#[inline(always)]
pub fn append(text: &mut Vec<u8>, from: &[u8], piece: Range<usize>) {
    const FIXED: usize = 96;
    match from[piece.start..].first_chunk::<FIXED>() {
        Some(chunk) if piece.len() <= FIXED => {
            let end = text.len() + piece.len();
            text.extend_from_slice(chunk);
            text.truncate(end);
        }
        _ => text.extend_from_slice(&from[piece]),
    }
}

/// 3 to `longest` - 1 letters, of which one in thirteen is `special`; no spaces at the ends.
pub fn letters(words: &mut Words, longest: u64, special: u8, text: &mut Vec<u8>) {
    const SHORTEST: u64 = 3;
    let start = text.len();
    let end = start + (SHORTEST + below(words.next(), longest - SHORTEST)) as usize;
    while text.len() < end {
        let word = words.next();
        for shift in [0, 16, 32, 48].into_iter().take(end - text.len()) {
            let letter = lane(word, shift, 13 * 26);
            text.push(if letter < 26 { special } else { b'a' + (letter % 26) as u8 });
        }
    }
    if special == b' ' {
        while text.len() > start && text.last() == Some(&b' ') {
            text.pop();
        }
        let spaces = text[start..].iter().take_while(|byte| **byte == b' ').count();
        text.drain(start..start + spaces);
    }
}

/// A number below `end` from 16 bits of `word`.
#[inline(always)]
fn lane(word: u64, shift: u32, end: u64) -> u64 {
    ((word >> shift & 0xFFFF) * end) >> 16
}

fn one_of(words: &mut Words, texts: &[&str], text: &mut Vec<u8>) {
    text.extend_from_slice(texts[below(words.next(), texts.len() as u64) as usize].as_bytes());
}

pub fn person_name(mut words: Words, text: &mut Vec<u8>) {
    one_of(&mut words, &FIRST_NAMES, text);
    text.push(b' ');
    one_of(&mut words, &LAST_NAMES, text);
}

pub fn email(mut words: Words, text: &mut Vec<u8>) {
    letters(&mut words, 7, b' ', text);
    text.push(b'@');
    letters(&mut words, 5, b' ', text);
    text.extend_from_slice(b".com");
}

pub fn credit_card(mut words: Words, text: &mut Vec<u8>) {
    for group in 0..4 {
        if group > 0 {
            text.push(b' ');
        }
        let number = below(words.next(), 10_000);
        text.extend([1000, 100, 10, 1].map(|unit| b'0' + (number / unit % 10) as u8));
    }
}

pub fn city(mut words: Words, text: &mut Vec<u8>) {
    one_of(&mut words, &CITIES, text);
}

pub fn state(mut words: Words, text: &mut Vec<u8>) {
    one_of(&mut words, &STATES, text);
}
