//! Feeds target `protobuf` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("protobuf");
