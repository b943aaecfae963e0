//! What an experiment ran on and with: for whoever reads its numbers later. Read from /proc, /sys and
//! git; what cannot be found out is left empty, but for the commit, which says why it is not known.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::programs::Programs;

/// The machine, and the programs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Surroundings {
    pub(crate) date: String,
    /// Of the current folder, or why none is known.
    pub(crate) commit: String,
    /// The tree held changes that are in no commit.
    pub(crate) has_changes: bool,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) processors: usize,
    pub(crate) memory: String,
    pub(crate) disk: String,
    pub(crate) file_system: String,
    pub(crate) mount_options: String,
    /// Length and CRC-32 of each program.
    pub(crate) programs: BTreeMap<String, String>,
}

impl Surroundings {
    /// Those of data in `directory`.
    ///
    /// # Errors
    /// A program cannot be read.
    pub(crate) fn look(directory: &Path, programs: &Programs) -> Result<Surroundings> {
        let mount = Mount::of(directory).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let meminfo = text("/proc/meminfo");
        let mut sums = BTreeMap::new();
        for path in programs.all() {
            let bytes = fs::read(path).with_context(|| path.display().to_string())?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            sums.insert(name, format!("{} bytes, {:08x}", bytes.len(), crc32fast::hash(&bytes)));
        }
        Ok(Surroundings {
            date: output("date", &["--utc", "+%Y-%m-%d %H:%M:%S UTC"]),
            commit: commit(Path::new(".")),
            has_changes: !output("git", &["status", "--porcelain"]).is_empty(),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: field(&cpuinfo, "model name"),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory: field(&meminfo, "MemTotal"),
            disk: disk(&mount.device),
            file_system: mount.file_system,
            mount_options: mount.options,
            programs: sums,
        })
    }

    /// Names and values, for people.
    pub(crate) fn rows(&self) -> Vec<(String, String)> {
        let changes = if self.has_changes { ", with changes" } else { "" };
        let mut rows = vec![
            ("date".to_owned(), self.date.clone()),
            ("commit".to_owned(), format!("{}{changes}", self.commit)),
            ("kernel".to_owned(), self.kernel.clone()),
            ("CPU".to_owned(), format!("{} processors, {}", self.processors, self.cpu)),
            ("memory".to_owned(), self.memory.clone()),
            ("disk".to_owned(), self.disk.clone()),
            ("file system".to_owned(), format!("{}, {}", self.file_system, self.mount_options)),
        ];
        rows.extend(self.programs.iter().map(|(name, sum)| (name.clone(), sum.clone())));
        rows
    }
}

/// Where a directory lies.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mount {
    device: String,
    file_system: String,
    options: String,
}

impl Mount {
    fn of(directory: &Path) -> Option<Mount> {
        let directory = fs::canonicalize(directory).ok()?;
        Mount::find(&text("/proc/self/mountinfo"), &directory)
    }

    /// The deepest mount point above `directory`; of several at one place, the last.
    ///
    /// Source: proc_pid_mountinfo(5).
    fn find(mountinfo: &str, directory: &Path) -> Option<Mount> {
        let mounts = mountinfo.lines().filter_map(|line| {
            let (place, device) = line.split_once(" - ")?;
            let place: Vec<&str> = place.split(' ').collect();
            let (point, options) = (*place.get(4)?, *place.get(5)?);
            let mut device = device.split(' ');
            let file_system = device.next()?.to_owned();
            let mount = Mount {
                file_system,
                device: device.next()?.to_owned(),
                options: format!("{options} ({})", device.next()?),
            };
            directory.starts_with(point).then_some((point.len(), mount))
        });
        mounts.max_by_key(|(length, _)| *length).map(|(_, mount)| mount)
    }
}

/// What is known of a block device.
fn disk(device: &str) -> String {
    let Some(name) = device.strip_prefix("/dev/") else { return device.to_owned() };
    // A partition lies in the folder of its disk.
    let whole = fs::canonicalize(format!("/sys/class/block/{name}"));
    let Ok(mut folder) = whole else { return device.to_owned() };
    if folder.join("partition").exists() {
        folder.pop();
    }
    let of = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
    let mut words = vec![device.to_owned(), of("device/model").trim().to_owned()];
    if let Ok(sectors) = of("size").trim().parse::<u64>() {
        words.push(format!("{} GiB", sectors / (2 << 20)));
    }
    words.push(match of("queue/rotational").trim() {
        "1" => "rotational or unknown".to_owned(),
        "0" => "solid state".to_owned(),
        _ => String::new(),
    });
    words.push(of("queue/write_cache").trim().to_owned());
    words.retain(|word| !word.is_empty());
    words.join(", ")
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of a `name: value` line.
fn field(text: &str, name: &str) -> String {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.trim() == name);
    found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// The commit that `folder` has checked out, or why none is known.
fn commit(folder: &Path) -> String {
    let asked = Command::new("git").current_dir(folder).args(["rev-parse", "HEAD"]).output();
    match asked {
        Ok(answer) if answer.status.success() => {
            String::from_utf8_lossy(&answer.stdout).trim().to_owned()
        }
        Ok(answer) => {
            let words = String::from_utf8_lossy(&answer.stderr);
            format!("unknown: git: {}", words.lines().next().unwrap_or_default())
        }
        Err(error) => format!("unknown: git: {error}"),
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.ok().filter(|output| output.status.success());
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_commit_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let said = commit(folder.path());
        assert!(said.starts_with("unknown: git: "), "{said}");
    }

    #[test]
    fn the_deepest_mount_above_a_directory_is_its_mount() {
        let mountinfo = "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
                         2 1 0:5 / /tmp rw - tmpfs tmpfs rw,size=1\n\
                         3 1 0:6 / /tmporary rw - xfs /dev/vdb rw\n";
        let file_system = |path: &str| Mount::find(mountinfo, Path::new(path)).unwrap().file_system;
        assert_eq!(file_system("/home/x"), "ext4");
        assert_eq!(file_system("/tmp/x"), "tmpfs");
        assert_eq!(file_system("/tmporary/x"), "xfs");
        assert_eq!(file_system("/tmpfile"), "ext4");
        let mount = Mount::find(mountinfo, Path::new("/x")).unwrap();
        assert_eq!((&*mount.device, &*mount.options), ("/dev/vda", "rw,relatime (rw,discard)"));
    }
}
