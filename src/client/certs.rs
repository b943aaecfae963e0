//! `certs`: makes the certificates that `-tls` takes, and replaces them.
//!
//! - I1: what is asked for is checked before the first file is written; a file appears as a whole, and
//!   only its owner may read it.
//! - I2: no key is printed, and none is written but by its own name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{ClientError, print};
use crate::cli::CertsFlags;
use crate::config::{is_name, number};
use crate::tls::authority::{self, Authority, Validity};
use crate::tls::{self, AUTHORITY_FILE, Bearer, CERTIFICATE_FILE, Certificate, KEY_FILE, Pair};

/// The key of the authority that signs.
const AUTHORITY_KEY_FILE: &str = "ca.key";
/// The key of the one before it.
const OLD_KEY_FILE: &str = "ca.key.old";
/// How long an authority is valid, in days.
const AUTHORITY_DAYS: u64 = 3650;
/// Most days of a certificate: those of an authority.
const DAYS_MAX: u64 = AUTHORITY_DAYS;
const DAY_SECS: u64 = 86_400;
/// A certificate is valid from so long ago on: the clocks of others may be slow.
const BACKDATED_SECS: u64 = 3600;
/// Most names of one call, and hosts of one name.
const NAME_COUNT_MAX: usize = 256;
/// Most bytes of a host name.
const HOST_BYTES_MAX: usize = 253;
/// Most bytes of a file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Hosts of every member: it may be asked on its own machine.
const OWN_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    bearer: Bearer,
    hosts: Vec<String>,
    directory: PathBuf,
}

/// A file that was written.
#[derive(Debug, Serialize)]
struct Written {
    file: PathBuf,
    /// What it is.
    what: String,
    /// Host names and addresses of a member.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<String>,
    /// When it ends, in seconds since 1970; none for a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<i64>,
}

/// Makes what was asked for.
pub(super) fn run(flags: &CertsFlags, out: &mut dyn Write) -> Result<(), ClientError> {
    let mut work = Work::new(flags)?;
    if flags.new_ca {
        work.add_authority()?;
    }
    if flags.drop_old_ca {
        work.drop_authority()?;
    }
    for wanted in std::mem::take(&mut work.wanted) {
        work.issue(&wanted)?;
    }
    if flags.form.json {
        let json = serde_json::to_string(&work.written).map_err(io::Error::from);
        let json = json.map_err(|source| ClientError::local("writing JSON", source))?;
        return print(out, format!("{json}\n").as_bytes());
    }
    let mut lines = Vec::new();
    for Written { file, what, hosts, not_after } in &work.written {
        let hosts = if hosts.is_empty() { String::new() } else { format!(", {}", hosts.join(" ")) };
        let end = not_after.map_or_else(String::new, |end| format!(", until {}", tls::date(end)));
        lines.push(format!("{}: {what}{hosts}{end}\n", file.display()));
    }
    print(out, lines.concat().as_bytes())
}

/// One call.
struct Work {
    out: PathBuf,
    days: u64,
    now: u64,
    /// Certificates of authorities, the one that signs first.
    authorities: Vec<String>,
    signer: Authority,
    wanted: Vec<Wanted>,
    written: Vec<Written>,
}

