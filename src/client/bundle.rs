//! `diskstore bundle`: a folder for each member that a file of `-cluster` lists, with all that its
//! machine needs. Called by `client`; calls `config`, by which every member's settings are checked.
//!
//! - I1: nothing is written before every member could start with what its folder will hold.
//! - I2: a folder that is there already is never touched, and a new one is whole.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{ClientError, print};
use crate::cli::{BundleFlags, Settings};
use crate::config::{self, Config, Listed, MachineKind, row};

/// The unit of one node, as it stands among the files for deployment.
const UNIT: &str = include_str!("../../deploys/systemd/diskstore.service");
/// What each node's own settings are called.
const SETTINGS: &str = "diskstore.toml";
const START: &str = "start.sh";
/// Settings that differ between nodes, or that a bundle gives them.
const NOT_FOR_ALL: [&str; 6] = ["id", "cluster", "data", "port", "raft", "join"];

/// What every folder is made of.
struct Parts<'a> {
    machine: MachineKind,
    program: PathBuf,
    members_name: String,
    members_text: String,
    /// Settings of all nodes, as they were written.
    shared: String,
    at: &'a Path,
}

/// A folder, as `-json` prints it.
#[derive(Debug, Serialize)]
struct Folder<'a> {
    name: &'a str,
    folder: String,
    raft: String,
    port: String,
    unit: String,
}

/// Makes the folders, and says what they are.
///
/// # Errors
/// A file that is wrong, members that could not start, a folder that is there already, a failed write.
pub(super) fn run(flags: &BundleFlags, out: &mut dyn Write) -> Result<(), ClientError> {
    let BundleFlags { file, output, config, program, at, form } = flags;
    let (parts, members) = parts(file, config.as_deref(), program.as_deref(), at)?;
    for member in &members {
        let folder = output.join(&member.name);
        if folder.symlink_metadata().is_ok() {
            return Err(ClientError::file(
                &folder,
                "is there already; give another -o, or move it away",
            ));
        }
    }
    let part_of = |member: &Listed| output.join(format!(".{}.part", member.name));
    let made = members.iter().try_for_each(|member| parts.write(member, &part_of(member)));
    let made = made.and_then(|()| {
        members.iter().try_for_each(|member| {
            fs::rename(part_of(member), output.join(&member.name))
                .map_err(failed(&output.join(&member.name)))
        })
    });
    if let Err(error) = made {
        for member in &members {
            drop(fs::remove_dir_all(part_of(member))); // what is left is hidden, and replaced
        }
        return Err(error);
    }
    let folders: Vec<_> = members.iter().map(|member| parts.folder(member, output)).collect();
    if form.json {
        let value = serde_json::json!({ "nodes": folders });
        return print(out, format!("{value}\n").as_bytes());
    }
    let lines = folders.iter().map(|Folder { name, folder, raft, port, .. }| {
        format!("{name}  {folder}  members {raft}  clients {port}\n")
    });
    let (program, at) = (parts.program_name(), at.display());
    let text = format!(
        "{}Bring each folder to its machine and run its {START}, in any order; once a majority runs they \
         are a cluster.\nOr put it at {at}/NAME, and let systemd run {program}-NAME.service.\n",
        lines.collect::<String>()
    );
    print(out, text.as_bytes())
}

/// Reads and checks everything (I1).
fn parts<'a>(
    file: &Path,
    config: Option<&Path>,
    program: Option<&Path>,
    at: &'a Path,
) -> Result<(Parts<'a>, Vec<Listed>), ClientError> {
    if !at.is_absolute() {
        return Err(ClientError::file(
            at,
            "-at: give the whole path that the folders will have, from /",
        ));
    }
    let program = if let Some(program) = program {
        program.to_owned()
    } else {
        let found = std::env::current_exe();
        found.map_err(|source| ClientError::local("finding this program", source))?
    };
    let kinds = [MachineKind::Slots, MachineKind::Memory];
    let machine = kinds.into_iter().find(|kind| program.ends_with(row(*kind).program));
    let machine = machine.ok_or_else(|| {
        ClientError::file(&program, "-program: it is called diskstore or kvstore")
    })?;
    let about =
        fs::metadata(&program).map_err(|error| ClientError::file(&program, error.to_string()))?;
    if !about.is_file() || about.permissions().mode() & 0o111 == 0 {
        return Err(ClientError::file(&program, "-program: that is no program"));
    }
    let settings =
        |id: Option<String>| Settings { id, cluster: Some(file.into()), ..Settings::default() };
    let listed = config::members_of(file)?;
    for member in &listed {
        Config::load(machine, settings(Some(member.name.clone())), config)?;
    }
    let shared = match config {
        Some(config) => shared_settings(config)?,
        None => String::new(),
    };
    let members_name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    if [SETTINGS, START, row(machine).program].contains(&members_name.as_str()) {
        return Err(ClientError::file(
            file,
            "a folder has another file of this name; call it cluster.yml or so",
        ));
    }
    let members_text = fs::read_to_string(file).map_err(failed(file))?;
    Ok((Parts { machine, program, members_name, members_text, shared, at }, listed))
}

