//! Which file system a directory is on, by the name that the kernel has for its kind. Nodes say it of
//! their data, `diskstore doctor` of a directory on its own machine. Depends on nothing.
//!
//! - I1: the mount is found by its id, or by its device: never by comparing paths, which links and
//!   mounts over mounts make say something else.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// Where the kernel lists the mounts that this process sees.
const MOUNTS: &str = "/proc/self/mountinfo";
/// Most bytes that are read of it; a machine with containers has hundreds of mounts.
const MOUNTS_BYTES_MAX: u64 = 4 << 20;
/// Columns of a line up to the optional ones: proc(5).
const ID_COLUMN: usize = 0;
const DEVICE_COLUMN: usize = 2;

/// What a kind of file system means for data that is to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// It is on a disk, as far as its name says.
    Disk,
    /// It is memory: gone with the machine.
    Memory,
    /// It is the writable layer of a container: gone with the container.
    Layer,
    /// It is on another machine: as far and as safe as that one.
    Network,
}

/// The kind of the file system that `directory` is on, such as `ext4`.
///
/// # Errors
/// The directory's, or those of the list of mounts, or `NotFound` for a mount that is not listed.
pub fn kind_of(directory: &Path) -> io::Result<String> {
    let found =
        statx(CWD, directory, AtFlags::empty(), StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    let knows_mount = found.stx_mask & StatxFlags::MNT_ID.bits() != 0; // since Linux 5.8
    let device = format!("{}:{}", found.stx_dev_major, found.stx_dev_minor);
    let mount = knows_mount.then(|| found.stx_mnt_id.to_string());
    let mut list = String::new();
    File::open(MOUNTS)?.take(MOUNTS_BYTES_MAX).read_to_string(&mut list)?;
    let kind = kind_in(&list, mount.as_deref(), &device);
    kind.map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The kind of the mount with this id, or else of the last one of this device.
fn kind_in<'a>(list: &'a str, mount: Option<&str>, device: &str) -> Option<&'a str> {
    let by = |column: usize, wanted: &str| {
        let is_wanted = |line: &&str| line.split(' ').nth(column) == Some(wanted);
        list.lines().rev().find(is_wanted).and_then(kind_on)
    };
    mount.and_then(|id| by(ID_COLUMN, id)).or_else(|| by(DEVICE_COLUMN, device))
}

/// The first word behind the lone dash that ends the optional columns.
fn kind_on(line: &str) -> Option<&str> {
    line.split_once(" - ")?.1.split(' ').next()
}

impl Lasting {
    /// What the name of a kind says. A kind that is not known counts as a disk.
    pub fn of(kind: &str) -> Lasting {
        match kind {
            "tmpfs" | "ramfs" | "devtmpfs" | "rootfs" => Lasting::Memory,
            "overlay" | "aufs" => Lasting::Layer,
            "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "ceph" | "afs" | "glusterfs" | "lustre"
            | "beegfs" | "gpfs" | "virtiofs" => Lasting::Network,
            kind if kind.starts_with("fuse.") || kind == "fuse" => Lasting::Network,
            _ => Lasting::Disk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /tmp rw shared:4 master:2 - tmpfs tmpfs rw,size=1g
41 22 0:31 / /mnt/a\\040-\\040b rw - nfs4 host:/a rw
42 41 8:1 /over /mnt/a rw - xfs /dev/sda1 rw
";

    #[test]
    fn a_mount_is_found_by_its_id_and_else_by_its_device() {
        assert_eq!(kind_in(LIST, Some("30"), "9:9"), Some("tmpfs"));
        assert_eq!(kind_in(LIST, Some("22"), "9:9"), Some("ext4"));
        assert_eq!(kind_in(LIST, Some("99"), "0:31"), Some("nfs4"));
        assert_eq!(kind_in(LIST, None, "8:1"), Some("xfs"), "what was mounted last");
        assert_eq!(kind_in(LIST, Some("99"), "9:9"), None);
        assert_eq!(kind_in("22 1 8:1 / / rw", Some("22"), ""), None, "cut off");
    }

    #[test]
    fn a_directory_of_this_machine_has_a_kind_and_one_that_has_gone_an_error() {
        assert_eq!(kind_of(Path::new("/proc")).unwrap(), "proc");
        let directory = tempfile::tempdir().unwrap();
        assert!(!kind_of(directory.path()).unwrap().is_empty());
        assert!(kind_of(&directory.path().join("gone")).is_err());
    }

    #[test]
    fn kinds_that_do_not_last_are_told_from_disks() {
        let kinds = ["ext4", "tmpfs", "overlay", "nfs4", "fuse.sshfs", "xfs", "unheard-of"];
        let expected = [
            Lasting::Disk,
            Lasting::Memory,
            Lasting::Layer,
            Lasting::Network,
            Lasting::Network,
            Lasting::Disk,
            Lasting::Disk,
        ];
        assert_eq!(kinds.map(Lasting::of), expected);
    }
}