impl Work {
    /// Checks what was asked for, and makes an authority if there is none (I1).
    fn new(flags: &CertsFlags) -> Result<Work, ClientError> {
        let days = number("days", flags.days.clone(), 1, DAYS_MAX)?;
        let out = flags.out.clone();
        let mut wanted = wanted(flags)?;
        let is_empty = wanted.is_empty() && !flags.new_ca && !flags.drop_old_ca && !flags.renew;
        if is_empty {
            let reason =
                "name members, or clients with -client, such as: diskstore certs node0 node1 node2";
            return Err(ClientError::flag("out", "", reason));
        }
        if flags.new_ca && flags.drop_old_ca {
            let reason = "one follows the other: members have to have certificates of the new authority, \
                          and run with them, before the old one goes";
            return Err(ClientError::flag("drop-old-ca", "", reason));
        }
        let may_replace = flags.renew;
        if may_replace && wanted.is_empty() {
            wanted = folders(&out)?;
        }
        for wanted in &mut wanted {
            check_folder(wanted, may_replace)?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (certificate_file, key_file) = (out.join(AUTHORITY_FILE), out.join(AUTHORITY_KEY_FILE));
        let mut written = Vec::new();
        let found = (read(&certificate_file)?, read(&key_file)?);
        let (authorities, signer) = match found {
            (Some(certificates), Some(key)) => {
                let split = authority::split(certificates.as_bytes());
                let authorities =
                    split.map_err(|reason| ClientError::file(&certificate_file, reason))?;
                let signer = Authority::load(&certificates, &key);
                (
                    authorities,
                    signer.map_err(|error| ClientError::file(&key_file, error.to_string()))?,
                )
            }
            (None, None) if flags.new_ca || flags.drop_old_ca => {
                return Err(ClientError::file(&certificate_file, "there is no authority yet"));
            }
            (None, None) => {
                make_folder(&out)?;
                let (signer, pair) = generate(now)?;
                put(&key_file, &pair.key)?;
                put(&certificate_file, &pair.certificate)?;
                let file = [&certificate_file, &key_file];
                written.extend(authority_lines(file, &pair));
                (vec![String::from_utf8_lossy(&pair.certificate).into_owned()], signer)
            }
            (None, Some(_)) => {
                return Err(ClientError::file(&certificate_file, "it is not there, and ca.key is"));
            }
            (Some(_), None) => {
                let reason =
                    "it is not there: without the key of the authority nothing can be signed";
                return Err(ClientError::file(&key_file, reason));
            }
        };
        Ok(Work { out, days, now, authorities, signer, wanted, written })
    }

    /// Makes the second authority, which signs from now on.
    fn add_authority(&mut self) -> Result<(), ClientError> {
        let files = [self.out.join(AUTHORITY_FILE), self.out.join(AUTHORITY_KEY_FILE)];
        let [certificate_file, key_file] = &files;
        if self.authorities.len() > 1 {
            let reason = "it holds two authorities already: renew what the older one signed (-renew), \
                          and take that out with -drop-old-ca";
            return Err(ClientError::file(certificate_file, reason));
        }
        let (signer, pair) = generate(self.now)?;
        // The key first under its new name: one that was lost could sign nothing any more.
        let old = read(key_file)?.unwrap_or_default();
        put(&self.out.join(OLD_KEY_FILE), old.as_bytes())?;
        self.authorities.insert(0, String::from_utf8_lossy(&pair.certificate).into_owned());
        put(key_file, &pair.key)?;
        put(certificate_file, self.authorities.concat().as_bytes())?;
        self.signer = signer;
        self.written.extend(authority_lines([certificate_file, key_file], &pair));
        self.spread_authorities()
    }

    /// Takes the older authorities out.
    fn drop_authority(&mut self) -> Result<(), ClientError> {
        let certificate_file = self.out.join(AUTHORITY_FILE);
        if self.authorities.len() < 2 {
            return Err(ClientError::file(&certificate_file, "it holds one authority alone"));
        }
        for folder in folders(&self.out)? {
            let file = folder.directory.join(CERTIFICATE_FILE);
            let certificate = read(&file)?.unwrap_or_default();
            let signer = self.authorities.first().map_or("", String::as_str);
            if !authority::has_signed(signer, certificate.as_bytes()) {
                let reason = "the older authority signed it: renew it first, with -renew";
                return Err(ClientError::file(&file, reason));
            }
        }
        self.authorities.truncate(1);
        put(&certificate_file, self.authorities.concat().as_bytes())?;
        let old_key = self.out.join(OLD_KEY_FILE);
        match fs::remove_file(&old_key) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ClientError::local(format!("removing {}", old_key.display()), error));
            }
            Ok(()) | Err(_) => {}
        }
        let what = "the newer authority alone".to_owned();
        self.written.push(Written { file: certificate_file, what, hosts: vec![], not_after: None });
        self.spread_authorities()
    }

    /// Gives every folder the authorities that are trusted now.
    fn spread_authorities(&mut self) -> Result<(), ClientError> {
        for folder in folders(&self.out)? {
            let file = folder.directory.join(AUTHORITY_FILE);
            put(&file, self.authorities.concat().as_bytes())?;
            let what = format!("authorities that {} trusts", folder.bearer);
            self.written.push(Written { file, what, hosts: vec![], not_after: None });
        }
        Ok(())
    }

    fn issue(&mut self, wanted: &Wanted) -> Result<(), ClientError> {
        let Wanted { bearer, hosts, directory } = wanted;
        let validity = validity(self.now, self.days);
        let signer = self.authorities.first().map_or("", String::as_str);
        let end = authority::end(signer).map_err(|reason| ClientError::file(&self.out, reason))?;
        if i64::try_from(validity.not_after).unwrap_or(i64::MAX) > end {
            let reason = format!(
                "the authority ends on {}, before that: choose fewer -days, or make another with -new-ca",
                tls::date(end)
            );
            return Err(ClientError::flag("days", &self.days.to_string(), &reason));
        }
        let pair = self.signer.issue(bearer, hosts, validity);
        let pair = pair.map_err(|error| ClientError::file(directory, error.to_string()))?;
        make_folder(directory)?;
        put(&directory.join(AUTHORITY_FILE), self.authorities.concat().as_bytes())?;
        put(&directory.join(KEY_FILE), &pair.key)?;
        put(&directory.join(CERTIFICATE_FILE), &pair.certificate)?;
        let read = Certificate::read_pem(&pair.certificate);
        let read = read.map_err(|reason| ClientError::file(directory, reason))?;
        self.written.push(Written {
            file: directory.join(CERTIFICATE_FILE),
            what: bearer.to_string(),
            hosts: read.hosts,
            not_after: Some(read.not_after),
        });
        let (file, what) = (directory.join(KEY_FILE), format!("key of {bearer}"));
        self.written.push(Written { file, what, hosts: vec![], not_after: None });
        Ok(())
    }
}

