#![no_main]
diskstore_fuzz::fuzz!("http_read");
