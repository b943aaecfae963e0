#![no_main]
diskstore_fuzz::fuzz!("cluster_file_parse");
