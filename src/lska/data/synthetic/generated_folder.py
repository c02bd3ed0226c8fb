"""Folders of generated data that appear complete or not at all and say which settings made them."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lska.data.entries import shown_names
from lska.provenance.errors import OccupiedError
from lska.provenance.files import files_in, read_json, replaced_folder, write_json
from lska.provenance.metric_files import digest
from lska.settings.versions import GENERATORS

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"


def describe(kind: str, settings: Any, names: Mapping[str, Any], generator: str, *others: str) -> dict[str, Any]:
    """Return what identifies a set, ready for JSON.

    Args:
        settings: the set's dataclass.
        names: settings written otherwise than as given, as class names instead of their number.
        generator: what makes the set, one of `lska.settings.versions.GENERATORS`.
        others: generators of what it is made from.
    """
    versions = {"generator": GENERATORS[generator].number} | {name: GENERATORS[name].number for name in others}
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
        found = read_json(root / SETTINGS_FILE)
        found_digest = found["digest"]
    except (ValueError, KeyError) as error:
        raise OccupiedError(
            f"{root} exists and is no generated set (no readable {SETTINGS_FILE}: {error}); "
            "choose another folder or remove it yourself"
        ) from error
    if found_digest == digest(description):
        return True
    if not overwrite:
        raise OccupiedError(
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
        FileExistsError: as `existing_settings` and `replaced_set`.
    """
    if existing_settings(root, description, overwrite):
        logger.info("%s already holds this set of %d images, left as it is", root, images)
        return 0
    with replaced_set(root, description) as folder:
        write(folder)
    logger.info("%s: wrote %d images", root, images)
    return images


@contextmanager
def replaced_set(root: Path, description: Mapping[str, Any]) -> Iterator[Path]:
    """Yield an empty folder that becomes `root` when the block ends well, as `lska.provenance.files.replaced_folder`.

    `settings.json` with the description and its digest is added.

    Raises:
        FileExistsError: files came to the set in `root` after it was generated, or were changed; they are not replaced.
    """
    if later := _later_files(root):
        raise OccupiedError(
            f"{root} holds a generated set of other settings and files that came to it or were changed "
            f"later: {shown_names(later)}; move them elsewhere, or remove the folder yourself"
        )
    with replaced_folder(root.resolve()) as folder:
        yield folder
        write_json(folder / SETTINGS_FILE, {**description, "digest": digest(description)})


def _later_files(root: Path) -> list[str]:
    """Files that a user put into a generated set, or changed: the settings are the last file that the generator writes.

    By the time at which the system last changed the file's entry, which copying an old file does not set back.
    """
    settings = root / SETTINGS_FILE
    if not settings.exists():
        return []
    complete = settings.stat().st_ctime_ns
    files = (path for path in files_in(root, "**/*") if not path.is_dir())
    return [str(path.relative_to(root)) for path in files if path.lstat().st_ctime_ns > complete]


def _differences(found: Mapping[str, Any], description: Mapping[str, Any]) -> str:
    """Say which settings differ, as `name: found value, not wanted value`."""
    flat_found, flat_wanted = ({**side, **side.get("settings", {})} for side in (found, description))
    keys = sorted((flat_found.keys() | flat_wanted.keys()) - {"settings", "digest"})
    pairs = [(key, flat_found.get(key), flat_wanted.get(key)) for key in keys]
    return "; ".join(f"{key}: {old!r}, not {new!r}" for key, old, new in pairs if old != new)
