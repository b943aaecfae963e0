#![no_main]
diskstore_fuzz::fuzz!("wal_recover");
