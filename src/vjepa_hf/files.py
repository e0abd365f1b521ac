"""Files and folders that get their names only when they are complete, and damaged models.

A process that dies while it writes leaves `NAME.unfinished`, or the folder `unfinished_export`, and does not change an
existing `NAME`.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield an empty file next to `path` to write to; it replaces `path` after the block, or is deleted if it fails.

    The file gets the mode of the umask, whatever mode a library gave it (safetensors writes 0600).

    Raises:
        OSError: the folder cannot be written.
        ValueError: `path` is a folder or a device.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} exists and is not a file; choose another name")
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
def whole_files(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder in `folder` to write to; its files move to `folder` after the block, or none if it fails.

    They replace the files of their names, and get the mode of the umask. `folder` is made if it is missing.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    unfinished = folder / "unfinished_export"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        settle(unfinished)
        for file in sorted(unfinished.iterdir()):
            file.replace(folder / file.name)
        flush(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder next to `path` to write to; it becomes `path` after the block, or is deleted if it fails.

    Its files get the mode of the umask.

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
            path.rmdir()  # Windows renames only to a new name
        unfinished.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # exists only if the block failed


@contextmanager
def parents_of(path: str | Path) -> Iterator[None]:
    """Make the missing folders above `path`; those that are still empty are removed if the block fails.

    Raises:
        OSError: a folder cannot be made.
    """
    missing = [folder for folder in Path(path).parents if not folder.exists()]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise


def settle(folder: Path) -> None:
    """Give all files of a folder the mode of the umask, and flush them and the folder to disk."""
    mode = folder.stat().st_mode & 0o666  # the folder was made under the same umask
    for path in [*folder.rglob("*"), folder]:
        if path.is_file():
            path.chmod(mode)
        flush(path)


def flush(path: Path) -> None:
    """Flush the content of a file, or the names in a folder, to disk."""
    if not path.is_dir():
        descriptor = os.open(path, os.O_RDWR)  # Windows flushes only writable files
    elif hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    else:
        return  # Windows cannot open a folder
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def named_damage(model: str | Path) -> Iterator[None]:
    """Turn what transformers raises for the damaged files of a model into a ValueError that names the model.

    Raises:
        ValueError: a configuration has another structure or a value of another type, or the weights are cut off.
    """
    try:
        yield
    except (StrictDataclassError, SafetensorError, RuntimeError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(
            f"cannot load model {str(model)!r} ({type(error).__name__}: {error}); one of its files may be damaged; "
            "copy or save it again."
        ) from error


def _unfinished(path: Path) -> Path:
    # A suffix, so that patterns such as *.mp4 do not match it.
    return path.with_name(f"{path.name}.unfinished")
