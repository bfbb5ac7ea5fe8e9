//! Feeds target `control` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("control");
