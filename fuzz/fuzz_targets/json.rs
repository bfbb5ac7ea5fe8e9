//! Feeds target `json` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("json");
