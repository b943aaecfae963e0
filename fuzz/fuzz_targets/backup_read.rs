#![no_main]
diskstore_fuzz::fuzz!("backup_read");
