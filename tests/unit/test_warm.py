"""One imported interpreter for many commands: results, exit codes and signals as without it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from lska.pipeline import warm
from lska.pipeline.warm import VARIABLE, delegate

# Runs below `lska warm`, as Snakemake does, and reports what the commands did.
SCRIPT = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

lska = [sys.executable, "-m", "lska"]
options = ["--config", "config.yaml", "--set", json.dumps({"training": {"overrides": {"epochs": 400}}})]
found = {}

def run(*words):
    done = subprocess.run([*lska, *words], capture_output=True, text=True)
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}

def start():
    return subprocess.Popen([*lska, "train", "van_tiny-lska-k7-s0", *options], stderr=subprocess.PIPE, text=True)

def records():
    return sum(len(path.read_text().splitlines()) for path in Path("work").rglob("train.jsonl"))

def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)

found["error"] = run("evaluate", "classification", "van_tiny-lska-k7-s0", "--config", "config.yaml")
found["count"] = run("evaluate", "complexity", "van_tiny-lska-k7-s0", "--config", "config.yaml")
training = start()
wait_until(lambda: records() > 3)
training.send_signal(signal.SIGTERM)
found["terminated"] = {"err": training.communicate()[1], "code": training.returncode}
before = records()
training = start()
wait_until(lambda: records() > before + 2)
training.kill()
training.communicate()
wait_until(lambda: run_states() >= 2)
time.sleep(1)
stopped = records()
time.sleep(1)
found["orphan writes"] = records() - stopped
print(json.dumps(found))
""".replace("run_states()", "len(list(Path('work').rglob('state-*.pt')))")


@pytest.mark.slow
def test_commands_below_a_server(project, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "lska", "warm", sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    assert found["error"]["code"] == 1
    assert "van_tiny-lska-k7-s0.safetensors is missing" in found["error"]["err"]
    assert found["count"]["code"] == 0
    counted = json.loads(Path("results/test/metrics/complexity/van_tiny-lska-k7-s0.json").read_text())
    assert counted["metrics"]["params"]["value"] == 4009800
    assert found["terminated"]["code"] == os.EX_TEMPFAIL
    assert "received SIGTERM" in found["terminated"]["err"]
    # A killed command takes its work in the server with it.
    assert found["orphan writes"] == 0


def test_without_a_server_nothing_is_delegated(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert delegate(["train", "x"]) is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
    assert delegate(["train", "x"]) is None


def test_a_server_of_somebody_else_is_given_nothing(monkeypatch, tmp_path, caplog):
    folder = tmp_path / "lska-left"
    folder.mkdir()
    folder.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(folder / "socket"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        assert delegate(["train", "x"]) is None
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert f"{folder}: expected a folder of user" in caplog.text


@pytest.mark.parametrize(
    ("answer", "message"), [(None, "does not answer"), (b"", ""), (b"T", "is gone, and this command with it")]
)
def test_a_server_that_is_gone_or_stands_still_is_not_waited_for(answer, message, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(warm, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "socket"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection:
                # The whole request: closed before, the connection would break while it is still sent.
                (length,) = warm._LENGTH.unpack(connection.recv(warm._LENGTH.size, socket.MSG_WAITALL))
                connection.recv(length, socket.MSG_WAITALL)
                connection.sendall(answer)

        server = None if answer is None else threading.Thread(target=serve, daemon=True)
        if server is not None:
            server.start()
        began = time.monotonic()
        if answer == b"T":
            with pytest.raises(warm.ServerError, match=message):
                delegate(["train", "x"])
        else:
            assert delegate(["train", "x"]) is None
            assert message in caplog.text
        assert time.monotonic() - began < 20


def test_an_interrupted_command_is_given_time_to_end(tmp_path):
    body = """
        import signal, sys, time
        from pathlib import Path

        def leave(number, frame):
            time.sleep(1)
            sys.exit(3)

        signal.signal(signal.SIGINT, leave)
        Path("ready").touch()
        time.sleep(60)
    """
    script = tmp_path / "command.py"
    script.write_text(textwrap.dedent(body), encoding="utf-8")
    command = [sys.executable, "-m", "lska", "warm", sys.executable, str(script)]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    end = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 3
