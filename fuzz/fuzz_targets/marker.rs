//! Feeds target `marker` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("marker");
