"""Run client.py against a real server on free ports. Needs LLORCH_BINARY; serves LLORCH_MODEL or the embedded model."""

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "ops"))
import check_metrics  # noqa: E402


def wait_for(condition, process, log: Path, what: str):
    """The first true value of `condition`; an error when the server ends or 60 s pass."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"server ended with {process.returncode}:\n{log.read_text()}")
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise SystemExit(f"no {what} in 60 s:\n{log.read_text()}")


def get(url: str) -> str:
    """The body, or nothing while the server is not ready."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def address(log: Path, flag: str) -> str:
    """The address that the server's log tells for `flag`, or nothing yet."""
    found = re.search(rf"{flag} (127\.0\.0\.1:\d+)\n", log.read_text())
    return found[1] if found else ""


def check_client(stubs: str, target: str) -> None:
    def client(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, HERE / "client.py", "--target", target, *arguments],
            env=os.environ | {"PYTHONPATH": stubs}, capture_output=True, text=True, timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    text = client("--max-tokens", "12")
    assert re.search(r"\n\[(LENGTH, 12|STOP, \d+) tokens\]\n$", text), text
    assert text == client("--max-tokens", "12"), "greedy output differs between two runs"
    text = client("--mode", "cancel", "--max-tokens", "400")
    assert text.endswith("[CANCELLED after 3 deltas]\n"), text
    text = client("--mode", "deadline", "--timeout", "0.002")
    assert text.endswith("[DEADLINE_EXCEEDED]\n"), text


def main() -> None:
    binary = os.environ.get("LLORCH_BINARY")
    if not binary:
        print("NOT RUN: set LLORCH_BINARY")
        return
    with tempfile.TemporaryDirectory() as scratch:
        protos = sorted(str(path) for path in (ROOT / "proto/llorch/v1").glob("*.proto"))
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={scratch}",
                        f"--grpc_python_out={scratch}", *protos], check=True)
        log = Path(scratch, "server.log")
        with log.open("w") as sink:
            server = subprocess.Popen([binary, "serve", "--listen", "127.0.0.1:0",
                                       "--metrics-listen", "127.0.0.1:0", "--threads", "1", "--kv-cache", "64MiB"],
                                      stdout=sink, stderr=sink)
        try:
            grpc = wait_for(lambda: address(log, "--listen"), server, log, "gRPC address")
            http = wait_for(lambda: address(log, "--metrics-listen"), server, log, "metrics address")
            wait_for(lambda: get(f"http://{http}/readyz"), server, log, "readiness")
            check_client(scratch, grpc)
            check_metrics.check(check_metrics.served(get(f"http://{http}/metrics")), partial=True)
            server.terminate()
            assert server.wait(timeout=60) == 0, log.read_text()
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
    print("client and metric names: passed")


if __name__ == "__main__":
    main()
