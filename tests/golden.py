"""What a change of the code must leave as it is: the demo's numbers, as one digest per file.

    make demo && make check-golden        # compare with the record
    python tests/golden.py record         # write it anew, in a commit that says why numbers change

Metric files, sidecars of weights, tables, the figures' values and claims, apart from times, speeds, commit and
environment. Arithmetic gives the same bits on one kind of processor only: on another one than that of the record, only
counts are compared.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lska.provenance.files import read_json, write_json
from lska.provenance.metric_files import digest, environment, project_root

RECORD = Path("tests/golden.json")
CHANGING = {
    "attempts", "code", "environment", "finished", "latency", "seal", "seconds", "started", "throughput",
    "field", "outcomes",  # digests of compressed files: another zlib packs the same maps and outcomes otherwise
}  # fmt: skip
COUNTED = "results/demo/metrics/complexity/"
REMEDY = "Where that is meant, `python tests/golden.py record`, and say why in the commit."


def lasting(content: Any) -> Any:
    """JSON content without what another run changes."""
    if isinstance(content, dict):
        return {name: lasting(value) for name, value in content.items() if name not in CHANGING}
    return [lasting(value) for value in content] if isinstance(content, list) else content


def digests() -> Iterator[tuple[str, str]]:
    """Path and digest of every file that is compared, sorted within its kind."""
    results = Path("results/demo")
    for folder in (results / "metrics", Path("checkpoints/demo")):
        for path in sorted(folder.rglob("*.json")):
            yield str(path), digest(lasting(read_json(path)))
    for path in sorted([*(results / "tables").glob("*.csv"), *(results / "figures").glob("*.csv")]):
        frame = pd.read_csv(path, dtype=str)
        measured = frame[frame["task"] != "speed"] if "task" in frame else frame
        stream = io.StringIO()
        measured.to_csv(stream, index=False)
        yield str(path), digest(stream.getvalue())
    for path in sorted((results / "tables").glob("*.*")):
        # The printed forms of Table XVII show speeds.
        if path.suffix in (".md", ".tex", ".html") and path.stem != "table_17":
            yield str(path), digest(path.read_text(encoding="utf-8"))
    path = results / "claims" / "claims.json"
    claims = [claim for claim in read_json(path)["claims"] if "speed." not in json.dumps(claim)]
    yield str(path), digest(lasting(claims))


def differences(recorded: dict[str, str], found: dict[str, str]) -> list[str]:
    """One line for every file that is missing, new or another."""
    lines = [f"missing: {path}" for path in recorded if path not in found]
    lines += [f"new: {path}" for path in found if path not in recorded]
    return lines + [f"differs: {path}" for path in recorded if recorded[path] != found.get(path, recorded[path])]


def check(machine: dict[str, str], found: dict[str, str]) -> int:
    """Print the differences from the record and return the exit code."""
    record = read_json(RECORD)
    recorded = record["files"]
    if record["machine"] != machine:
        print(f"The record is of {record['machine']}, this is {machine}: only counts are compared.")
        recorded, found = (
            {k: v for k, v in files.items() if k.startswith(COUNTED)} for files in (recorded, found)
        )
    lines = differences(recorded, found)
    print(
        "\n".join(
            [*lines, f"{len(lines)} of {len(recorded)} files differ. {REMEDY}"]
            if lines
            else [f"{len(found)} files as recorded."]
        )
    )
    return int(bool(lines))


def main() -> int:
    """Check, or record, from the project's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("check", "record"))
    action = parser.parse_args().action
    if Path.cwd() != project_root() or not Path("results/demo/claims/claims.json").exists():
        print("results/demo is not complete here; run `make demo` in the project's folder first", file=sys.stderr)
        return 1
    made_by = environment("cpu")
    machine = {name: made_by[name] for name in ("hardware", "torch")}
    found = {path: whole.removeprefix("sha256:")[:16] for path, whole in digests()}
    if action == "check":
        return check(machine, found)
    write_json(RECORD, {"machine": machine, "files": found})
    print(f"{len(found)} files recorded in {RECORD}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
