"""Run client.py against a real server on free ports. Needs LLORCH_BINARY; serves LLORCH_MODEL or the embedded model."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "ops"))
import check_metrics  # noqa: E402
import running_server  # noqa: E402


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
    if not running_server.configured():
        return
    with tempfile.TemporaryDirectory() as stubs:
        protos = sorted(str(path) for path in (ROOT / "proto/llorch/v1").glob("*.proto"))
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={stubs}",
                        f"--grpc_python_out={stubs}", *protos], check=True)
        with running_server.server("--kv-cache", "64MiB") as (grpc, http):
            check_client(stubs, grpc)
            check_metrics.check(check_metrics.served(running_server.get(f"http://{http}/metrics")), partial=True)
    print("client and metric names: passed")


if __name__ == "__main__":
    main()
