"""What all attempts of a training said, in one file: Snakemake removes a job's log before it starts the job again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lska.files import open_regular

NAME = "attempts.log"


@contextmanager
def told(folder: Path, owner: str, owned: Callable[[], bool]) -> Iterator[None]:
    """Append everything that is logged inside the block to `attempts.log` in a state folder, and how the block ends.

    Args:
        owner: this process, in words.
        owned: whether this process still owns the folder, asked before each line; who lost it writes nothing more.

    Raises:
        OSError: the file cannot be opened.
        FileError: it is no regular file.
    """
    path = folder / NAME
    if path.exists():
        open_regular(path).close()  # a named pipe would have this process wait for a reader
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.addFilter(lambda record: _answered(owned))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _write(handler, f"{owner} has the training")
    logging.getLogger().addHandler(handler)
    try:
        yield
        _write(handler, "done")
    except BaseException as error:
        _write(handler, f"{type(error).__name__}: {error}")
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _answered(owned: Callable[[], bool]) -> bool:
    try:
        return owned()
    except OSError:  # nor could a line be appended
        return False


def _write(handler: logging.Handler, message: str) -> None:
    handler.handle(logging.LogRecord(__name__, logging.INFO, __file__, 0, message, None, None))
