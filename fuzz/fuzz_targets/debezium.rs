//! Feeds target `debezium` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("debezium");
