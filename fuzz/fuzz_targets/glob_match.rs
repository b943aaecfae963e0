#![no_main]
diskstore_fuzz::fuzz!("glob_match");
