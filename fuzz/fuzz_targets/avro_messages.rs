//! Feeds target `avro_messages` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("avro_messages");
