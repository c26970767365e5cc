//! The `serve` command as a process of its own, on free ports.

use super::client::{Completion, Stream, endpoint, eventually, metric};
use super::random::Random;
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::server::proto::GenerateRequest;
use llorch_cpud::server::proto::inference_client::InferenceClient;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use tonic::transport::Channel;

/// A server process with the addresses it bound. Killed on drop.
pub struct Process {
    child: Child,
    /// None once closed.
    stderr: Option<BufReader<ChildStderr>>,
    pub grpc: SocketAddr,
    pub metrics: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary, without the settings of this machine.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llorch-cpud"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LLORCH_")) {
        command.env_remove(name);
    }
    command
}

/// Runs to the end with a pipe for stdout whose other end is closed.
pub fn without_reader(command: &mut Command) -> Output {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    command.stdout(writer).output().expect("the binary runs")
}

impl Process {
    /// Starts `serve` on free ports and reads them from its log. Returns before the model is loaded.
    pub fn start(model: &Path, flags: &[&str]) -> Self {
        Self::start_with(command().args(["serve", "--model"]).arg(model).args(flags))
    }

    /// As [`Process::start`], with environment variables.
    pub fn start_with_env(model: &Path, flags: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_with(command().args(["serve", "--model"]).arg(model).args(flags).envs(env.iter().copied()))
    }

    /// As [`Process::start`], with the embedded model.
    pub fn start_demo() -> Self {
        Self::start_with(command().arg("serve"))
    }

    fn start_with(serve: &mut Command) -> Self {
        let mut child = serve
            .args(["--listen", "127.0.0.1:0"])
            .env("LLORCH_THREADS", "2")
            .env("LLORCH_METRICS_LISTEN", "127.0.0.1:0")
            .env("LLORCH_KV_CACHE", "4MiB")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let grpc = address_after(&mut stderr, "--listen ");
        let metrics = address_after(&mut stderr, "--metrics-listen ");
        Self { child, stderr: Some(stderr), grpc, metrics }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub async fn connect(&self) -> Channel {
        endpoint(self.grpc).connect().await.expect("the server listens")
    }

    /// Waits until the model is served.
    pub fn ready(&mut self) {
        line_with(self.stderr.as_mut().expect("the log is open"), "serving");
    }

    /// Waits until the model is served, and hands over the log after that.
    pub fn log_from_ready(&mut self) -> impl BufRead + use<> {
        self.ready();
        self.stderr.take().expect("the log is open")
    }

    /// Nobody reads the log any more: writing to it fails.
    pub fn close_log(&mut self) {
        self.stderr = None;
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    pub fn exit(&mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        if let Some(stderr) = &mut self.stderr {
            stderr.read_to_string(&mut rest).expect("UTF-8");
        }
        (self.child.wait().expect("the process ends"), rest)
    }

    pub fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.metrics).expect("connected");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    /// The metrics once nothing runs or waits. Panics when that never comes.
    pub async fn idle_metrics(&self) -> String {
        let busy = ["llorch_kv_blocks{state=\"used\"}", "llorch_batch_sequences"];
        let idle = || busy.iter().all(|name| metric(&self.metrics(), name) == 0.0);
        eventually("the server is idle", idle).await;
        self.metrics()
    }
}

fn line_with(stderr: &mut impl BufRead, part: &str) -> String {
    let mut line = String::new();
    while !line.contains(part) {
        line.clear();
        assert!(stderr.read_line(&mut line).expect("UTF-8") > 0, "the log ended without {part:?}");
    }
    line
}

fn address_after(stderr: &mut impl BufRead, flag: &str) -> SocketAddr {
    let line = line_with(stderr, flag);
    let (_, address) = line.trim_end().rsplit_once(' ').expect("an address");
    address.parse().expect("an address")
}

/// The whole answer to a request that ends well.
pub async fn collect(channel: &Channel, wanted: GenerateRequest) -> Completion {
    let stream = InferenceClient::new(channel.clone()).generate(wanted).await.expect("accepted").into_inner();
    Stream(stream).collect().await.expect("a good end")
}

/// A model file that lasts as long as the directory.
pub fn model_file() -> (tempfile::TempDir, std::path::PathBuf) {
    write_model(&TestModel::default())
}

/// The token that [`poisoned_model_file`] has no finite embedding for.
pub const POISON: u32 = 319;

/// As [`model_file`], with a token whose embedding is NaN: so are the K and V of its position and of those after it.
pub fn poisoned_model_file() -> (tempfile::TempDir, std::path::PathBuf) {
    let model = TestModel::default();
    let mut random = Random::new(7);
    let mut rows: Vec<f32> = (0..model.vocab * model.hidden).map(|_| random.unit() - 0.5).collect();
    rows[POISON as usize * model.hidden..][..model.hidden].fill(f32::NAN);
    write_model(&model.with_tensor_data("token_embd.weight", bytemuck::cast_slice(&rows)))
}

fn write_model(model: &TestModel) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, model.build()).expect("written");
    (directory, path)
}
