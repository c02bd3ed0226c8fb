"""Archives for tests: of every format, sound or hostile."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the format that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def pack_folder(folder: Path, archive: Path, prefix: str) -> Path:
    """Pack the files of `folder` below `prefix`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return pack(archive, {str(Path(prefix, path.relative_to(folder))): path.read_bytes() for path in files})


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NAMES = ("../evil.txt", "outer/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:/evil.txt", "outer/evil\x1b[2J.txt")
"""Of members that no sound archive has."""


def _tar(member: tarfile.TarInfo) -> bytes:
    """A tar file with a sound member before `member`, each of four bytes where its type has any."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for one in (tarfile.TarInfo("outer/good.txt"), member):
            one.size = 4 if one.isreg() else 0
            archive.addfile(one, io.BytesIO(b"good"))
    return buffer.getvalue()


def hostile_tars() -> Iterator[tuple[str, bytes]]:
    """Plain tar files that must be refused, each with what it is."""
    for name in (*NAMES, "./outer//good.txt"):
        yield f"member {name!r}", _tar(tarfile.TarInfo(name))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE):
        member = tarfile.TarInfo("outer/evil")
        member.type, member.linkname = kind, "outer/good.txt"
        yield f"type {kind!r}", _tar(member)
    whole = _tar(tarfile.TarInfo("outer/other.txt"))
    last = whole.rindex(b"ustar")
    yield "cut inside a header", whole[: last + 100]
    yield "cut inside a file", whole[: last + 300]
    yield "damaged header", whole[:last] + b"XXXXXXXX" + whole[last + 8 :]
    yield "no bytes", b""
    yield "no members", bytes(10240)
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 8**11 - 1
    yield "name of eight gigabytes", long_name.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def hostile_archives(folder: Path) -> Iterator[tuple[str, Path]]:
    """Archives of all formats that must be refused, each with what it is; each replaces the former."""
    for what, data in hostile_tars():
        (folder / "a.tar").write_bytes(data)
        yield f".tar: {what}", folder / "a.tar"
    (folder / "a.tar.gz").write_bytes(gzip.compress(_tar(tarfile.TarInfo("../evil.txt"))))
    yield ".tar.gz: member '../evil.txt'", folder / "a.tar.gz"
    path = folder / "a.zip"
    for name in NAMES:
        yield f".zip: member {name!r}", pack(path, {"outer/good.txt": b"good", name: b"evil"})
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("outer/evil")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    yield ".zip: a link", path
    data = bytearray(pack(path, {"a.txt": b"secret"}).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    path.write_bytes(data)
    yield ".zip: encrypted", path
    data = bytearray(pack(path, {"zeros": bytes(1_000_000)}).read_bytes())
    # The uncompressed size in the central directory, which is what is believed.
    place = data.rindex(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", 1000)
    path.write_bytes(data)
    yield ".zip: lies about its size", path
    yield ".zip: no members", pack(path, {})
    for suffix in (".zip", ".tar.gz"):
        whole = pack(folder / f"a{suffix}", {f"outer/{n}.txt": bytes(range(256)) * 9 for n in range(3)}).read_bytes()
        (folder / f"a{suffix}").write_bytes(whole[: len(whole) // 2])
        yield f"{suffix}: cut in half", folder / f"a{suffix}"
        middle = len(whole) // 3
        (folder / f"a{suffix}").write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
        yield f"{suffix}: a flipped byte", folder / f"a{suffix}"
