//! Makes messages, servers and clients of the .proto files, without protoc.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

const FILES: [&str; 2] = ["diskstore.proto", "konsen.proto"];
/// Where the file of the leaderless API is: its users' command lines say `-proto api/api.proto`.
const API_FOLDER: &str = "../api";
const API_FILE: &str = "api.proto";
/// Fields of that file which are declared as text and may hold any bytes.
const TEXT_OF_BYTES: [(&str, &[&str]); 3] =
    [("Entry", &["key", "value"]), ("GetRequest", &["key"]), ("InfoResponse", &["keys"])];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-changed={API_FOLDER}/{API_FILE}");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["."])?;
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Values stay slices of the message that they came in.
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::BoundedCodec")
        .build_transport(false)
        .compile_fds(descriptors)?;
    let mut api = protox::compile([API_FILE], [API_FOLDER])?;
    std::fs::write(out.join("api_descriptors.bin"), api.encode_to_vec())?;
    read_text_as_bytes(&mut api)?;
    // No request of this API has a repeated field, so its messages need no bound on their fields.
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(api)?;
    Ok(())
}

/// Has the fields of [`TEXT_OF_BYTES`] read as bytes, which is the same on the wire: a string that is no
/// UTF-8 would be refused.
fn read_text_as_bytes(set: &mut FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    let file = set.file.iter_mut().find(|file| file.package() == "api").ok_or("no package api")?;
    for (message, names) in TEXT_OF_BYTES {
        let described = file.message_type.iter_mut().find(|found| found.name() == message);
        let described = described.ok_or_else(|| format!("no message {message}"))?;
        for name in names {
            let field = described.field.iter_mut().find(|field| field.name() == *name);
            field.ok_or_else(|| format!("no field {name} of {message}"))?.set_type(Type::Bytes);
        }
    }
    Ok(())
}
