#![no_main]
diskstore_fuzz::fuzz!("file_inspect");
