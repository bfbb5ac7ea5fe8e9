//! Feeds target `log` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("log");
