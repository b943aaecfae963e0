#![no_main]
diskstore_fuzz::fuzz!("text_decode");
