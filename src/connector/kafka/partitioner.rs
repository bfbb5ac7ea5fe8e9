//! Which partition a record goes to.
//!
//! A keyed record goes where Kafka's Java client would send it, so that topics written by both can be joined by partition.
//! Records are handed to librdkafka grouped by partition: that costs it a third of what scattered ones do.

use arrow::array::BinaryArray;

/// How records without a say of their own are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Partitioner {
    /// By the key's hash; records without a key stay together, batch by batch.
    Default,
    /// In turn.
    RoundRobin,
}

/// A partitioner at work: where it stands in its turn.
#[derive(Debug)]
pub(super) struct Spread {
    partitioner: Partitioner,
    partitions: usize,
    turn: usize,
}

impl Spread {
    /// Spreads over `partitions` (at least one), beginning with partition `turn`.
    pub(super) fn new(partitioner: Partitioner, partitions: usize, turn: usize) -> Self {
        Spread { partitioner, partitions, turn: turn % partitions }
    }

    /// The partition of each of `rows` records, with these keys if they have some.
    pub(super) fn partitions_of(&mut self, rows: usize, keys: Option<&BinaryArray>) -> Vec<u32> {
        let turn = self.turn;
        match (self.partitioner, keys) {
            (Partitioner::RoundRobin, _) => {
                self.turn = (turn + rows) % self.partitions;
                (turn..turn + rows).map(|row| (row % self.partitions) as u32).collect()
            }
            (Partitioner::Default, None) => {
                self.turn = (turn + 1) % self.partitions;
                vec![turn as u32; rows]
            }
            (Partitioner::Default, Some(keys)) => {
                self.turn = (turn + 1) % self.partitions;
                keys.iter().map(|key| key.map_or(turn as u32, |key| partition_of(key, self.partitions))).collect()
            }
        }
    }
}

/// The rows `0..partition_of_row.len()` ordered by partition, in their own order within one.
pub(super) fn grouped(partition_of_row: &[u32], partitions: usize) -> Vec<u32> {
    let mut next = vec![0; partitions + 1];
    for &partition in partition_of_row {
        next[partition as usize + 1] += 1;
    }
    for partition in 0..partitions {
        next[partition + 1] += next[partition];
    }
    let mut order = vec![0; partition_of_row.len()];
    for (row, &partition) in partition_of_row.iter().enumerate() {
        order[next[partition as usize]] = row as u32;
        next[partition as usize] += 1;
    }
    order
}

/// The partition of a key, as Kafka's `DefaultPartitioner` has it.
fn partition_of(key: &[u8], partitions: usize) -> u32 {
    ((murmur2(key) & 0x7fff_ffff) as usize % partitions) as u32
}

/// Kafka's murmur2: Austin Appleby's 32-bit hash, seed 0x9747b28c.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(M);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(M) ^ mixed.wrapping_mul(M);
    }
    if !tail.is_empty() {
        hash ^= tail.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Apache Kafka's `UtilsTest.testMurmur2` (clients/src/test/java/org/apache/kafka/common/utils).
    #[test]
    fn murmur2_is_kafkas() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn rows_are_grouped_by_partition_in_their_own_order() {
        assert_eq!(grouped(&[2, 0, 2, 1, 0], 3), [1, 4, 3, 0, 2]);
        assert_eq!(grouped(&[], 3), [0; 0]);
    }

    #[test]
    fn records_without_a_key_stay_together_and_round_robin_goes_on() {
        let keys = BinaryArray::from(vec![Some(b"foobar".as_slice()), None]);
        let mut sticky = Spread::new(Partitioner::Default, 3, 4);
        assert_eq!(sticky.partitions_of(2, None), [1, 1]);
        assert_eq!(sticky.partitions_of(2, Some(&keys)), [(-790_332_482_i32 & 0x7fff_ffff) as u32 % 3, 2]);
        assert_eq!(sticky.partitions_of(1, None), [0]);
        let mut turns = Spread::new(Partitioner::RoundRobin, 3, 1);
        assert_eq!(turns.partitions_of(4, None), [1, 2, 0, 1]);
        assert_eq!(turns.partitions_of(2, Some(&keys)), [2, 0]);
    }
}
