//! Feeds target `savepoint` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("savepoint");
