#![no_main]
diskstore_fuzz::fuzz!("protobuf_decode");
