//! Feeds target `graph` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("graph");
