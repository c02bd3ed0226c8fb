"""Folders of generated data that appear complete or not at all and say which settings made them."""

import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lska.files import write_json
from lska.provenance import digest

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"


def describe(kind: str, settings: Any, names: Mapping[str, Any], **versions: int) -> dict[str, Any]:
    """Return what identifies a set, ready for JSON.

    Args:
        settings: the set's dataclass.
        names: settings written otherwise than as given, as class names instead of their number.
        versions: of the generators that make it.
    """
    return {"kind": kind, **versions, "settings": json.loads(json.dumps(asdict(settings) | names))}


def existing_settings(root: Path, description: Mapping[str, Any], overwrite: bool) -> bool:
    """Tell whether `root` already holds the set that `description` identifies; False where it may be written.

    Raises:
        FileExistsError: `root` holds another generated set and `overwrite` is False, or is a file or a folder of other
            origin, which is never replaced.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / SETTINGS_FILE).read_text(encoding="utf-8"))
        found_digest = found["digest"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FileExistsError(
            f"{root} exists and is no generated set (no readable {SETTINGS_FILE}: {error}); "
            "choose another folder or remove it yourself"
        ) from error
    if found_digest == digest(description):
        return True
    if not overwrite:
        raise FileExistsError(
            f"{root} holds a generated set of other settings ({_differences(found, description)}); "
            "choose another folder, use the same settings, or pass overwrite"
        )
    return False


def generate(
    root: Path, description: Mapping[str, Any], images: int, overwrite: bool, write: Callable[[Path], None]
) -> int:
    """Have `write(folder)` fill the folder that becomes `root`, complete or not at all, unless `root` holds this set.

    Returns:
        Number of images written now: `images`, or 0 where the set is there already.

    Raises:
        FileExistsError: as `existing_settings`.
    """
    if existing_settings(root, description, overwrite):
        logger.info("%s already holds this set of %d images, left as it is", root, images)
        return 0
    with replaced_folder(root, description) as folder:
        write(folder)
    logger.info("%s: wrote %d images", root, images)
    return images


@contextmanager
def replaced_folder(root: Path, description: Mapping[str, Any]) -> Iterator[Path]:
    """Yield an empty sibling folder that becomes `root` when the block ends well and is removed otherwise.

    `settings.json` with the description and its digest is added. A former `root` goes once the new one is complete.
    """
    root = root.resolve()
    root.parent.mkdir(parents=True, exist_ok=True)
    mark = f".{root.name}.{uuid.uuid4().hex[:8]}"
    partial, former = root.with_name(f"{mark}.partial"), root.with_name(f"{mark}.former")
    partial.mkdir()
    try:
        yield partial
        write_json(partial / SETTINGS_FILE, {**description, "digest": digest(description)})
        _swap(partial, root, former)
    finally:
        for leftover in (partial, former):
            shutil.rmtree(leftover, ignore_errors=True)


def _swap(partial: Path, root: Path, former: Path) -> None:
    """Put `partial` in the place of `root`, and `root` back if that fails."""
    if not root.exists():
        partial.replace(root)
        return
    root.replace(former)
    try:
        partial.replace(root)
    except BaseException:
        former.replace(root)
        raise


def _differences(found: Mapping[str, Any], description: Mapping[str, Any]) -> str:
    """Say which settings differ, as `name: found value, not wanted value`."""
    flat_found, flat_wanted = ({**side, **side.get("settings", {})} for side in (found, description))
    keys = sorted((flat_found.keys() | flat_wanted.keys()) - {"settings", "digest"})
    pairs = [(key, flat_found.get(key), flat_wanted.get(key)) for key in keys]
    return "; ".join(f"{key}: {old!r}, not {new!r}" for key, old, new in pairs if old != new)
