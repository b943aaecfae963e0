//! A node's files through power loss, at every operation on the disk: what was synced is there again, and
//! nothing that was never written.

use diskstore_storage::wal::SEGMENT_BYTES_MIN;

use super::*;
use crate::leaderless::replica::{Floor, Numbers};

/// What a directory should hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Model {
    keys: BTreeMap<Bytes, Held>,
    ceiling: u64,
    floor: u64,
}

/// One step of the script; each is one entry of the log.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Put(&'static str, u64, Option<&'static str>),
    Ceiling(u64),
    Floor(u64),
    /// One key is written, and another is dropped.
    Drop(&'static str, u64),
    Checkpoint,
    /// The log goes on in new files, and the old ones go with a checkpoint.
    Clean,
}

const SCRIPT: [Happening; 14] = [
    Happening::Put("a", 1, Some("x")),
    Happening::Put("b", 2, Some("y")),
    Happening::Ceiling(50),
    Happening::Put("a", 3, None),
    Happening::Checkpoint,
    Happening::Put("c", 4, Some("z")),
    Happening::Put("c", 4, Some("zz")),
    Happening::Drop("b", 5),
    Happening::Floor(3),
    Happening::Put("a", 6, Some("again")),
    Happening::Checkpoint,
    Happening::Put("e", 7, None),
    Happening::Clean,
    Happening::Put("f", 8, Some("last")),
];

/// A version of this millisecond.
fn at(ms: u64) -> Version {
    Version::last_at(Moment::new(ms))
}

fn held_at(ms: u64, value: Option<&str>) -> Held {
    Held { version: at(ms), value: value.map(bytes) }
}

impl Model {
    fn after(count: usize) -> Model {
        let mut model = Model::default();
        for happening in &SCRIPT[..count] {
            match *happening {
                Happening::Put(key, ms, value) => model.put(key, held_at(ms, value)),
                Happening::Ceiling(ceiling) => model.ceiling = ceiling,
                Happening::Floor(floor) => {
                    model.floor = floor;
                    let upto = at(floor);
                    model.keys.retain(|_, held| held.value.is_some() || held.version > upto);
                }
                Happening::Drop(key, ms) => {
                    model.put("dropped", held_at(ms, Some(key)));
                    model.keys.remove(key.as_bytes());
                }
                Happening::Checkpoint | Happening::Clean => {}
            }
        }
        model
    }

    fn put(&mut self, key: &str, held: Held) {
        let known = self.keys.entry(bytes(key)).or_default();
        if known.yields_to(&held) {
            *known = held;
        }
    }

    fn of(store: &Store) -> Model {
        let found = store.keys.all_from(0, usize::MAX).found;
        let held = |index, value| Held { version: Version::from_number(index), value };
        let keys = found.into_iter().map(|it| (it.key, held(it.index, it.value))).collect();
        let Numbers { ceiling, floor, .. } = &store.kept.numbers;
        Model { keys, ceiling: ceiling.get(), floor: floor.moment.get() }
    }
}

fn carry_out(store: &mut Store, happening: Happening) -> diskstore_storage::Result<()> {
    let numbers = store.kept.numbers.clone();
    match happening {
        Happening::Put(key, ms, value) => store.put(&bytes(key), &held_at(ms, value)),
        Happening::Ceiling(ceiling) => {
            store.put_numbers(Numbers { ceiling: Moment::new(ceiling), ..numbers });
        }
        Happening::Floor(floor) => {
            let moment = Moment::new(floor);
            store.put_numbers(Numbers { floor: Floor { moment, ..Floor::default() }, ..numbers });
        }
        Happening::Drop(key, ms) => {
            store.put(&bytes("dropped"), &held_at(ms, Some(key)));
            store.drop_key(key.as_bytes(), at(ms));
        }
        Happening::Checkpoint => {
            return store.checkpoint(&Arc::default()).map_or(Ok(()), |job| job.run().map(drop));
        }
        Happening::Clean => {
            store.note_forgotten();
            return store.clean_at_stop();
        }
    }
    if let Some(appended) = store.append()? {
        let synced = store.syncer.wait_blocking(appended.position);
        let path = PathBuf::from("wal");
        synced.map_err(|source| diskstore_storage::Error::Io {
            operation: "sync",
            path,
            offset: 0,
            source,
        })?;
    }
    if let Happening::Floor(floor) = happening {
        store.forget(Moment::new(floor));
    }
    Ok(())
}

fn open(disk: &SimDisk) -> Result<Store, RegistersStartError> {
    open_as(disk, &Cluster::new(1))
}

fn open_as(disk: &SimDisk, cluster: &Cluster) -> Result<Store, RegistersStartError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let host = Host { disk, ..Host::real() };
    let config = cluster.config(1);
    let own = NodeNumber::new(1).unwrap();
    let faults = Faults::new();
    let segment_bytes = 8 * SEGMENT_BYTES_MIN;
    let opened = Opening { host: &host, config: &config, own, faults, segment_bytes }.run()?;
    Ok(opened.store)
}

/// Runs the script until the power goes. Returns how many steps were acknowledged.
fn run(disk: &SimDisk) -> usize {
    let Ok(mut store) = open(disk) else { return 0 };
    let mut done = 0;
    for happening in SCRIPT {
        if carry_out(&mut store, happening).is_err() {
            break;
        }
        done += 1;
    }
    store.syncer.stop();
    done
}

