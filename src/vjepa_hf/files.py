"""Files and folders that get their names only once they are complete.

A process that dies while it writes leaves `NAME.unfinished`, and what had the name before stays as it was.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield an empty file next to `path` to write to. It replaces `path` when the block ends, and goes if it fails.

    The file gets the mode that the umask asks for, whatever mode a library gave it (safetensors writes 0600).

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(path)
    unfinished = _unfinished(path)
    unfinished.unlink(missing_ok=True)
    unfinished.touch()
    mode = unfinished.stat().st_mode
    try:
        yield unfinished
        unfinished.chmod(mode)
        flush(unfinished)
        unfinished.replace(path)
        flush(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)  # exists only if the block failed


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder next to `path` to write to. It becomes `path` when the block ends, and goes if it fails.

    Its files get the mode that the umask asks for.

    Raises:
        OSError: the parent folder cannot be written, or `path` exists and is not an empty folder.
    """
    path = Path(path)
    unfinished = _unfinished(path)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        settle(unfinished)
        if path.is_dir():
            path.rmdir()  # Windows renames to a new name only
        unfinished.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # exists only if the block failed


def settle(folder: Path) -> None:
    """Give all files of a folder the mode that the umask asks for, and bring them and their names to the disk."""
    mode = folder.stat().st_mode & 0o666  # the folder was made under the same umask
    for path in [*folder.rglob("*"), folder]:
        if path.is_file():
            path.chmod(mode)
        flush(path)


def flush(path: Path) -> None:
    """Bring the content of a file, or the names in a folder, to the disk."""
    if not path.is_dir():
        descriptor = os.open(path, os.O_RDWR)  # Windows flushes only what may be written
    elif hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    else:
        return  # Windows cannot open a folder
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unfinished(path: Path) -> Path:
    # A suffix: whoever lists *.mp4 or *.safetensors does not find it.
    return path.with_name(f"{path.name}.unfinished")
