#![no_main]
diskstore_fuzz::fuzz!("config_parse");
