//! Feeds target `options` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("options");
