//! Feeds target `avro` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("avro");
