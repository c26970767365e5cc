"""Every metric of the dashboard and the alerts must exist in src/metrics.rs."""

import json
import re
import sys
from pathlib import Path

OPS = Path(__file__).resolve().parent
NAME = re.compile(r"\bllorch_[a-z0-9_]+")


def used() -> dict[str, set[str]]:
    """File to the names it queries."""
    dashboard = json.loads((OPS / "grafana/dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [variable.get("query", "") for variable in dashboard["templating"]["list"]]
    alerts = re.findall(r"^\s+expr: (.+)$", (OPS / "prometheus/alerts.yml").read_text(), re.MULTILINE)
    assert queries and alerts, "no queries found"
    names = {"dashboard.json": queries, "alerts.yml": alerts}
    return {file: set(NAME.findall("\n".join(map(str, lines)))) for file, lines in names.items()}


def declared() -> set[str]:
    """Series names that src/metrics.rs describes."""
    source = (OPS.parent / "src/metrics.rs").read_text()
    names = set()
    for kind in ("GAUGES", "COUNTERS", "HISTOGRAMS"):
        table = re.search(rf"const {kind}: .*?= \[\n(.*?)\n\];", source, re.DOTALL)
        found = re.findall(r'\(\s*"(llorch_\w+)"', table[1])
        assert found, f"no {kind} in src/metrics.rs"
        suffixes = ("_bucket", "_sum", "_count") if kind == "HISTOGRAMS" else ("",)
        names |= {name + suffix for name in found for suffix in suffixes}
    return names


def served(text: str) -> set[str]:
    """Series names in the text of /metrics."""
    return set(re.findall(r"^(llorch_\w+)", text, re.MULTILINE))


def check(existing: set[str], partial: bool = False) -> None:
    """Fails on a name that does not exist. `partial`: series that appear with their first event may be missing."""
    late = {"llorch_admission_rejections_total", "llorch_requests_cancelled_total"} if partial else set()
    for file, names in used().items():
        missing = names - existing - late
        if missing:
            raise SystemExit(f"{file}: no such metric: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    check(declared())
    print(", ".join(f"{file}: {len(names)} metric names exist" for file, names in used().items()))
    sys.exit(0)
