//! Feeds target `handshake` of `highwater::fuzzing`.
#![no_main]

highwater_fuzz::feed!("handshake");
