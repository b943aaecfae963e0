#![no_main]
diskstore_fuzz::fuzz!("frame_decode");
