"""A server process on free ports, for the checks that need one."""

import os
import re
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path


def wait_for(condition, process, log: Path, what: str, seconds: float = 60):
    """The first true value of `condition`; an error when the process ends or so many seconds pass."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"{process.args[0]} ended with {process.returncode}:\n{log.read_text()}")
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise SystemExit(f"no {what} in {seconds} s:\n{log.read_text()}")


def get(url: str) -> str:
    """The body, or nothing while there is none."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def logged(log: Path, pattern: str) -> str:
    """What the group of `pattern` matched in the log, or nothing yet."""
    found = re.search(pattern, log.read_text())
    return found[1] if found else ""


@contextmanager
def process(log: Path, *command: str):
    """A process that writes to `log`; killed at the end if it still runs."""
    with log.open("w") as sink:
        running = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()


@contextmanager
def server(*flags: str):
    """Serves LLORCH_MODEL, or the embedded model, with LLORCH_BINARY: the addresses of gRPC and of HTTP.

    It must end well when told to.
    """
    binary = os.environ["LLORCH_BINARY"]
    ports = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "server.log")
        with process(log, binary, "serve", *ports, "--threads", "1", *flags) as running:
            def address(flag: str) -> str:
                return wait_for(lambda: logged(log, rf"{flag} (127\.0\.0\.1:\d+)\n"), running, log, f"address {flag}")

            grpc, http = address("--listen"), address("--metrics-listen")
            wait_for(lambda: get(f"http://{http}/readyz"), running, log, "readiness")
            yield grpc, http
            running.terminate()
            assert running.wait(timeout=60) == 0, log.read_text()


def configured() -> bool:
    """Whether there is something to run. Says so where not."""
    ready = bool(os.environ.get("LLORCH_BINARY"))
    if not ready:
        print("NOT RUN: set LLORCH_BINARY")
    return ready
