#![no_main]
diskstore_fuzz::fuzz!("resp_decode");
