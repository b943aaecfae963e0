//! The file of `-cluster`, which lists all members of a cluster: konsen's `cluster.yml`, the
//! `config.json` of KVStore, or TOML. What it says is checked here as far as the file alone tells:
//! every member has a name and an address, and none is there twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::file::read_text;
use super::{Address, ConfigError, LIST_COUNT_MAX, is_name};

/// How far the client port is from the raft port where a file has none.
const CLIENT_PORT_STEP: u16 = 10_000;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFile {
    /// The member that this node is, if the file says so (`localServerName`, or `id` in TOML).
    pub local: Option<String>,
    /// All members, in the order of their names.
    pub members: Vec<Listed>,
}

/// A member as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Where the other members reach it.
    pub raft: Address,
    /// Where it listens for clients.
    pub client: Address,
}

/// What is wrong with a file of `-cluster`.
#[derive(Debug, thiserror::Error)]
pub enum ClusterFileError {
    /// The end of its name tells nobody what it is.
    #[error("give a file whose name ends in .yml, .yaml, .json or .toml")]
    Kind,
    /// It cannot be read as what its name says; a key may be unknown, or there twice.
    #[error("not valid: {reason}")]
    Syntax {
        /// Where and what.
        reason: String,
    },
    /// No members, or too many.
    #[error("`{key}` lists {count} members; list 1 to {LIST_COUNT_MAX}")]
    Count {
        /// Where they are listed.
        key: &'static str,
        /// How many there are.
        count: usize,
    },
    /// A name that a file name or a log line could not take.
    #[error(
        "`{key}`: `{value}` is no name; one is 1 to 64 letters, digits, `-`, `_` or `.`, and begins \
         with a letter, a digit or `_`"
    )]
    Name {
        /// Where it is.
        key: &'static str,
        /// What is there.
        value: String,
    },
    /// A member without an address.
    #[error("`{key}` has no address; give HOST:PORT")]
    NoAddress {
        /// Where it is missing.
        key: String,
    },
    /// Text that is no address.
    #[error("`{key}: {value}`: {reason}; give HOST:PORT")]
    Address {
        /// Where it is.
        key: String,
        /// What is there.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An address that names no machine.
    #[error("`{key}: {value}` is no address that the other members can reach")]
    NoHost {
        /// Where it is.
        key: String,
        /// What is there.
        value: Address,
    },
    /// One address for two purposes.
    #[error("`{first}` and `{second}` are both {address}; give each its own")]
    Twice {
        /// Where it is first.
        first: String,
        /// Where it is again.
        second: String,
        /// The address.
        address: Address,
    },
    /// A member twice.
    #[error("`{key}: {value}` is there twice")]
    NamedTwice {
        /// Where they are.
        key: &'static str,
        /// The name.
        value: String,
    },
    /// An address for clients of nobody.
    #[error("`{key}` is no member: `servers` does not list it")]
    NoServer {
        /// Where it is.
        key: String,
    },
    /// The number of members that the file gives is not the one that it lists.
    #[error(
        "`object.total` is {total}, and `Servers` lists {count}; correct the one that is wrong"
    )]
    Total {
        /// What it gives.
        total: u64,
        /// How many it lists.
        count: usize,
    },
}

/// konsen's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Konsen {
    servers: BTreeMap<String, Option<String>>,
    http_servers: Option<BTreeMap<String, Option<String>>>,
    local_server_name: Option<String>,
}

