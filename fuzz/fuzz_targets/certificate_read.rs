#![no_main]
diskstore_fuzz::fuzz!("certificate_read");