/// The text of settings for all nodes, none of which is for one of them alone.
fn shared_settings(path: &Path) -> Result<String, ClientError> {
    let text =
        fs::read_to_string(path).map_err(|error| ClientError::file(path, error.to_string()))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| ClientError::file(path, error.to_string().trim_end()))?;
    match NOT_FOR_ALL.into_iter().find(|name| table.contains_key(*name)) {
        Some(name) => Err(ClientError::file(
            path,
            format!("`{name}` differs between nodes: a bundle sets it itself"),
        )),
        None => Ok(text),
    }
}

impl Parts<'_> {
    fn program_name(&self) -> &'static str {
        row(self.machine).program
    }

    fn unit_name(&self, name: &str) -> String {
        format!("{}-{name}.service", self.program_name())
    }

    fn folder<'b>(&self, member: &'b Listed, output: &Path) -> Folder<'b> {
        let Listed { name, raft, client } = member;
        Folder {
            name,
            folder: output.join(name).display().to_string(),
            raft: raft.to_string(),
            port: client.to_string(),
            unit: self.unit_name(name),
        }
    }

    /// Writes one member's folder; what an interrupted run has left there goes first.
    fn write(&self, member: &Listed, folder: &Path) -> Result<(), ClientError> {
        let name = &member.name;
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(folder)(error));
            }
            _ => fs::create_dir_all(folder).map_err(failed(folder))?,
        }
        let put = |file: &str, text: &str, mode: u32| {
            let path = folder.join(file);
            let written = fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)));
            written.map_err(failed(&path))
        };
        let program = folder.join(self.program_name());
        let copied = fs::copy(&self.program, &program)
            .and_then(|_| fs::set_permissions(&program, fs::Permissions::from_mode(0o755)));
        copied.map_err(failed(&program))?;
        put(&self.members_name, &self.members_text, 0o644)?;
        put(SETTINGS, &self.settings(name), 0o644)?;
        put(START, &self.start(), 0o755)?;
        put(&self.unit_name(name), &self.unit(name), 0o644)
    }

    fn settings(&self, name: &str) -> String {
        let members = serde_json::Value::from(self.members_name.as_str()); // as TOML quotes text
        let own = format!("id = \"{name}\"\ncluster = {members}\ndata = \"data\"\n");
        if self.shared.is_empty() { own } else { format!("{own}\n{}", self.shared) }
    }

    fn start(&self) -> String {
        let program = self.program_name();
        format!(
            "#!/bin/sh\n# Runs this node; its files are in data/. Flags given here win over {SETTINGS}.\n\
             cd -- \"$(dirname -- \"$0\")\" && exec ./{program} -config {SETTINGS} \"$@\"\n"
        )
    }

    /// The unit of deploys/, for this folder: paths in the settings are within its state directory.
    fn unit(&self, name: &str) -> String {
        let (program, members) = (self.program_name(), &self.members_name);
        let quoted = |file: &str| {
            let path = self.at.join(name).join(file).display().to_string();
            format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
        };
        let mut unit = format!(
            "# One node of a cluster: systemctl enable --now \"$PWD\"/{program}-{name}.service\n"
        );
        for line in UNIT.lines().skip_while(|line| line.starts_with('#')) {
            let own = match line.split_once('=') {
                Some(("Description", _)) => format!("Description={program} node {name}"),
                Some(("ExecStart", _)) => format!(
                    "ExecStart={} -config {} -cluster {}\nWorkingDirectory=%S/{program}-{name}",
                    quoted(program),
                    quoted(SETTINGS),
                    quoted(members)
                ),
                Some(("StateDirectory", _)) => format!("StateDirectory={program}-{name}"),
                _ => line.to_owned(),
            };
            unit.push_str(&own);
            unit.push('\n');
        }
        unit
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ClientError {
    let what = format!("writing {}", path.display());
    move |source| ClientError::local(what, source)
}
