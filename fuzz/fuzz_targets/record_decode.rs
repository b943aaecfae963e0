#![no_main]
diskstore_fuzz::fuzz!("record_decode");
