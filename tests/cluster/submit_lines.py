"""What Slurm is asked for: the options of sbatch for every rule at paper scale, as the plugin gives them.

`python tests/cluster/submit_lines.py` writes them to submit_lines.txt beside this file, which a person reads
through after every change. No Slurm and no data are needed: stand-ins on PATH take the lines, make the outputs of each
job as empty files, and say that it is done.
"""

from __future__ import annotations

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


def render(lines: list[list[str]]) -> str:
    """What each kind of job asks for, a line each, without the places and names that differ from call to call."""
    asked: dict[str, str] = {}
    for words in sorted(lines, key=lambda words: words[words.index("--comment") + 1]):
        valued = {"--job-name", "--output", "--comment", "-D"}
        shown = [word for before, word in zip(["", *words], words[:-1], strict=False) if not {before, word} & valued]
        asked.setdefault(kind(words), " ".join(shown))
    return "".join(f"{name}: {options}\n" for name, options in sorted(asked.items()))


def main() -> None:
    """Write the snapshot."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from whole_project import copy_project

    with tempfile.TemporaryDirectory() as name:
        copied = copy_project(Path(name) / "project")
        lines = capture(copied.root, Path(name) / "shims")
        SNAPSHOT.write_text(render(lines), encoding="utf-8")
    print(f"{SNAPSHOT}: {len(lines)} lines were submitted; read the difference before you commit it")


if __name__ == "__main__":
    main()
