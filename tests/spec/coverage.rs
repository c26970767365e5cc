//! What a run of the tests covered: a log beside each test executable, `<profile>/spec-coverage/<executable>.log`.
//!
//! A run begins its log anew. The first line names the executable, the time it was built, and the source it was built
//! from, so that a log of another build or another checkout is told apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::UNIX_EPOCH;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Made by `covers!` at the beginning of a test; at its end the test has checked the requirements.
pub struct Covered {
    ids: Vec<String>,
    test: String,
}

impl Covered {
    /// `place` is the type of a closure within the test, whose path begins with the test's.
    pub fn new(ids: &[&str], place: &str) -> Self {
        let test = place.split("::{{").next().unwrap_or(place);
        let test = test.strip_prefix("llorch_cpud::").unwrap_or(test);
        Self { ids: ids.iter().map(|id| (*id).to_owned()).collect(), test: test.to_owned() }
    }
}

impl Drop for Covered {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.ids.iter().for_each(|id| append(&format!("covers\t{id}\t{}", self.test)));
        }
    }
}

/// Says that a test works with the numbers of a validation table.
pub fn table_was_read(id: &str, name: &str) {
    append(&format!("table\t{id}\t{name}"));
}

fn append(line: &str) {
    static LOG: OnceLock<Mutex<File>> = OnceLock::new();
    let log = LOG.get_or_init(|| Mutex::new(begin_log()));
    let mut log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    log.write_all(format!("{line}\n").as_bytes()).expect("the coverage log can be written");
}

fn begin_log() -> File {
    let exe = std::env::current_exe().expect("a test has an executable");
    let folder = log_folder(&exe);
    fs::create_dir_all(&folder).expect("the folder of coverage logs");
    let head = Head { built: built(&exe), root: ROOT.into(), is_full: is_full(std::env::args().skip(1)) };
    let path = folder.join(format!("{}.log", file_name(&exe)));
    // Appending keeps lines whole where two runs meet.
    fs::write(&path, format!("{}\n", head.line())).expect("a coverage log can be made");
    OpenOptions::new().append(true).open(path).expect("the log just made")
}

/// Whether a test executable called with these arguments runs all its tests.
fn is_full(args: impl Iterator<Item = String>) -> bool {
    let mut takes_value = false;
    for arg in args {
        let is_value = std::mem::take(&mut takes_value);
        if ["--skip", "--ignored", "--exact", "--list"].iter().any(|part| arg.starts_with(part)) {
            return false;
        }
        if !arg.starts_with('-') && !is_value {
            return false;
        }
        takes_value = ["--test-threads", "--color", "--format", "--logfile", "-Z"].contains(&arg.as_str());
    }
    true
}

/// `<profile>/spec-coverage` for `<profile>/deps/<executable>`.
fn log_folder(exe: &Path) -> PathBuf {
    let profile = exe.ancestors().nth(2).expect("an executable in target/<profile>/deps");
    profile.join("spec-coverage")
}

fn file_name(path: &Path) -> String {
    path.file_name().expect("a file").to_string_lossy().into_owned()
}

/// When an executable was built, in nanoseconds; 0 where it is gone.
fn built(exe: &Path) -> u128 {
    let time = fs::metadata(exe).and_then(|data| data.modified()).ok();
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |age| age.as_nanos())
}

/// The first line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// [`built`] of the executable that ran.
    pub built: u128,
    /// The folder of the package.
    pub root: String,
    /// No test was left out by the arguments.
    pub is_full: bool,
}

impl Head {
    pub fn line(&self) -> String {
        format!("run\t{}\t{}\t{}", self.built, self.root, if self.is_full { "full" } else { "part" })
    }

    pub fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split('\t');
        if parts.next() != Some("run") {
            return None;
        }
        let (built, root) = (parts.next()?.parse().ok()?, parts.next()?.to_owned());
        Some(Self { built, root, is_full: parts.next()? == "full" })
    }
}

/// What tests said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Requirement to tests.
    pub tests: BTreeMap<String, BTreeSet<String>>,
    /// Requirement and name of each validation table that was read.
    pub tables: BTreeSet<(String, String)>,
}

impl Coverage {
    /// Takes the lines of a log after its first.
    pub fn add(&mut self, log: &str) {
        for line in log.lines().skip(1) {
            match line.split('\t').collect::<Vec<_>>()[..] {
                ["covers", id, test] => {
                    self.tests.entry(id.into()).or_default().insert(test.into());
                }
                ["table", id, name] => {
                    self.tables.insert((id.into(), name.into()));
                }
                _ => panic!("a coverage log has the line {line:?}"),
            }
        }
    }
}

/// A log as it lies beside its executable.
pub struct Log {
    /// `it` of `it-0123abcd.log`.
    pub target: String,
    /// [`built`] of the executable as it is now.
    pub built: u128,
    pub text: String,
}

/// The logs beside the executable that calls.
pub fn logs() -> Vec<Log> {
    let exe = std::env::current_exe().expect("a test has an executable");
    let folder = exe.parent().expect("a folder").to_owned();
    let Ok(entries) = fs::read_dir(log_folder(&exe)) else { return Vec::new() };
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let name = path.file_stem()?.to_string_lossy().into_owned();
        let target = name.rsplit_once('-')?.0.to_owned();
        Some(Log { target, built: built(&folder.join(&name)), text: fs::read_to_string(path).ok()? })
    };
    entries.filter_map(read).collect()
}

/// What the newest build of each of `targets` covered in its last run.
///
/// # Errors
/// One line that says which target has no log of a full run of its present executable.
pub fn of_targets(targets: &[&str], root: &str, logs: &[Log]) -> Result<Coverage, String> {
    let mut coverage = Coverage::default();
    for target in targets {
        let heads = logs.iter().filter(|log| log.target == *target).filter_map(|log| {
            let head = Head::parse(log.text.lines().next()?)?;
            (head.root == root && head.built == log.built && head.built > 0).then_some((head, log))
        });
        match heads.max_by_key(|(head, _)| head.built) {
            Some((head, log)) if head.is_full => coverage.add(&log.text),
            Some(_) => return Err(format!("the last run of {target} left tests out: run `cargo test`")),
            None => return Err(format!("the tests of {target} as built now have not run: run `cargo test`")),
        }
    }
    Ok(coverage)
}

/// [`of_targets`] of this package.
///
/// # Errors
/// As there.
pub fn of_this_build() -> Result<Coverage, String> {
    of_targets(&["llorch_cpud", "it"], ROOT, &logs())
}
