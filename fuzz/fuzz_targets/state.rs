//! Feeds target `state` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("state");
