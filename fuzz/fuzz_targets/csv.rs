//! Feeds target `csv` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("csv");
