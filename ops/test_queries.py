"""Every query of the dashboard and of the alert rules must answer: a Prometheus scrapes a server that has worked.

Needs `prometheus` (Debian's package of that name), and LLORCH_BINARY. Prometheus runs with
prometheus/prometheus.yml, at another address and with shorter intervals.
"""

import json
import math
import os
import re
import subprocess
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

import running_server
from running_server import wait_for

OPS = Path(__file__).resolve().parent
COMPARISON = re.compile(r" (?:==|!=|>=|<=|>|<) ")
# Queries that may be empty, by dashboard title or alert name, with the reason.
MAY_BE_EMPTY = {
    "LlorchInternalErrors": "its series appears with the first INTERNAL, which nothing here provokes",
}


def panels(parent: dict) -> list[dict]:
    """All panels, those in rows too."""
    own = parent.get("panels", [])
    return own + [inner for panel in own for inner in panels(panel)]


def dashboard_queries(instances: dict[str, str]) -> list[tuple[str, str, str]]:
    """`(title, legend, expr)` of every target, once for each value of $instance."""
    dashboard = json.loads((OPS / "grafana/dashboard.json").read_text())
    variables = {"__rate_interval": "1m", "__interval": "1s", "__range": "1m"}
    queries = []
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            for name, instance in instances.items():
                expr = substituted(target["expr"], variables | {"instance": instance})
                queries.append((f"{panel['title']} ({name})", target.get("legendFormat", ""), expr))
    assert len(queries) > 20, "no queries found"
    return queries


def substituted(expr: str, variables: dict[str, str]) -> str:
    """The expression with Grafana's variables replaced. One without a value is an error."""
    def value(found: re.Match) -> str:
        if (name := found[1] or found[2]) not in variables:
            raise SystemExit(f"{expr}: no value for ${name}")
        return variables[name]

    return re.sub(r"\$(?:\{(\w+)[^}]*\}|(\w+))", value, expr)


def difference(expr: str) -> str:
    """An alert's `a > b` as `a - b`, which answers in health too, with the same labels."""
    sides = COMPARISON.split(expr)
    assert len(sides) == 2, f"not one comparison: {expr}"
    return f"({sides[0]}) - ({sides[1]})"


class Prometheus:
    """The HTTP interface of a running Prometheus."""

    def __init__(self, address: str):
        self.address = address

    def get(self, path: str, **parameters: str):
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{parameters}: {error.read().decode()}") from None

    def query(self, expr: str) -> list[dict]:
        return self.get("query", query=expr)["result"]

    def scrapes(self) -> int:
        """How many have succeeded so far."""
        result = self.query('sum_over_time(up{job="llorch"}[10m])')
        return int(float(result[0]["value"][1])) if result else 0

    def rules(self) -> list[dict]:
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


def configuration(scratch: Path, target: str) -> Path:
    """The configuration of this folder, at another address and faster."""
    text = (OPS / "prometheus/prometheus.yml").read_text()
    for pattern, new in [
        (r"127\.0\.0\.1:9464", target),
        (r"(?m)^( *scrape_interval:).*$", r"\1 500ms"),
        (r"(?m)^( *evaluation_interval:).*$", r"\1 500ms"),
        (r"(?m)^( *- )alerts\.yml$", rf"\1{OPS}/prometheus/alerts.yml"),
    ]:
        text, count = re.subn(pattern, new, text)
        assert count == 1, f"prometheus.yml: {count} times {pattern}"
    path = scratch / "prometheus.yml"
    path.write_text(text)
    return path


def load(grpc: str) -> None:
    """Requests that end well, that are cancelled and that are refused."""
    command = [os.environ["LLORCH_BINARY"], "bench", "serve", "--target", f"http://{grpc}", "--prompt-tokens", "32"]
    for arguments in ("--concurrency 2 --requests 12 --gen-tokens 200 --cancel-percent 50",
                      "--concurrency 24 --requests 48 --gen-tokens 16"):
        subprocess.run(command + arguments.split(), check=True, stdout=subprocess.DEVNULL, timeout=120)


def failures(prometheus: Prometheus, http: str) -> list[str]:
    """One line for each query that does not answer as it should."""
    wrong = []
    # As Grafana writes "All", and one instance, into a regular expression.
    one = re.escape(http).replace("\\", "\\\\")
    for title, legend, expr in dashboard_queries({"all": ".*", "one": one}):
        result = prometheus.query(expr)
        missing = [label for label in re.findall(r"\{\{(\w+)\}\}", legend)
                   if any(label not in series["metric"] for series in result)]
        if not has_value(result) and title not in MAY_BE_EMPTY:
            wrong.append(f"{title}: no value: {expr}")
        elif missing:
            wrong.append(f"{title}: no label {', '.join(missing)} for the legend: {expr}")
    rules = prometheus.rules()
    assert rules, "Prometheus knows no rules"
    for rule in rules:
        if rule["health"] != "ok":
            wrong.append(f"{rule['name']}: {rule['health']}: {rule.get('lastError', '')}")
        prometheus.query(rule["query"])
        if not has_value(prometheus.query(difference(rule["query"]))) and rule["name"] not in MAY_BE_EMPTY:
            wrong.append(f"{rule['name']}: nothing to compare: {rule['query']}")
    instances = prometheus.get("label/instance/values", **{"match[]": "llorch_build_info"})
    if instances != [http]:
        wrong.append(f"label_values(llorch_build_info, instance): {instances}")
    return wrong


def has_value(result: list[dict]) -> bool:
    return any(math.isfinite(float(series["value"][1])) for series in result)


def check(scratch: Path, grpc: str, http: str) -> None:
    log = scratch / "prometheus.log"
    flags = (f"--config.file={configuration(scratch, http)}", f"--storage.tsdb.path={scratch / 'data'}")
    with running_server.process(log, "prometheus", *flags, "--web.listen-address=127.0.0.1:0") as process:
        def until(condition, what: str):
            return wait_for(condition, process, log, what)

        listening = r'msg="Listening on" address=(127\.0\.0\.1:\d+)'
        prometheus = Prometheus(until(lambda: running_server.logged(log, listening), "address of Prometheus"))
        until(lambda: running_server.get(f"http://{prometheus.address}/-/ready"), "readiness of Prometheus")
        # Rates need a value from before the load, and two after it.
        until(lambda: prometheus.scrapes() >= 1, "first scrape")
        load(grpc)
        seen = prometheus.scrapes()
        until(lambda: prometheus.scrapes() >= seen + 2, "scrapes after the load")
        until(lambda: all(rule["health"] != "unknown" for rule in prometheus.rules()), "evaluation of the rules")
        wrong = failures(prometheus, http)
        if wrong:
            raise SystemExit("\n".join(wrong))
        count = len(dashboard_queries({"all": ".*"}))
        print(f"{count} queries of the dashboard and {len(prometheus.rules())} alert rules answer")


def main() -> None:
    if running_server.configured():
        limits = ("--kv-cache", "64MiB", "--max-num-seqs", "2", "--max-queued", "4")
        with tempfile.TemporaryDirectory() as scratch, running_server.server(*limits) as (grpc, http):
            check(Path(scratch), grpc, http)


if __name__ == "__main__":
    main()
