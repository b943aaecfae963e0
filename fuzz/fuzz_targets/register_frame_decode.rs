#![no_main]
diskstore_fuzz::fuzz!("register_frame_decode");
