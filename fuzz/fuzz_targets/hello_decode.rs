#![no_main]
diskstore_fuzz::fuzz!("hello_decode");
