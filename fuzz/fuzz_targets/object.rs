//! Feeds target `object` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("object");
