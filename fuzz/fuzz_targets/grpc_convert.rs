#![no_main]
diskstore_fuzz::fuzz!("grpc_convert");
