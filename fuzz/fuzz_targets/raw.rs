//! Feeds target `raw` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("raw");
