#![no_main]
diskstore_fuzz::fuzz!("slots_open");
