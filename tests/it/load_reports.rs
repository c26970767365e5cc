//! The files that `bench serve` writes its reports to.

use crate::support::process::{Process, command, model_file};
use std::path::Path;
use std::process::Output;

fn bench(target: &str, flag: &str, path: &Path) -> Output {
    let mut command = command();
    command.args(["bench", "serve", "--target", target, "--concurrency", "1", "--requests", "1", "--warm-up", "0"]);
    command.args(["--prompt-tokens", "4", "--gen-tokens", "2", flag]).arg(path).output().expect("the binary runs")
}

/// Nobody listens: a run that began would end with 69.
#[test]
fn what_cannot_be_written_is_told_before_the_run() {
    let directory = tempfile::tempdir().expect("a folder");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = format!("http://{}", socket.local_addr().expect("bound"));
    drop(socket);
    let missing = directory.path().join("none/report");
    for path in [missing.as_path(), directory.path()] {
        for flag in ["--json", "--html"] {
            let output = bench(&nobody, flag, path);
            let line = String::from_utf8(output.stderr).expect("UTF-8");
            assert_eq!((output.status.code(), line.lines().count()), (Some(74), 1), "{line}");
            assert!(line.contains(flag) && line.contains(path.to_str().expect("UTF-8")), "{line}");
        }
    }
    // In the working folder.
    assert_eq!(bench(&nobody, "--json", Path::new("report.json")).status.code(), Some(69));
}

/// A report that exists stays until the new one is whole: the new one is another file. Devices are written to.
#[test]
fn reports_are_replaced_as_a_whole() {
    let (directory, model) = model_file();
    let mut process = Process::start(&model, &[]);
    process.ready();
    let target = format!("http://{}", process.grpc);
    let [out, old] = ["out", "old"].map(|name| directory.path().join(name));
    for (flag, begin) in [("--json", "{"), ("--html", "<!")] {
        std::fs::write(&out, "an older report").expect("written");
        std::fs::hard_link(&out, &old).expect("linked");
        let output = bench(&target, flag, &out);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(std::fs::read_to_string(&out).expect("read").starts_with(begin));
        assert_eq!(std::fs::read_to_string(&old).expect("read"), "an older report");
        std::fs::remove_file(&old).expect("removed");
        // The model and the report.
        assert_eq!(std::fs::read_dir(directory.path()).expect("a folder").count(), 2);
    }
    assert!(bench(&target, "--json", Path::new("/dev/null")).status.success());
    let output = bench(&target, "--json", Path::new("/dev/stdout"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"completed\": 1"));
}
