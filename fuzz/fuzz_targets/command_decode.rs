#![no_main]
diskstore_fuzz::fuzz!("command_decode");
