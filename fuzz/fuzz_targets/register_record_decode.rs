#![no_main]
diskstore_fuzz::fuzz!("register_record_decode");