#[test]
fn what_was_synced_is_there_after_power_loss_at_every_operation() {
    let mut index = 0;
    loop {
        let disk = SimDisk::new(index);
        disk.crash_at(index);
        let done = run(&disk);
        let is_over = !disk.is_power_lost();
        for mode in [CrashMode::Lost, CrashMode::All, CrashMode::Torn { seed: index }] {
            let left = disk.crash(mode);
            let store = open(&left).unwrap();
            let found = Model::of(&store);
            let next = (done + 1).min(SCRIPT.len());
            assert!(
                found == Model::after(done) || found == Model::after(next),
                "{done} steps were done when the power went at operation {index} ({mode:?}): {found:?}"
            );
            let sums = store::Overview::of(&store.keys, &store.layout, store.kept.own, 0).sums;
            assert_eq!(sums.len(), store.sums.len());
            store.syncer.stop();
        }
        if is_over {
            assert_eq!(done, SCRIPT.len());
            break;
        }
        index += 1;
    }
    assert!(index > 30, "{index} operations");
}

#[test]
fn a_directory_without_its_log_or_its_records_is_refused_by_name() {
    for lost in ["snapshot.dat", "wal"] {
        let disk = SimDisk::new(1);
        assert_eq!(run(&disk), SCRIPT.len());
        let disk = disk.copy();
        for path in disk.paths() {
            if path.to_string_lossy().contains(lost) {
                disk.remove(&path).unwrap();
            }
        }
        let error = open(&disk).unwrap_err().to_string();
        let is_named = error.contains(lost) || error.contains("entries are missing");
        assert!(is_named && error.contains("empty directory"), "{lost}: {error}");
    }
    let disk = SimDisk::new(1);
    disk.create_dir_all(&PathBuf::from("/node")).unwrap();
    for (name, words) in [("IDENTITY", "cluster with a leader"), ("000001.vlog", "import -from")] {
        let path = PathBuf::from("/node").join(name);
        disk.write_file(&path, b"x");
        let error = open(&disk).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        disk.remove(&path).unwrap();
    }
}

#[test]
fn the_log_that_a_start_finds_counts_towards_its_checkpoint() {
    let disk = SimDisk::new(1);
    run(&disk);
    let mut store = open(&disk).unwrap();
    store.put(&bytes("a"), &held_at(100_000, Some("x")));
    store.append().unwrap();
    drop(store);
    let mut store = open(&disk).unwrap();
    assert!(store.replayed_bytes > 0 && store.wal.log_bytes() == 0, "{}", store.replayed_bytes);
    assert!(store.checkpoint(&Arc::default()).is_some());
    assert_eq!(store.replayed_bytes, 0);
}

#[test]
fn an_entry_that_the_log_refuses_leaves_no_gap() {
    let mut store = open(&SimDisk::new(1)).unwrap();
    store.pending = vec![0; store.wal.payload_bytes_max() + 1];
    assert!(store.append().is_err());
    store.put(&bytes("a"), &held_at(1, Some("x")));
    let appended = store.append().unwrap().unwrap();
    store.syncer.wait_blocking(appended.position).unwrap();
    store.syncer.stop();
}

#[test]
fn a_first_start_that_was_cut_off_is_of_its_cluster_too() {
    let disk = SimDisk::new(1);
    open(&disk).unwrap().syncer.stop();
    let disk = disk.copy();
    disk.remove(&PathBuf::from("/node/snapshot.dat")).unwrap();
    let other = Cluster { layout: layout(1, 1, 7), ..Cluster::new(1) };
    let error = open_as(&disk, &other).map(drop).unwrap_err().to_string();
    assert!(error.contains("another layout"), "{error}");
    open(&disk).unwrap().syncer.stop();
}

/// Names of files that have these bytes.
fn names_with(disk: &SimDisk, bytes: &[u8]) -> Vec<PathBuf> {
    let has_it = |path: &PathBuf| {
        let found = disk.read_file(path).unwrap();
        found.windows(bytes.len()).any(|window| window == bytes)
    };
    disk.paths().into_iter().filter(has_it).collect()
}

#[test]
fn what_was_forgotten_is_in_no_file_of_a_node_that_stopped() {
    let disk = SimDisk::new(1);
    let mut store = open(&disk).unwrap();
    carry_out(&mut store, Happening::Put("gone-key", 1, Some("gone-value"))).unwrap();
    carry_out(&mut store, Happening::Put("kept-key", 1, Some("kept-value"))).unwrap();
    carry_out(&mut store, Happening::Checkpoint).unwrap();
    carry_out(&mut store, Happening::Put("gone-key", 2, None)).unwrap();
    carry_out(&mut store, Happening::Floor(3)).unwrap();
    store.forget_some();
    assert!(store.has_forgotten_in_files() && names_with(&disk, b"gone-value").len() > 1);
    store.clean_at_stop().unwrap();
    store.syncer.stop();
    for gone in ["gone-key", "gone-value"] {
        assert_eq!(names_with(&disk, gone.as_bytes()), Vec::<PathBuf>::new(), "{gone}");
    }
    drop(store);
    let store = open(&disk.crash(CrashMode::Lost)).unwrap();
    assert_eq!(store.held(b"kept-key"), held_at(1, Some("kept-value")));
    store.syncer.stop();
}
