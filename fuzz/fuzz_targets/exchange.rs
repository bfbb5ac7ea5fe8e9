//! Feeds target `exchange` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("exchange");
