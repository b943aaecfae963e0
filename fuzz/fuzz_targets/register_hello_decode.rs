#![no_main]
diskstore_fuzz::fuzz!("register_hello_decode");