fn validity(now: u64, days: u64) -> Validity {
    Validity {
        not_before: now.saturating_sub(BACKDATED_SECS),
        not_after: now.saturating_add(days * DAY_SECS),
    }
}

/// A new authority. Two of a cluster differ in name.
fn generate(now: u64) -> Result<(Authority, Pair), ClientError> {
    let number =
        getrandom::u32().map_err(|error| ClientError::local("drawing a name", error.into()))?;
    let name = format!("diskstore CA {number:08x}");
    // A day more, so that a certificate of as many days fits in.
    let made = Authority::generate(&name, validity(now, AUTHORITY_DAYS + 1));
    made.map_err(|error| ClientError::local("making an authority", io::Error::other(error)))
}

fn authority_lines(files: [&PathBuf; 2], pair: &Pair) -> [Written; 2] {
    let end = authority::end(&String::from_utf8_lossy(&pair.certificate)).ok();
    let [certificate, key] = files.map(Clone::clone);
    let written = |file, what: &str, not_after| Written {
        file,
        what: what.to_owned(),
        hosts: Vec::new(),
        not_after,
    };
    [
        written(certificate, "the authority", end),
        written(key, "key of the authority: keep it where no node is", None),
    ]
}

/// What the arguments name.
fn wanted(flags: &CertsFlags) -> Result<Vec<Wanted>, ClientError> {
    let members = flags.members.iter().map(|text| {
        let (name, hosts) = text.split_once('=').unwrap_or((text, ""));
        let bearer = Bearer::Member(name.to_owned());
        let given: Vec<&str> = hosts.split(',').filter(|host| !host.is_empty()).collect();
        let own = [name].into_iter().chain(OWN_HOSTS);
        let is_given = text.contains('=');
        let mut all: Vec<String> = Vec::new();
        for host in own.chain(given) {
            if !all.iter().any(|other| other == host) {
                all.push(host.to_owned());
            }
        }
        (text.as_str(), bearer, is_given.then_some(all))
    });
    let clients = flags.client.as_deref().map_or(Vec::new(), |list| list.split(',').collect());
    let clients =
        clients.into_iter().map(|name| (name, Bearer::Client(name.to_owned()), Some(Vec::new())));
    let mut wanted: Vec<Wanted> = Vec::new();
    for (text, bearer, hosts) in members.chain(clients) {
        let flag = if matches!(bearer, Bearer::Member(_)) { "out NAME" } else { "client" };
        if !is_name(bearer.name()) {
            let reason = "a name has up to 64 letters, digits and -_. and begins with none of -.";
            return Err(ClientError::flag(flag, text, reason));
        }
        let is_host = |host: &String| {
            let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*:".contains(&byte);
            host.len() <= HOST_BYTES_MAX && host.bytes().all(is_part)
        };
        if !hosts.iter().flatten().all(is_host) {
            return Err(ClientError::flag(
                flag,
                text,
                "hosts are names or addresses, with commas, without ports",
            ));
        }
        if wanted.iter().any(|other| other.bearer == bearer) || wanted.len() >= NAME_COUNT_MAX {
            return Err(ClientError::flag(flag, text, "it is named twice, or too many are named"));
        }
        let directory = flags.out.join(folder_name(&bearer));
        wanted.push(Wanted { bearer, hosts: hosts.unwrap_or_default(), directory });
    }
    Ok(wanted)
}

