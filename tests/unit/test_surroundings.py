"""What surrounds a process: copied folders, other owners, other programs, homes and variables in paths, terminals."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from whole_project import PROJECT

from lska.cli import main
from lska.provenance import surroundings
from lska.provenance.files import read_yaml
from lska.provenance.surroundings import (
    NoAnswerError,
    PrivateFolderError,
    ask,
    expanded,
    folder_for_sockets,
    own_folder,
    require_own,
    require_own_code,
)
from lska.settings.scale import from_dict, load
from lska.train.gpus import VARIABLE, visible

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@b")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code in a folder that is a git checkout, under an odd name."""
    folder = tmp_path_factory.mktemp("copies") / "a 'copy' of 5 % ü"
    for name in ("src/lska", "config", "workflow"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "Snakefile"):
        shutil.copy2(PROJECT / name, folder / name)
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", folder, *IDENTITY, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")


def run(*command: str | Path, folder: Path, code: Path = PROJECT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder` with the code of the checkout `code`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(code / "src"), **variables}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=300, check=False
    )


# Whose code runs.


def test_a_checkout_is_worked_on_by_its_own_code_alone(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(PROJECT)
    for own in (PROJECT, PROJECT / "src" / "lska", tmp_path / "link", tmp_path):
        require_own_code(own)
    for other in (copy, copy / "config"):
        with pytest.raises(ValueError, match="the running code is from another folder") as caught:
            require_own_code(other)
        assert str(PROJECT / "src" / "lska") in str(caught.value) and str(copy / "src" / "lska") in str(caught.value)
        assert "make -C" in str(caught.value)


def test_a_container_brings_its_own_code(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSKA_COMMIT", "")
    require_own_code(copy)


def test_commands_say_whose_code_they_are(copy: Path) -> None:
    snakemake = ("snakemake", "--dry-run", "--cores", "1", "--", "table_01")
    for command in (("lska", "summary"), snakemake):
        refused = run(*command, folder=copy)
        assert refused.returncode == 1 and "the running code is from another folder" in refused.stderr
        assert "Traceback" not in refused.stderr and 'File "' not in refused.stderr
    assert run("lska", "summary", folder=copy, code=copy).returncode == 0


@pytest.mark.parametrize(
    ("made_for", "code", "anew"),
    [
        ("{here}/.venv", "{here}/src", False),
        ("/gone/lska/.venv", "{here}/src", True),
        ("{here}/.venv", "/other/src", True),
    ],
)
def test_make_gives_a_copied_project_an_environment_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_for: str, code: str, anew: bool
) -> None:
    folder = tmp_path / "a 'copy' of 5 % ü"
    packages = folder / ".venv/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (folder / "envs").mkdir()
    for name in ("envs/bootstrap.txt", "envs/requirements.txt", "pyproject.toml", "Makefile"):
        shutil.copy(PROJECT / name, folder / name)
    command = f"command = /usr/bin/python3.11 -m venv {made_for.format(here=folder.resolve())}"
    (folder / ".venv/pyvenv.cfg").write_text(f"home = /usr/bin\n{command}\n", encoding="utf-8")
    path = packages / "__editable__.lska_reproduction-0.1.0.pth"
    path.write_text(code.format(here=folder.resolve()), encoding="utf-8")
    for name in ("uv", "runtime"):
        (folder / ".venv" / name).touch()
    # Not with what a make was given that runs the tests.
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    said = run("make", "-C", folder, "-n", "VENV=.venv", ".venv/runtime", folder=tmp_path).stdout
    assert ("made again" in said and "rm -rf .venv" in said) == anew
    assert ("is up to date" in said) == (not anew)


def test_snakemake_says_in_a_line_that_it_works_in_its_own_folder(tmp_path: Path) -> None:
    words = ("--directory", tmp_path, "--configfile", PROJECT / "config/demo.yaml", "--dry-run", "--cores", "1")
    done = run("snakemake", *words, "--", "table_01", folder=PROJECT)
    assert done.returncode == 1 and "call it there, without --directory" in done.stderr
    assert 'File "' not in done.stderr and len(done.stderr.strip().splitlines()) == 1


# git.

VERSION = "import json, logging; logging.basicConfig()\n"
VERSION += "from lska.provenance.metric_files import code_version, git; git('status')\n"
VERSION += "print(json.dumps(code_version()))"


def version(code: Path, **variables: str) -> tuple[dict[str, object], str]:
    done = run(sys.executable, "-c", VERSION, folder=code, code=code, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_checkout_of_another_owner_names_its_commit(copy: Path, tmp_path: Path) -> None:
    head = git(copy, "rev-parse", "HEAD")
    assert version(copy, GIT_TEST_ASSUME_DIFFERENT_OWNER="1") == ({"commit": head, "dirty": False}, "")
    git(tmp_path, "init", "--quiet", "other")
    assert version(copy, GIT_DIR=str(tmp_path / "other/.git"))[0]["commit"] == head


def test_absence_is_silent_and_failure_is_told_once(copy: Path, tmp_path: Path) -> None:
    nothing = {"commit": None, "dirty": None}
    inside = tmp_path / "outer" / "project"
    shutil.copytree(copy / "src", inside / "src")
    assert version(inside) == (nothing, "")
    git(tmp_path / "outer", "init", "--quiet")
    git(tmp_path / "outer", "commit", "--quiet", "--allow-empty", "--message", "of something else")
    assert version(inside) == (nothing, ""), "the commit of a repository that does not have the code"
    commit(tmp_path / "outer")
    assert version(inside)[0]["commit"] == git(tmp_path / "outer", "rev-parse", "HEAD")
    found, said = version(inside, GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert found == nothing and said.count("WARNING") == 1
    assert "detected dubious ownership" in said and "safe.directory" in said
    (tmp_path / "outer/.git/HEAD").write_text("damaged")
    found, said = version(inside)
    assert found == nothing and said.count("WARNING") == 1 and "not a git repository" in said
    assert version(inside, PATH="/nowhere") == (nothing, "")


def test_no_line_end_of_the_project_is_converted(tmp_path: Path) -> None:
    if not (PROJECT / ".git").exists():
        pytest.skip("needs a git checkout")
    files = git(PROJECT, "ls-files", "-z", "config", "results", "src", "checkpoints", "store", "paper")
    words = ["git", "check-attr", "--stdin", "-z", "text"]
    asked = subprocess.run(words, cwd=PROJECT, input=files, capture_output=True, text=True, check=True)
    answers = asked.stdout.split("\0")[2::3]
    assert len(answers) > 500 and set(answers) == {"unset"}


# Other programs.


def test_an_answer_comes_whole() -> None:
    program = "import sys; print('x' * 200_000); print('no', file=sys.stderr); sys.exit(len(sys.stdin.read()) + 3)"
    done = ask([sys.executable, "-c", program], 60)
    assert (done.returncode, len(done.stdout), done.stderr) == (3, 200_001, "no\n")
    joined = ask(["sh", "-c", "echo out; echo err >&2"], 60, stderr=subprocess.STDOUT)
    assert joined.stdout == "out\nerr\n" and joined.stderr is None
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        ask(["no-such-program"], 60)


def test_a_program_that_does_not_answer_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(surroundings, "TELL_SECONDS", 0.1)
    caplog.set_level(logging.INFO)
    began = time.monotonic()
    # A child of the program keeps its streams open.
    (tmp_path / "sleeper").write_text("#!/bin/sh\nsleep 30 &\nwait\n", encoding="utf-8")
    (tmp_path / "sleeper").chmod(0o755)
    with pytest.raises(NoAnswerError, match="sleeper: no answer within"):
        ask([str(tmp_path / "sleeper")], 0.5, cwd=tmp_path)
    assert time.monotonic() - began < 20
    assert f"waiting for {tmp_path / 'sleeper'}," in caplog.text


def test_a_driver_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("lska.train.gpus._DRIVER_SECONDS", 0.5)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    (tmp_path / "nvidia-smi").chmod(0o755)
    with pytest.raises(NoAnswerError, match="nvidia-smi --list-gpus: no answer within"):
        visible()


# Paths.


def test_home_and_variables_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "~/sets")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("ABSENT", raising=False)
    texts = ("~", "~/x", "~root", "$DATA/x", "${DATA}", "a~", "./~", "/x/$DATA", "$$DATA", "$(x) $5 a$", "a/ü b")
    homes = ("/home/me", "/home/me/x", os.path.expanduser("~root"), "/home/me/sets/x", "/home/me/sets")  # noqa: PTH111
    assert [expanded(text) for text in texts] == [*homes, "a~", "./~", "/x/~/sets", "$DATA", "$(x) $5 a$", "a/ü b"]
    for text, named in (("$ABSENT/x", "ABSENT"), ("${EMPTY}", "EMPTY"), ("~nobody-of-this-name/x", "~nobody-of")):
        with pytest.raises(ValueError, match=named):
            expanded(text)


def test_every_path_setting_is_expanded_and_no_digest_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipes").symlink_to(PROJECT / "config/recipes")
    plain = load([Path("config/small.yaml")])
    recipe = f"~/recipes/{Path(plain.training.recipe).name}"
    data = {"root": "~/data", "manifest": "$HOME/m.yaml"}
    moved = {"scale": "moved", "data": data, "training": {"recipe": recipe}}
    made = load([Path("config/small.yaml")], moved)
    assert made.data.root == f"{tmp_path}/data" and made.data.manifest == f"{tmp_path}/m.yaml"
    assert [made.classifier(run).digest() for run in made.runs] == [
        plain.classifier(run).digest() for run in plain.runs
    ]
    monkeypatch.delenv("ABSENT", raising=False)
    with pytest.raises(ValueError, match=r"(?s)detection\.data\.root: .*ABSENT.*not set"):
        load([Path("config/small.yaml")], {"detection": {"data": {"root": "$ABSENT/x"}}})


def test_no_command_makes_a_folder_named_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], logging_as_before: None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["data", "check", "cifar10", "--root=~/data"]) == 1
    assert f"{tmp_path}/data" in capsys.readouterr().out


# Terminals.


def test_a_terminal_without_unicode_gets_escapes() -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = run("lska", "explain", "table_03", "--config", "config/small.yaml", folder=PROJECT, **ascii_only)
    assert done.returncode == 0 and done.stdout.isascii(), done.stderr


# Captions.

HOSTILE = "{x} | <b> & % $5 $ _a_ \\ \"quote\" 'q' *s* `t` [l](http://x) {{y}} ~"


def test_a_caption_is_one_line_of_visible_text(monkeypatch: pytest.MonkeyPatch) -> None:
    small = read_yaml(PROJECT / "config/small.yaml")
    monkeypatch.chdir(PROJECT)
    assert from_dict(small | {"caption": f"{HOSTILE}\n  and more\n"}, "x").caption == f"{HOSTILE} and more"


def test_a_caption_is_no_markup_and_no_pattern(tmp_path: Path) -> None:
    import jinja2
    import mistune
    from docutils.core import publish_parts
    from markupsafe import escape

    from lska.claims.claims_page import render_claims

    content = {"scale": "x", "caption": HOSTILE, "counts": {}, "claims": []}
    page = mistune.create_markdown(escape=True)(render_claims(content, ".md"))
    assert f"<strong>{escape(HOSTILE)}.</strong>" in page.replace("&quot;", "&#34;").replace("'", "&#39;")
    assert str(escape(HOSTILE)) in render_claims(content, ".html")
    template = jinja2.Template((PROJECT / "workflow/report/target.rst").read_text(encoding="utf-8"))
    given = {"params": {"name": "table_03", "about": f"A *line* of {HOSTILE}.", "caption": HOSTILE}}
    body = publish_parts(template.render(snakemake=given), writer_name="html")["body"]
    shown = str(escape(HOSTILE)).replace("&#39;", "'").replace("&#34;", "&quot;")
    assert f"A *line* of {shown}. Scale and data: {shown}." in body
    (tmp_path / "hostile.yaml").write_text(yaml.safe_dump({"caption": HOSTILE}), encoding="utf-8")
    words = ("--cores", "1", "--dry-run", "--configfile", "config/small.yaml", tmp_path / "hostile.yaml")
    done = run("snakemake", *words, "--forceall", "--quiet", "rules", "--", "all", folder=PROJECT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_folder_that_others_may_have_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder, user = tmp_path / f"lska-test-{os.getuid()}", os.getuid()
    for make, found, undo in (
        (lambda: folder.symlink_to(tmp_path), "lrwxrwxrwx", folder.unlink),
        (lambda: folder.touch(mode=0o600), "-rw-------", folder.unlink),
        (lambda: (folder.mkdir(), folder.chmod(0o755)), "drwxr-xr-x", folder.rmdir),
    ):
        make()
        with pytest.raises(PrivateFolderError, match=f"{folder}: expected a folder .* found {found} of user {user}; "):
            own_folder("lska-test")
        undo()
    assert own_folder("lska-test") == own_folder("lska-test") == folder and folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(PrivateFolderError, match=f"found drwx------ of user {user}"):
        require_own(folder)


def test_sockets_have_a_short_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert folder_for_sockets() == Path("/tmp")
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "scratch_of_a_job_" * 8)
    assert len(str(folder_for_sockets())) < 20
    monkeypatch.setattr(os, "access", lambda *place: False)
    with pytest.raises(PrivateFolderError, match="^TMPDIR: .* is too long a path for Unix sockets"):
        folder_for_sockets()


def test_ctrl_c_while_nothing_is_started_ends_in_one_line() -> None:
    code = (
        "import os, signal; from lska.provenance.surroundings import end_plainly_at_interrupts as plainly; plainly(); "
        "os.kill(os.getpid(), signal.SIGINT); signal.pause()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, "Stopped by Ctrl-C; nothing was started.\n")
