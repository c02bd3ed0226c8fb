"""Many short jobs, one start-up: an interpreter that has imported torch and timm and forks for each `lska` command.

Importing torch and timm takes 4 to 10 seconds, which a pipeline of short jobs pays once per job. `lska warm COMMAND`
runs COMMAND (a `snakemake` call, say) with a server beside it; every `lska` command started below it hands its
arguments, working directory, environment and standard streams to the server, whose forked child does the work. The
`lska` process itself stays as the child's stand-in: it passes signals on, takes over the exit code, and when it is
killed the child is stopped. Without `lska warm` nothing of this happens.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from lska.provenance.errors import LskaError
from lska.provenance.surroundings import PrivateFolderError, folder_for_sockets, require_own
from lska.train.launcher import WARM as VARIABLE

logger = logging.getLogger(__name__)

Main = Callable[[Sequence[str]], int]

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_GRACE_SECONDS, _ANSWER_SECONDS = 20.0, 300.0
"""Between SIGTERM and SIGKILL for work whose command is gone; for the server to take a command, which then works by
itself."""
_TAKEN, _LENGTH = b"T", struct.Struct("!I")


class ServerError(LskaError, RuntimeError):
    """The server of `lska warm` is gone in the middle of a command."""


# --- The server ------------------------------------------------------------------------------------------------------


def run_beside_server(command: Sequence[str], main: Main) -> int:
    """Run `command` with a server beside it and return its exit code.

    Args:
        main: what does the commands of `lska`, given their words.
    """
    with tempfile.TemporaryDirectory(prefix="lska-", dir=folder_for_sockets()) as folder:
        path = Path(folder) / "socket"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(128)
        # The server lives as long as the writing end of this pipe, that is, as long as this process.
        alive, keep = os.pipe()
        if os.fork() == 0:
            _in_child(lambda: _server(listener, alive, keep, main))
        listener.close()
        os.close(alive)
        process = subprocess.Popen(list(command), env={**os.environ, VARIABLE: str(path)})
        # The command ends when it is ready to: Ctrl-C reaches it by itself, SIGTERM is passed on.
        signal.signal(signal.SIGINT, lambda number, frame: None)
        signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        try:
            return _shell_code(process.wait())
        finally:
            os.close(keep)


def _shell_code(code: int) -> int:
    return code if code >= 0 else 128 - code


def _in_child(body: Callable[[], int]) -> None:
    """End this forked process with the result of `body`, whatever happens, without running the parent's clean-up."""
    code = 1
    try:
        code = body()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _server(listener: socket.socket, alive: int, keep: int, main: Main) -> int:
    os.close(keep)
    # Terminal signals are for the command; its `lska` processes pass them on.
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    from lska.provenance.surroundings import ADDRESSES, absent

    with absent(ADDRESSES):
        import jsonschema  # noqa: F401

    import lska.evaluate.accuracy
    import lska.evaluate.dense_scores
    import lska.evaluate.efficiency  # noqa: F401
    from lska.models.openmmlab import LIBRARIES, use

    for kind in LIBRARIES:
        use(kind)
    # Collections in the children then pass over what they inherit: a million objects, which a visit would copy.
    gc.collect()
    gc.freeze()
    while True:
        ready, _, _ = select.select([listener, alive], [], [])
        if alive in ready:
            return 0
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _in_child(functools.partial(_handle, connection, main))
        connection.close()


def _handle(connection: socket.socket, main: Main) -> int:
    """Do one request in a process of its own, watching both it and the client."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, 3)
    request = json.loads(connection.recv(_LENGTH.unpack(head)[0], socket.MSG_WAITALL))
    try:
        connection.sendall(_TAKEN)
    except BrokenPipeError:
        return 0  # the client has waited for long enough, and works by itself
    worker = os.fork()
    if worker == 0:
        connection.close()
        _in_child(lambda: _work(request, streams, main))
    for stream in streams:
        os.close(stream)
    code = _watch(connection, worker)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(bytes([code]))
    return 0


def _work(request: dict, streams: list[int], main: Main) -> int:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ.pop(VARIABLE, None)
    try:
        return main(request["arguments"])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def _watch(connection: socket.socket, worker: int) -> int:
    """Pass signals from the client to the worker until that ends; stop it when the client is gone."""
    ended = os.pidfd_open(worker)
    timeout: float | None = None
    sources: list[int | socket.socket] = [connection, ended]
    while True:
        ready, _, _ = select.select(sources, [], [], timeout)
        if ended in ready:
            return _shell_code(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
        if not ready:
            os.killpg(worker, signal.SIGKILL)
            timeout = None
            continue
        number = _next_byte(connection)
        os.kill(worker, number[0] if number else signal.SIGTERM)
        if not number:
            sources, timeout = [ended], _GRACE_SECONDS


def _next_byte(connection: socket.socket) -> bytes:
    """The number of a signal that the client got, or of the server's exit code, in one byte; nothing if it is gone."""
    try:
        return connection.recv(1)
    except ConnectionResetError:
        return b""


# --- Its clients -----------------------------------------------------------------------------------------------------


def delegate(arguments: Sequence[str]) -> int | None:
    """Have the server do `lska *arguments`; its exit code, or None where there is no server that takes it.

    Raises:
        ServerError: it took the command and is gone.
    """
    path = os.environ.get(VARIABLE)
    if path is None:
        return None
    request = {"arguments": list(arguments), "folder": str(Path.cwd()), "environment": dict(os.environ)}
    body = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            # It is given this process's environment and streams.
            require_own(Path(path).parent)
            connection.connect(path)
            socket.send_fds(connection, [_LENGTH.pack(len(body))], [0, 1, 2])
            connection.sendall(body)
            if connection.recv(1) != _TAKEN:
                return None
        except PrivateFolderError as error:
            logger.warning("%s=%s is not used: %s", VARIABLE, path, error)
            return None
        except TimeoutError:
            logger.warning("the server of `lska warm` does not answer; going on without it")
            return None
        except (OSError, ValueError):
            # The server ended with the command that it was started for.
            return None
        connection.settimeout(None)

        def pass_on(number: int, frame: FrameType | None) -> None:
            with contextlib.suppress(OSError):  # the command has ended
                connection.sendall(bytes([number]))

        for number in _PASSED_ON:
            signal.signal(number, pass_on)
        if answer := _next_byte(connection):
            return answer[0]
    raise ServerError("the server of `lska warm` is gone, and this command with it; start it again")
