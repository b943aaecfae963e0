#![no_main]
diskstore_fuzz::fuzz!("tokens_parse");
