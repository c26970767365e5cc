//! What the cgroups of this process leave of the machine's memory.
//!
//! A cgroup's limit holds for what all below it use together, so those above the process's own count too. Cached pages
//! of files that nothing used lately (`inactive_file`) are taken back before a limit stops anyone: they count as free.

use std::fs;
use std::path::Path;

/// The files of a hierarchy's cgroups.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// The line of `memory.stat` that counts the cgroups below too.
    inactive_file: &'static str,
}

const V2: Files = Files { limit: "memory.max", usage: "memory.current", inactive_file: "inactive_file" };
const V1: Files =
    Files { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", inactive_file: "total_inactive_file" };

/// A limit from here on is none: v1 says the largest number of whole pages.
const NO_LIMIT: u64 = 1 << 60;

/// Bytes that the cgroups leave: the least of the process's own and those above it. `None` where none has a limit that
/// can be read.
///
/// `own` is the text of `/proc/self/cgroup`; `root` is where cgroups are mounted, `/sys/fs/cgroup`: the v2 hierarchy
/// itself, or the memory controller of v1 in the folder `memory`. In a container the paths of `own` may be those of
/// the machine, which are not there; the container's limit is then at the root of the hierarchy.
pub fn available_bytes(own: &str, root: &Path) -> Option<u64> {
    let v2 = hierarchy(root, path_of(own, ""), &V2);
    let v1 = hierarchy(&root.join("memory"), path_of(own, "memory"), &V1);
    v2.into_iter().chain(v1).min()
}

/// The process's cgroup in the hierarchy of a controller, relative to the root; that of v2 has no name.
fn path_of<'a>(own: &'a str, controller: &str) -> &'a Path {
    let mut lines = own.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    });
    let path = lines.next().unwrap_or_default();
    // One outside of what this process can see: only the root can be read.
    let outside = path.split('/').any(|name| name == "..");
    Path::new(if outside { "" } else { path.trim_start_matches('/') })
}

fn hierarchy(root: &Path, own: &Path, files: &Files) -> Option<u64> {
    own.ancestors().filter_map(|cgroup| left(&root.join(cgroup), files)).min()
}

/// What one cgroup leaves. What cannot be read of its use counts as nothing used, or nothing cached.
fn left(cgroup: &Path, files: &Files) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(cgroup.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let limit = number(files.limit).filter(|limit| *limit < NO_LIMIT)?;
    let cached = read("memory.stat").and_then(|text| stat(&text, files.inactive_file)).unwrap_or(0);
    let used = number(files.usage).unwrap_or(0).saturating_sub(cached);
    Some(limit.saturating_sub(used))
}

/// A line of `memory.stat`, in bytes.
fn stat(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A tree of files with their contents.
    fn tree(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        root
    }

    fn available(own: &str, files: &[(&str, &str)]) -> Option<u64> {
        available_bytes(own, tree(files).path())
    }

    #[test]
    fn every_v2_cgroup_up_to_the_root_counts() {
        covers!("KVC-6");
        let own = "0::/system.slice/llorch.service\n";
        let of_service = [
            ("system.slice/llorch.service/memory.max", "5000\n"),
            ("system.slice/llorch.service/memory.current", "1200\n"),
        ];
        let of_slice = [("system.slice/memory.max", "9000\n"), ("system.slice/memory.current", "5500\n")];
        let of_root = [("memory.max", "7000\n"), ("memory.current", "6500\n")];
        let beside = [("system.slice/other.service/memory.max", "1\n")];
        assert_eq!(available(own, &[&of_service[..], &beside].concat()), Some(3800));
        assert_eq!(available(own, &[&of_service[..], &of_slice].concat()), Some(3500), "the parent leaves less");
        assert_eq!(available(own, &[&of_service[..], &of_slice, &of_root].concat()), Some(500));
        let unlimited = [("memory.max", "max\n"), ("memory.current", "6500\n")];
        assert_eq!(available(own, &[&of_service[..], &unlimited].concat()), Some(3800));
    }

    #[test]
    fn v1_is_read_where_its_memory_controller_is() {
        covers!("KVC-6");
        let own = "9:name=systemd:/elsewhere\n5:cpu,memory:/docker/a:b\n1:cpu:/tight\n0::/\n";
        let files = [
            ("memory/docker/a:b/memory.limit_in_bytes", "4000\n"),
            ("memory/docker/a:b/memory.usage_in_bytes", "1000\n"),
            ("memory/docker/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/docker/memory.usage_in_bytes", "2000\n"),
            ("memory/tight/memory.limit_in_bytes", "1\n"),
        ];
        assert_eq!(available(own, &files), Some(3000));
    }

    /// Where the paths are the machine's, and where the process is outside of what it sees.
    #[test]
    fn the_root_counts_where_the_own_path_is_not_there() {
        covers!("KVC-6");
        let v1 = [("memory/memory.limit_in_bytes", "4000\n"), ("memory/memory.usage_in_bytes", "1000\n")];
        assert_eq!(available("4:memory:/docker/abc\n", &v1), Some(3000));
        let v2 = [("root/memory.max", "4000\n"), ("beside/memory.max", "1\n")];
        assert_eq!(available_bytes("0::/../beside\n", &tree(&v2).path().join("root")), Some(4000));
        assert_eq!(available_bytes("", &tree(&v2).path().join("root")), Some(4000), "no /proc");
    }

    #[test]
    fn cached_files_count_as_free() {
        covers!("KVC-6");
        let v2 = [
            ("a/memory.max", "5000\n"),
            ("a/memory.current", "4000\n"),
            ("a/memory.stat", "anon 900\nfile 3100\nactive_file 100\ninactive_file 3000\n"),
        ];
        assert_eq!(available("0::/a\n", &v2), Some(4000));
        let v1 = [
            ("memory/memory.limit_in_bytes", "5000\n"),
            ("memory/memory.usage_in_bytes", "4000\n"),
            ("memory/memory.stat", "inactive_file 1\ntotal_inactive_file 2000\n"),
        ];
        assert_eq!(available("4:memory:/\n", &v1), Some(3000));
    }

    #[test]
    fn no_limit_and_files_that_cannot_be_read_are_no_limit() {
        covers!("KVC-6");
        assert_eq!(available("0::/a\n", &[]), None);
        assert_eq!(available("0::/a\n", &[("a/memory.max", "max\n"), ("a/memory.current", "10\n")]), None);
        let huge = [("memory/memory.limit_in_bytes", "9223372036854771712\n"), ("memory/memory.usage_in_bytes", "1\n")];
        assert_eq!(available("4:memory:/\n", &huge), None);
        assert_eq!(available("0::/a\n", &[("a/memory.max", "many\n"), ("a/memory.current", "10\n")]), None);
        // A folder cannot be read as a file.
        assert_eq!(available("0::/a\n", &[("a/memory.max/x", ""), ("memory.max", "70\n")]), Some(70));
        let odd = [("memory.max", "70\n"), ("memory.current", "50\n"), ("memory.stat", "inactive_file\nfile 3\n")];
        assert_eq!(available("no colon\n1:two\n", &odd), Some(20));
        let over = [("memory.max", "70\n"), ("memory.current", "90\n")];
        assert_eq!(available("0::/\n", &over), Some(0), "reclaim is under way");
    }
}
