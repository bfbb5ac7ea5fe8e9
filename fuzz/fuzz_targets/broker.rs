//! Feeds target `broker` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("broker");