/// The file of KVStore.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KvStore {
    object: KvStoreObject,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KvStoreObject {
    total: u64,
    #[serde(rename = "Servers")]
    servers: Vec<KvStoreServer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KvStoreServer {
    mypid: u64,
    url: Option<String>,
}

/// Our own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    id: Option<String>,
    members: BTreeMap<String, OwnMember>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnMember {
    raft: Option<String>,
    port: Option<String>,
}

/// A member whose addresses are text still, with the keys that they stand under.
struct Raw {
    name: String,
    raft: Keyed,
    client: Option<Keyed>,
}

struct Keyed {
    key: String,
    text: Option<String>,
}

/// Reads a file.
///
/// # Errors
/// One that cannot be read, is too long, or does not say what it must; with its path.
pub(super) fn read(path: &Path) -> Result<ClusterFile, ConfigError> {
    let text = read_text("cluster", path)?;
    parse(path, &text).map_err(|source| ConfigError::Cluster { path: path.to_owned(), source })
}

/// Reads what a file of this name holds.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(path: &Path, text: &str) -> Result<ClusterFile, ClusterFileError> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("yml" | "yaml") => of_yaml(text),
        Some("json") => of_json(text),
        Some("toml") => of_toml(text),
        _ => Err(ClusterFileError::Kind),
    }
}

fn syntax(reason: &impl ToString) -> ClusterFileError {
    ClusterFileError::Syntax { reason: reason.to_string().trim_end().to_owned() }
}

fn of_yaml(text: &str) -> Result<ClusterFile, ClusterFileError> {
    let options = serde_saphyr::options! { with_snippet: false };
    let file: Konsen =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| syntax(&error))?;
    let Konsen { servers, http_servers, local_server_name } = file;
    if let Some(clients) = &http_servers
        && let Some(name) = clients.keys().find(|name| !servers.contains_key(*name))
    {
        return Err(ClusterFileError::NoServer { key: format!("httpServers.{name}") });
    }
    let client_of = |name: &str| {
        let text = http_servers.as_ref()?.get(name).cloned().flatten();
        Some(Keyed { key: format!("httpServers.{name}"), text })
    };
    let raws = servers.into_iter().map(|(name, text)| Raw {
        raft: Keyed { key: format!("servers.{name}"), text },
        client: client_of(&name),
        name,
    });
    checked("servers", local_server_name, raws.collect())
}

fn of_json(text: &str) -> Result<ClusterFile, ClusterFileError> {
    let file: KvStore = serde_json::from_str(text).map_err(|error| syntax(&error))?;
    let KvStoreObject { total, servers } = file.object;
    if total != servers.len() as u64 {
        return Err(ClusterFileError::Total { total, count: servers.len() });
    }
    let raws = servers.into_iter().map(|KvStoreServer { mypid, url }| Raw {
        name: mypid.to_string(),
        raft: Keyed { key: format!("url of mypid {mypid}"), text: url },
        client: None,
    });
    checked("mypid", None, raws.collect())
}

fn of_toml(text: &str) -> Result<ClusterFile, ClusterFileError> {
    let Own { id, members } = toml::from_str(text).map_err(|error| syntax(&error))?;
    let raws = members.into_iter().map(|(name, OwnMember { raft, port })| Raw {
        raft: Keyed { key: format!("members.{name}.raft"), text: raft },
        client: port.map(|text| Keyed { key: format!("members.{name}.port"), text: Some(text) }),
        name,
    });
    checked("members", id, raws.collect())
}

/// What every form must say.
fn checked(
    key: &'static str,
    local: Option<String>,
    raws: Vec<Raw>,
) -> Result<ClusterFile, ClusterFileError> {
    if !(1..=LIST_COUNT_MAX).contains(&raws.len()) {
        return Err(ClusterFileError::Count { key, count: raws.len() });
    }
    let mut members = BTreeMap::new();
    let mut seen: Vec<(String, Address)> = Vec::new();
    let mut once = |key: String, address: &Address| {
        if let Some((first, _)) = seen.iter().find(|(_, other)| other == address) {
            let (first, address) = (first.clone(), address.clone());
            return Err(ClusterFileError::Twice { first, second: key, address });
        }
        seen.push((key, address.clone()));
        Ok(())
    };
    for Raw { name, raft, client } in raws {
        if !is_name(&name) {
            return Err(ClusterFileError::Name { key, value: name });
        }
        if members.contains_key(&name) {
            return Err(ClusterFileError::NamedTwice { key, value: name });
        }
        let raft_key = raft.key.clone();
        let raft = address_of(raft)?;
        if raft.is_wildcard() {
            return Err(ClusterFileError::NoHost { key: raft_key, value: raft });
        }
        once(raft_key, &raft)?;
        let (client_key, client) = if let Some(client) = client {
            (client.key.clone(), address_of(client)?)
        } else {
            (format!("clients of {name}"), beside(&raft))
        };
        if !client.is_wildcard() {
            once(client_key, &client)?; // each machine has its own of `0.0.0.0:20001`
        }
        members.insert(name.clone(), Listed { name, raft, client });
    }
    Ok(ClusterFile { local, members: members.into_values().collect() })
}

