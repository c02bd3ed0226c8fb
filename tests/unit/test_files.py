"""The one reader of JSON, YAML, text and tables, and the one way to write a file whole."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from lska.provenance import files
from lska.provenance.files import (
    FileError,
    MissingFileError,
    WriteError,
    atomic_path,
    files_in,
    is_temporary,
    printable,
    quoted,
    read_bytes,
    read_json,
    read_lines,
    read_table,
    read_text,
    read_yaml,
    replaced_folder,
    vouched,
    write_json,
    writing,
)  # fmt: skip

BOMB = "x0: &x0 [l, l, l, l, l, l, l, l, l, l]\n" + "\n".join(
    f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 10)
)
CHAIN = "x0: &x0 [l]\n" + "\n".join(f"x{i}: &x{i} [*x{i - 1}]" for i in range(1, 3000))

JSON_FAULTS = (
    "[" * 100_000, "[" * 70 + "]" * 70, '{"a": 1,\n"b": 2,\n"a": 3}', '{"a": {"b": 1, "b": 1}}', '{\n"a": NaN}',
    '{"a": [-Infinity]}', '{"a": 1e999}', f'{{"a": {"9" * 400}}}', f'{{"a": {"9" * 5000}}}', r'{"a": "\ud800"}',
    "[]", "7", '{"a": }', "",
)  # fmt: skip
YAML_FAULTS = (
    "a: " + "[" * 1500 + "]" * 1500, "[" * 100_000, "a: 1\nb: 2\na: 3", "b:\n  - {a: 1, a: 2}",
    "<<: {a: 1}\n<<: {b: 1}", "a: .nan", f"a: {'9' * 400}", f"a: {'9' * 5000}", "a: 2001-13-45", "a: !!timestamp foo",
    BOMB, CHAIN, "a: &a [*a]", "a: !!python/object/apply:os.system ['touch x']", "a: 1\n---\nb: 2", "{a: 1}: 2",
    "a: *b", 'a: "\x1b[31m"', "a: [1", "- 1\n", "",
)  # fmt: skip
TABLE_FAULTS = (
    b"", b"file,class,file\n", b"file,class\na\nb,c,d\n,x\ne,\n", b"file,class\na,b\nc,d\na,e\n", b'file,class\n"a,b\n',
    "file,class\na,b\n".encode("utf-16"), b"file,class\ncaf\xe9,b\n", b"file,class\na\0,b\n",
)  # fmt: skip


def test_what_is_wrong_is_said_with_path_and_place(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    path, found = tmp_path / 'it\'s "mine"', []
    readers = (read_json, JSON_FAULTS), (read_yaml, YAML_FAULTS), (table, TABLE_FAULTS)
    for reader, faults in readers:
        for content in faults:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            with pytest.raises(FileError) as caught:
                reader(path)
            assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 500
            found.append(f"{quoted(content)} -> {str(caught.value).removeprefix(f'{path}: ')}")
            assert vouched(path) == {}
    assert found == snapshot


def table(path: Path) -> Any:
    return read_table(path, ("file", "class"), key="file")


def test_sound_files_are_read_whatever_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("\ufeff{\"a\": [[1.5, -3, \"\\ud83d\\ude00\"]], \"b\": 123456789012345678}\r\n".encode())
    assert read_json(path) == {"a": [[1.5, -3, "\U0001f600"]], "b": 123456789012345678} == vouched(path)
    path.write_text("a: &a {x: 1, y: [2, 3]}\nb:\n  <<: *a\n  x: 0x1F\n", encoding="utf-8-sig")
    assert read_yaml(path) == {"a": {"x": 1, "y": [2, 3]}, "b": {"x": 31, "y": [2, 3]}}
    path.write_bytes(b"\xef\xbb\xbffile , class\r\n a b , c\r\n\r\nd,\"e,\nf\"\r\n")
    rows = [(2, {"file": "a b", "class": "c"}), (5, {"file": "d", "class": "e,\nf"})]
    assert read_table(path, ("file", "class"), key="file") == rows
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\n  two \n")
    assert read_lines(path) == [(1, "one"), (3, "two")]
    assert read_text(path, keep_mark=True) == "\ufeff" + read_text(path)


def test_only_regular_files_are_opened_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "to the pipe").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        expected = {
            "pipe": "expected a regular file, found a named pipe",
            "to the pipe": "expected a regular file, found a named pipe",
            "socket": "expected a regular file, found a socket",
            "": "expected a regular file, found a folder",
            "/dev/zero": "expected a regular file, found a device",
            "a\0b": "no name of a file",
        }
        for name, text in expected.items():
            with pytest.raises(FileError, match=text):
                read_bytes(tmp_path / name)
    for name, text in {"link": "is a link to gone, which is not there", "gone": "no such file"}.items():
        with pytest.raises(MissingFileError, match=text):
            read_bytes(tmp_path / name)
    (tmp_path / "large").write_bytes(b"12345")
    assert read_bytes(tmp_path / "large", limit=5) == b"12345"
    with pytest.raises(FileError, match="larger than 4 bytes"):
        read_text(tmp_path / "large", limit=4)


def test_foreign_values_are_short_and_harmless_in_messages() -> None:
    assert printable("a\x1b[31m\tb\x9b\u202ec\nd é", 9) == "a\\u001b[31m\tb\\u009b... (11 characters)\nd é"
    assert printable("x" * 50, 9) == "x" * 9 + "... (50 characters)"
    assert printable("x" * 5000) == "x" * 5000
    bomb: Any = "lol"
    for _ in range(30):
        bomb = [bomb] * 10
    for value in (bomb, "\x1b" * 10**6, {f"k{n}": n for n in range(10**4)}, Path("/" + "d/" * 5000), 10**300):
        assert len(quoted(value)) < 700 and "\x1b" not in quoted(value) and "\n" not in quoted(value)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        assert is_temporary(temporary) and temporary.suffix == path.suffix and temporary.parent == path.parent
        temporary.write_text("half")
        raise KeyError
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})

    def refuse() -> None:
        raise PermissionError("lost")

    with pytest.raises(PermissionError, match="lost"):
        write_json(path, {"a": 2}, refuse)
    assert read_json(path) == {"a": 1} and list(path.parent.iterdir()) == [path]
    mask = os.umask(0o027)
    try:
        write_json(path, {})
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "site"
    for text in ("one", "two"):
        with replaced_folder(path) as folder:
            assert is_temporary(folder.parent) and not list(folder.iterdir())
            (folder / f"{text}.html").write_text(text)
        assert [page.name for page in path.iterdir()] == [f"{text}.html"]
    with pytest.raises(KeyError), replaced_folder(path) as folder:
        raise KeyError
    assert [page.name for page in path.iterdir()] == ["two.html"] and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path: Path, folder: bool) -> None:
    making = "replaced_folder" if folder else "atomic_path"
    code = f"import pathlib, time; from lska.provenance.files import {making} as making\n"
    code += "with making(pathlib.Path('x.json')): print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (left,) = tmp_path.iterdir()
        assert is_temporary(left) and files_in(tmp_path) == []
        # What a process still writes stays, as does what only looks like it.
        others = [tmp_path / ".x.json.0idvpfee.tmp.json", tmp_path / ".x.json.swp", tmp_path / ".x.tmp"]
        for other in others:
            other.write_text("")
        files._sweep.cache_clear()
        write_json(tmp_path / "a.json", {})
        assert left.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    files._sweep.cache_clear()
    write_json(tmp_path / "a.json", {})
    assert not left.exists() and all(other.exists() for other in others)
    # Another machine's, whose locks may not be seen here, goes after a time.
    hour = time.time() - 2 * files.OTHER_HOST_SECONDS
    os.utime(others[0], (hour, hour))
    files._sweep.cache_clear()
    write_json(tmp_path / "a.json", {})
    assert sorted(tmp_path.iterdir()) == sorted([*others[1:], tmp_path / "a.json"])
    assert files_in(tmp_path) == [tmp_path / "a.json"]


def test_no_room_is_said_with_file_and_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "weights.json"
    write_json(path, {"a": 1})
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, former[1]))
    try:
        with pytest.raises(WriteError) as caught:
            write_json(path, {"a": "x" * 10_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert str(caught.value).startswith(f"{path}: cannot be written in the folder {path.parent} (File too large)")
    assert read_json(path) == {"a": 1} and list(path.parent.iterdir()) == [path]
    with pytest.raises(WriteError, match="cannot be written in the folder"):
        write_json(path / "below a file", {})
    # What concerns another file keeps its own words.
    with pytest.raises(FileNotFoundError, match="elsewhere"), writing(path):
        Path("elsewhere/x").read_bytes()


def test_what_may_not_be_read_is_not_taken_for_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights whose sidecar vouched for nothing would be trained again, and removed before."""
    sidecar, damaged = tmp_path / "sidecar.json", tmp_path / "damaged.json"
    write_json(sidecar, {"md5": "0"})
    damaged.write_text("{", encoding="utf-8")
    assert vouched(sidecar) == {"md5": "0"} and vouched(damaged) == {} == vouched(tmp_path / "none.json")
    system = Path.open

    def refused(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == sidecar:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return system(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    for read in (vouched, read_json):
        with pytest.raises(files.UnreadableFileError, match=r"sidecar\.json: cannot be read \(Permission denied\)$"):
            read(sidecar)
