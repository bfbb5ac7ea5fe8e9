//! Feeds target `ledger` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("ledger");
