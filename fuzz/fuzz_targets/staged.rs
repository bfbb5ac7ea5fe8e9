//! Feeds target `staged` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("staged");
