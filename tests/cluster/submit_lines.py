"""What Slurm is asked for: the sbatch line of every rule at paper scale, as the plugin writes it.

`python tests/cluster/submit_lines.py` writes them to submit_lines.txt beside this file, which a person reads
through after every change. No Slurm and no data are needed: stand-ins on PATH take the lines, make the outputs of each
job as empty files, and say that it is done.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

SNAPSHOT = Path(__file__).with_suffix(".txt")
CONFIG = Path("config/paper.yaml")

SBATCH = """#!/usr/bin/env python3
import json, os, pathlib, sys
folder = pathlib.Path(__file__).parent
words = sys.argv[1:]
outputs = json.loads((folder / "outputs.json").read_text())[words[words.index("--comment") + 1]]
for path in map(pathlib.Path, outputs):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
number = os.open(folder / "submitted.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(number, (json.dumps(words) + "\\n").encode())
print((folder / "submitted.jsonl").read_text().count("\\n"))
"""
SQUEUE = """#!/bin/sh
[ -e {folder}/submitted.jsonl ] && seq "$(wc -l < {folder}/submitted.jsonl)" | sed 's/$/|COMPLETED/'
exit 0
"""
SCONTROL = "#!/bin/sh\necho 'MinJobAge = 300 sec'\n"
SINFO = "#!/bin/sh\necho 'standard*'\n"
SACCTMGR = "#!/bin/sh\necho physics\n"
"""Knows the account of the tests."""


def stand_ins(folder: Path, outputs: dict[str, list[str]]) -> None:
    """Write the commands of Slurm that the plugin calls; `outputs` of a job by what the plugin names it."""
    folder.mkdir()
    (folder / "outputs.json").write_text(json.dumps(outputs), encoding="utf-8")
    texts = {"sbatch": SBATCH, "squeue": SQUEUE.format(folder=shlex.quote(str(folder))),
             "scontrol": SCONTROL, "sinfo": SINFO, "sacctmgr": SACCTMGR, "sacct": "#!/bin/sh\nexit 1\n"}  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)


def capture(
    project: Path, shims: Path, target: str = "all_tables", settings: dict[str, Any] | None = None, **variables: str
) -> list[list[str]]:
    """The words of every sbatch line for a target at paper scale, in the project's folder; makes its outputs there.

    Args:
        settings: of the configuration, in place of those of the paper scale.
        variables: of the environment.
    """
    from lska.pipeline.dry_run import planned_jobs

    settings = settings or {}
    # Planned and made by the copy's own code.
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(project / "src"))
        jobs = planned_jobs(project, [CONFIG], settings, [target])
    # Tables are made by Snakemake itself, from numbers, which these files have none of.
    submitted = [job for job in jobs if not re.match("notebook_|all_|table_", job.rule)]
    stand_ins(shims, {comment(job.rule, job.wildcards.values()): list(job.outputs) for job in submitted})
    scripts, own = Path(sys.executable).parent, {"PYTHONPATH": str(project / "src"), **variables}
    unset = ("LSKA_SLURM_ACCOUNT", "LSKA_SLURM_PARTITION", "SNAKEMAKE_SLURM_PARTITIONS")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | own
    environment["PATH"] = os.pathsep.join([str(shims), str(scripts), environment["PATH"]])
    changes = ["--config", *(f"{name}={json.dumps(value)}" for name, value in settings.items())] if settings else []
    done = subprocess.run(
        ["snakemake", "--profile", "slurm", "--slurm-init-seconds-before-status-checks", "1",
         "--seconds-between-status-checks", "1", *changes, "--", *(path for job in submitted for path in job.outputs)],
        cwd=project, env=environment, text=True, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"Snakemake failed:\n{(done.stdout + done.stderr)[-4000:]}")
    lines = (shims / "submitted.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def comment(rule: str, wildcards: Iterable[str]) -> str:
    """What the plugin calls a job."""
    values = "_".join(wildcards).replace("/", "_")
    return f"rule_{rule}_wildcards_{values}" if values else f"rule_{rule}"


def kind(words: list[str]) -> str:
    """Jobs with the same kind differ in their runs alone: the rule, with the head of a detector or segmentor."""
    target = words_of(words)["--target-jobs"]
    task = re.search(r"task=([a-z_/]+)", target)
    return target.split(":")[0] + (f" {task[1]}" if task else "")


def words_of(words: list[str]) -> dict[str, str]:
    """The options of the `snakemake` call that a job makes, as far as they have one value."""
    call = shlex.split(words[-1].removeprefix("--wrap="))
    return dict(zip(call, call[1:], strict=False))


def render(lines: list[list[str]], project: Path) -> str:
    """One line of each kind, one option per row, without what differs from call to call or from machine to machine.

    What every job calls in the same way is told once, at the end.
    """
    first: dict[str, list[str]] = {}
    for words in sorted(lines, key=lambda words: words[words.index("--comment") + 1]):
        first.setdefault(kind(words), words)
    asked = {name: _rows(["sbatch", *words[:-1]], project) for name, words in sorted(first.items())}
    called = {name: _rows(shlex.split(words[-1].removeprefix("--wrap=")), project) for name, words in first.items()}
    common = set.intersection(*map(set, called.values()))
    parts = [
        "".join([f"# {name}\n", *rows, "  --wrap ...\n", *(f"    {row}" for row in called[name] if row not in common)])
        for name, rows in asked.items()
    ]
    shared = [row for row in next(iter(called.values())) if row in common]
    return "\n".join([*parts, "".join(["# --wrap, in every line above\n", *shared])])


def _rows(words: list[str], project: Path) -> list[str]:
    """The command, and every option with its values on a row of its own; sets in a fixed order."""
    rows = [[words[0]]]
    for word in words[1:]:
        word = base64.b64decode(word[8:]).decode() if word.startswith("base64//") else word
        if word.startswith("-") and rows[-1] != ["--apptainer-args"]:
            rows.append([word])
        else:
            rows[-1].append(shlex.quote(word))
    unordered = ("--rerun-triggers", "--shared-fs-usage")
    rows = [[row[0], *sorted(row[1:])] if row[0] in unordered else row for row in rows]
    return [_masked("  " * (row is not rows[0]) + " ".join(row), project) + "\n" for row in rows]


def _masked(row: str, project: Path) -> str:
    row = row.replace(str(project), "<project>")
    # A path with a space is quoted.
    row = row.replace(str(Path(sys.executable).parent), "<bin>").replace("'<bin>'", "<bin>")
    row = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<run>", row)
    row = re.sub(r"lska-[0-9a-f]{12}", "lska-<folder>", row)
    row = re.sub(r"\.snakemake/tmp\.\w+", ".snakemake/tmp.<name>", row)
    row = re.sub(r"\.\d+\.sh\.waitforfilesfile", ".<number>.sh.waitforfilesfile", row)
    return re.sub(r"(--runtime-source-cache-path) \S+", r"\1 <cache>", row)


def main() -> None:
    """Write the snapshot."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from whole_project import copy_project

    with tempfile.TemporaryDirectory() as name:
        copied = copy_project(Path(name) / "project")
        lines = capture(copied.root, Path(name) / "shims")
        SNAPSHOT.write_text(render(lines, copied.root), encoding="utf-8")
    print(f"{SNAPSHOT}: {len(lines)} lines were submitted; read the difference before you commit it")


if __name__ == "__main__":
    main()
