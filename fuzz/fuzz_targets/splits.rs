//! Feeds target `splits` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("splits");
