//! Makes messages, servers and clients of the .proto files, without protoc.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 2] = ["diskstore.proto", "konsen.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    // Values stay slices of the message that they came in.
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::BoundedCodec")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
