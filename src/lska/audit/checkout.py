"""What this checkout knows of the commits and files that results name; asks git only for what is here."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from lska.provenance.metric_files import git, project_root

_COMMIT = re.compile("[0-9a-f]{7,64}")


@functools.cache
def commit_text(commit: str) -> str:
    """Whether the checkout has a commit, and how far behind the current one it is."""
    if _COMMIT.fullmatch(commit) is None:
        return "no name of a commit"
    if git("rev-parse", "--git-dir") is None:
        return "not looked up: the code here is no git checkout, or git does not answer"
    if git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}") is None:
        return "not in this checkout (a shallow clone, or a branch that was never merged)"
    if git("merge-base", "--is-ancestor", commit, "HEAD") is None:
        return "in this checkout, but not in the history of the current commit"
    later = git("rev-list", "--count", f"{commit}..HEAD")
    return "the current commit" if later == "0" else f"in this checkout, {later} commits before the current one"


def changed_files(*places: Path) -> list[str]:
    """Committed files at or below `places` that are others now, or are gone, as git names them; none without git, nor
    outside the checkout."""
    inside = [str(place.resolve()) for place in places if place.resolve().is_relative_to(project_root())]
    answer = git("diff", "--name-only", "HEAD", "--", *inside) if inside else None
    return (answer or "").splitlines()


def committed_text(path: Path) -> str | None:
    """A file as the current commit has it; None where it has none."""
    root, place = project_root(), path.resolve()
    if not place.is_relative_to(root):
        return None
    found = git("rev-parse", "--verify", "--quiet", f"HEAD:./{place.relative_to(root).as_posix()}")
    return None if found is None else git("cat-file", "blob", found)
