#![no_main]
diskstore_fuzz::fuzz!("keys_open");
