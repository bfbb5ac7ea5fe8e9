//! Feeds target `packed` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("packed");
