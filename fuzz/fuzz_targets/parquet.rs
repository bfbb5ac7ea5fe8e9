//! Feeds target `parquet` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("parquet");
