//! The flags of `certs` as typed.

use std::path::PathBuf;

use clap::Args;

use super::{Form, Number, parse_boolean};

/// Certificates to make; nothing is checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CertsFlags {
    /// A member's -id; behind it host names and addresses under which clients reach it, beside its name
    /// and this machine.
    #[arg(value_name = "NAME[=HOST,...]")]
    pub members: Vec<String>,
    /// Names of clients, with commas.
    #[arg(long, value_name = "NAMES")]
    pub client: Option<String>,
    /// Where the authority is, or is made, and where folders go.
    #[arg(long, value_name = "DIR", default_value = "./certs", alias = "o")]
    pub out: PathBuf,
    /// How long a certificate is valid, in days.
    #[arg(long, value_name = "N", default_value = "365")]
    pub days: Number,
    /// Replaces certificates and keys that are there, for the same hosts unless others are named; without
    /// names all that are in -out.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub renew: bool,
    /// Makes a second authority, which signs from now on; every ca.crt in -out then holds both.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub new_ca: bool,
    /// Takes the older authority out of every ca.crt in -out, once it has signed none of what is there.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub drop_old_ca: bool,
    /// What is printed.
    #[command(flatten)]
    pub form: Form,
}
