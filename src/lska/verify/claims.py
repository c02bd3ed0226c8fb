"""The verdicts on claims as they are on disk, against what the metric files give now."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lska.config import Config
from lska.files import quoted, read_bytes, read_json
from lska.provenance import validate
from lska.verify.files import broken, said_of, unreadable
from lska.verify.findings import Finding, Level


def check(config: Config, distrusted: Sequence[Path] = ()) -> Iterator[Finding]:
    """Compare claims.json with verdicts made now, and its pages with it; nothing where none of them is there.

    Args:
        distrusted: metric files that are broken themselves; no verdicts are made from them.
    """
    from lska.claims.claims_page import claims_content, render_claims
    from lska.claims.listing import CLAIMS, claim_files, read_claims
    from lska.claims.verdicts import judge_claims

    path, *pages = claim_files(config.results)
    faults = list(unreadable(page for page in pages if os.path.lexists(page)))
    yield from faults
    pages = [page for page in pages if page not in {fault.file for fault in faults}]
    if not os.path.lexists(path):
        left = [page.name for page in pages if os.path.lexists(page)]
        if left:
            yield broken(path, "", f"is missing, but {left[0]} beside it shows its verdicts")
        return
    try:
        found = read_json(path)
        validate(found, "claims", str(path))
    except ValueError as error:
        yield broken(path, "", f"cannot be read as a file of claims ({said_of(path, error)})")
        return
    if distrusted:
        yield Finding(Level.NOTE, path, "", f"not compared with the metric files, since {distrusted[0]} is broken")
        return
    try:
        read_claims()
    except ValueError as error:
        yield broken(CLAIMS, "", said_of(CLAIMS, error))
        return
    try:
        judged = claims_content(judge_claims(config), config)
    except ValueError as error:
        yield Finding(Level.NOTE, path, "", f"not compared: {error}")
        return
    differing = list(_differences(_named(found), _named(json.loads(json.dumps(judged))), ""))
    for place, ours, theirs in differing:
        text = f"is {quoted(ours)}, the metric files and the paper's statements give {quoted(theirs)}"
        yield broken(path, place, text)
    for page in pages if not differing else ():
        yield from _page(page, render_claims(judged, page.suffix))


def _page(path: Path, expected: str) -> Iterator[Finding]:
    if not path.is_file():
        yield broken(path, "", "is missing")
        return
    found = read_bytes(path).decode()
    for number, (line, wanted) in enumerate(_pairs(found, expected), start=1):
        if line != wanted:
            yield broken(path, f"line {number}", f"shows {line.strip()!r}, claims.json gives {wanted.strip()!r}")
            return


def _pairs(one: str, other: str) -> list[tuple[str, str]]:
    ours, theirs = one.split("\n"), other.split("\n")
    longest = max(len(ours), len(theirs))
    return list(zip(ours + [""] * (longest - len(ours)), theirs + [""] * (longest - len(theirs)), strict=True))


def _named(content: Mapping[str, Any]) -> dict[str, Any]:
    """The file's content with claims and quantities by name instead of in lists, so that places can be named."""
    claims = {}
    for claim in content["claims"]:
        quantities = {one["name"]: one for one in claim["quantities"]}
        order = ", ".join(one["name"] for one in claim["quantities"])
        claims[claim["id"]] = {**claim, "quantities": quantities, "order of quantities": order}
    order = ", ".join(claim["id"] for claim in content["claims"])
    return content | {"claims": claims, "order of claims": order}


def _differences(ours: Any, theirs: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for name in sorted({*ours, *theirs}):
            yield from _differences(ours.get(name), theirs.get(name), f"{place}.{name}" if place else name)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from _differences(*pair, f"{place}[{number}]")
    elif ours != theirs:
        yield place, ours, theirs
