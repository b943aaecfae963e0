#![no_main]
diskstore_fuzz::fuzz!("order_decode");
