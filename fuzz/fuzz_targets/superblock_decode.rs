#![no_main]
diskstore_fuzz::fuzz!("superblock_decode");