fn address_of(Keyed { key, text }: Keyed) -> Result<Address, ClusterFileError> {
    let Some(value) = text.filter(|text| !text.is_empty()) else {
        return Err(ClusterFileError::NoAddress { key });
    };
    Address::parse(&value).map_err(|reason| ClusterFileError::Address { key, value, reason })
}

/// Where a member listens for clients whose file has one address for each member only.
fn beside(raft: &Address) -> Address {
    let port = raft.port.checked_add(CLIENT_PORT_STEP);
    Address { host: raft.host.clone(), port: port.unwrap_or_else(|| raft.port - CLIENT_PORT_STEP) }
}

/// A file and the member of it that a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) file: ClusterFile,
}

impl Found {
    /// The member that this node is: the one that `-id` names, or the file itself.
    pub(super) fn own(&self, id: Option<&str>) -> Result<&Listed, ConfigError> {
        let members = &self.file.members;
        let names =
            || members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
        let Some(id) = id.or(self.file.local.as_deref()) else {
            return Err(ConfigError::NoLocalName { path: self.path.clone(), names: names() });
        };
        members.iter().find(|member| member.name == id).ok_or_else(|| ConfigError::NotListed {
            path: self.path.clone(),
            id: id.to_owned(),
            names: names(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "servers:\n  b: h:2\n  a: h:1\nhttpServers:\n  a: 0.0.0.0:21\n  b: 0.0.0.0:21\n\
                        localServerName: b\n";
    const JSON: &str = r#"{"object": {"total": 2, "Servers": [
        {"mypid": 2, "url": "h:60000"}, {"mypid": 1, "url": "h:1"}]}}"#;
    const TOML: &str = "id = \"b\"\n[members.b]\nraft = \"h:2\"\n[members.a]\nraft = \"h:1\"\n\
                        port = \"h:3\"\n";

    fn read(name: &str, text: &str) -> Result<ClusterFile, ClusterFileError> {
        parse(Path::new(name), text)
    }

    fn listed(name: &str, raft: &str, client: &str) -> Listed {
        let address = |text| Address::parse(text).unwrap();
        Listed { name: name.into(), raft: address(raft), client: address(client) }
    }

    #[test]
    fn the_three_forms_say_the_same_things() {
        let yaml = read("cluster.yml", YAML).unwrap();
        assert_eq!(yaml.local.as_deref(), Some("b"));
        let (a, b) = (listed("a", "h:1", "0.0.0.0:21"), listed("b", "h:2", "0.0.0.0:21"));
        assert_eq!(yaml.members, [a, b], "in the order of their names");
        let json = read("config.JSON", JSON).unwrap();
        assert_eq!(json.local, None);
        let far = listed("2", "h:60000", "h:50000");
        assert_eq!(json.members, [listed("1", "h:1", "h:10001"), far]);
        let toml = read("cluster.toml", TOML).unwrap();
        assert_eq!(toml.local.as_deref(), Some("b"));
        assert_eq!(toml.members, [listed("a", "h:1", "h:3"), listed("b", "h:2", "h:10002")]);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        let of_json = |total: u32, servers: &str| {
            format!("{{\"object\": {{\"total\": {total}, \"Servers\": [{servers}]}}}}")
        };
        let one = r#"{"mypid": 1, "url": "h:1"}"#;
        let many: Vec<String> = (0..65).map(|nth| format!("  n{nth}: h:{}\n", nth + 1)).collect();
        let many = many.concat();
        for (name, text, words) in [
            ("c.txt", String::new(), "ends in .yml"),
            ("c.yml", "servers: [".into(), "not valid"),
            ("c.yml", "servers:\n  a: h:1\nserver: 1\n".into(), "server"),
            ("c.yml", "servers:\n  a: h:1\n  a: h:2\n".into(), "a"),
            ("c.yml", "servers: {}\n".into(), "`servers` lists 0 members"),
            ("c.yml", format!("servers:\n{many}"), "`servers` lists 65 members"),
            ("c.yml", "servers:\n  a:\n".into(), "`servers.a` has no address"),
            ("c.yml", "servers:\n  a: h\n".into(), "`servers.a: h`: the port is no number"),
            ("c.yml", "servers:\n  a: 0.0.0.0:1\n".into(), "`servers.a: 0.0.0.0:1` is no address"),
            ("c.yml", "servers:\n  a/b: h:1\n".into(), "`servers`: `a/b` is no name"),
            (
                "c.yml",
                "servers:\n  a: h:1\n  b: h:1\n".into(),
                "`servers.a` and `servers.b` are both h:1",
            ),
            (
                "c.yml",
                "servers:\n  a: h:1\nhttpServers:\n  a: h:1\n".into(),
                "`servers.a` and `httpServers.a` are both h:1",
            ),
            (
                "c.yml",
                "servers:\n  a: h:1\n  b: h:2\nhttpServers:\n  a: h:3\n".into(),
                "`httpServers.b` has no address",
            ),
            (
                "c.yml",
                "servers:\n  a: h:1\nhttpServers:\n  b: h:3\n".into(),
                "`httpServers.b` is no member",
            ),
            ("c.json", of_json(2, one), "`object.total` is 2, and `Servers` lists 1"),
            ("c.json", of_json(2, &format!("{one},{one}")), "`mypid: 1` is there twice"),
            (
                "c.json",
                of_json(1, r#"{"mypid": 1, "url": "127.0.0.1:100006"}"#),
                "`url of mypid 1: 127.0.0.1:100006`: the port is no number from 1 to 65535",
            ),
            ("c.json", of_json(1, r#"{"mypid": 1}"#), "`url of mypid 1` has no address"),
            ("c.json", of_json(1, r#"{"mypid": 1, "uri": "h:1"}"#), "unknown field `uri`"),
            ("c.toml", "[members.a]\nport = \"h:1\"\n".into(), "`members.a.raft` has no address"),
            ("c.toml", "[members.a]\nrapt = \"h:1\"\n".into(), "rapt"),
        ] {
            let error = read(name, &text).expect_err(&text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn no_text_makes_a_reader_panic() {
        let deep = "[".repeat(100_000);
        let bomb = "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: [*c,*c,*c,*c]\n";
        for name in ["c.yml", "c.json", "c.toml"] {
            for text in [deep.as_str(), bomb, "\u{feff}", "\0", "- ", "? :", "%YAML 9\n---\n"] {
                assert!(read(name, text).is_err(), "{name}: {text:.20}");
            }
            for whole in [YAML, JSON, TOML] {
                for end in 0..whole.len() {
                    let (before, behind) = whole.split_at(end);
                    drop(read(name, before));
                    for strange in ["", ":", "\"", "{", "-", "\u{7f}", "999999999999999999999"] {
                        let behind = behind.get(1..).unwrap_or_default();
                        drop(read(name, &format!("{before}{strange}{behind}")));
                    }
                }
            }
        }
    }
}
