#![no_main]
diskstore_fuzz::fuzz!("leaderless_parse");