/// The folder of a member is called like it; that of a client begins with `client-`.
fn folder_name(bearer: &Bearer) -> String {
    match bearer {
        Bearer::Member(name) => name.clone(),
        Bearer::Client(name) => format!("client-{name}"),
    }
}

/// Refuses to replace what is there without leave, or what is another's (I1), and adopts its hosts
/// where none are named.
fn check_folder(wanted: &mut Wanted, may_replace: bool) -> Result<(), ClientError> {
    let file = wanted.directory.join(CERTIFICATE_FILE);
    let found = read(&file)?;
    let has_key = wanted.directory.join(KEY_FILE).exists();
    if !may_replace && (found.is_some() || has_key) {
        return Err(ClientError::file(
            &file,
            "it is there already; -renew replaces it, and its key",
        ));
    }
    let is_member = matches!(wanted.bearer, Bearer::Member(_));
    if let Some(found) = found {
        let read = Certificate::read_pem(found.as_bytes())
            .map_err(|reason| ClientError::file(&file, reason))?;
        if read.bearer != wanted.bearer {
            return Err(ClientError::file(
                &file,
                format!("it is the certificate of {}", read.bearer),
            ));
        }
        if wanted.hosts.is_empty() {
            wanted.hosts = read.hosts;
        }
    } else if wanted.hosts.is_empty() && is_member {
        let own = [wanted.bearer.name()].into_iter().chain(OWN_HOSTS);
        wanted.hosts = own.map(str::to_owned).collect();
    }
    Ok(())
}

/// The folders that hold certificates already.
fn folders(out: &Path) -> Result<Vec<Wanted>, ClientError> {
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) => return Err(ClientError::local(format!("reading {}", out.display()), error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry
            .map_err(|error| ClientError::local(format!("reading {}", out.display()), error))?;
        let directory = entry.path();
        let file = directory.join(CERTIFICATE_FILE);
        if !directory.is_dir() {
            continue;
        }
        if let Some(pem) = read(&file)? {
            let read = Certificate::read_pem(pem.as_bytes())
                .map_err(|reason| ClientError::file(&file, reason))?;
            found.push(Wanted { bearer: read.bearer, hosts: read.hosts, directory });
        }
    }
    found.sort_by(|one, other| one.directory.cmp(&other.directory));
    Ok(found)
}

/// The text of a file; `None` if it is not there.
fn read(path: &Path) -> Result<Option<String>, ClientError> {
    let read = File::open(path).and_then(|file| {
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, FILE_BYTES_MAX), &mut text)?;
        Ok(text)
    });
    match read {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ClientError::local(format!("reading {}", path.display()), error)),
    }
}

fn make_folder(path: &Path) -> Result<(), ClientError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| ClientError::local(format!("making {}", path.display()), error))
}

/// Writes a file as a whole, for its owner alone (I1).
fn put(path: &Path, bytes: &[u8]) -> Result<(), ClientError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let write = || {
        // What an interrupted call left.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| ClientError::local(format!("writing {}", path.display()), error))
}
