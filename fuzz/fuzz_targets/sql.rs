//! Feeds target `sql` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("sql");
