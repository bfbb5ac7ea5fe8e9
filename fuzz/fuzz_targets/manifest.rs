//! Feeds target `manifest` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("manifest");
