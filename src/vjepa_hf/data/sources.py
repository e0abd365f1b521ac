"""Where videos come from: every kind of source becomes a table with the column `video`; nothing is decoded here.

A `video` is a path, a URL, a folder of frames, or the bytes of a file with its name: `{"bytes": ..., "path": ...}`.
The tables are those of `datasets`: memory-mapped, or streamed.
"""

import csv
import glob
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import pyarrow

VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv".split()
)
IMAGE_SUFFIXES = frozenset(".bmp .jpeg .jpg .png .tif .tiff .webp".split())
CSV = {"keep_default_na": False, "na_values": [""]}  # a video may be called NA or nan; only an empty cell is none
# What `datasets` reads, by suffix: builder and its options.
TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", CSV),
    ".tsv": ("csv", CSV | {"delimiter": "\t"}),
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".parquet": ("parquet", {}),
    ".tar": ("webdataset", {}),
}
STREAMED = ("parquet", "webdataset")  # the others are lists, so small that a stream of one is made from the table
LISTS = {".csv": ",", ".tsv": "\t"}  # may lack a header
LABEL = r"-?\d+"
VIDEO_COLUMNS = ("video", "path", "file_name")
ROWS_AT_ONCE = 10_000  # of a list, while its paths are made absolute
STREAM_SHARDS = 1024  # parts that a list is cut into when it is streamed, to be shared out and shuffled
PATH = datasets.Value("string")
# What `datasets` and the readers below it raise for files that are missing, empty or not what their suffix says.
UNREADABLE = (
    datasets.exceptions.DatasetsError,
    pyarrow.ArrowException,
    tarfile.TarError,
    csv.Error,
    OSError,
    ValueError,
    IndexError,
    StopIteration,
)

Videos: TypeAlias = datasets.Dataset | datasets.IterableDataset


def load_videos(
    source: str | Path | Videos, video_column: str | None = None, streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """List the videos of a source, without opening any of them.

    - A folder: the videos in it, at any depth; without videos, those of its .tar or .parquet files; without these,
      every folder of images is one video, its frames being the images. Names that begin with a dot are skipped.
    - .csv, .tsv, .jsonl, .json: the paths or URLs in a column: of videos, of folders of frames, of images as stills.
    - Lines `path label`, or nothing but paths, which may hold spaces; labels are integers. This is any other suffix,
      and a .csv or .tsv without a header, such as Meta's lists; there a comma or tab may divide the two.
    - .tar: the videos or images of WebDataset shards. .parquet: paths, or the bytes of videos.
    - A video: itself. A pattern such as `shards/*.tar`: all files it matches.
    - A `datasets.Dataset` or `IterableDataset`: its column.

    Relative paths of a table start at its folder. Where all videos of a folder lie in sub-folders, the name of its own
    folder is the label of a video.

    Args:
        source: what to read; tables may be URLs too.
        video_column: column that holds the videos; None takes the first that exists of `VIDEO_COLUMNS`, else the only
            one of videos or images.
        streaming: read while training instead of listing first.

    Returns:
        A table with the column `video` and whatever other columns the source has, `label` by convention.

    Raises:
        ValueError: the source does not exist, cannot be read, is of no known kind, holds no video, or has no such
            column.
    """
    if not isinstance(source, Videos):
        videos = _open_source(str(source), video_column, streaming)
    else:
        videos = _with_video_column(source, video_column, "the dataset")
    if not streaming or isinstance(videos, datasets.IterableDataset):
        return videos
    # Neighbours in a list are often alike; a stream is only shuffled nearby.
    return videos.shuffle(seed=0).to_iterable_dataset(num_shards=min(len(videos), STREAM_SHARDS))


def load_images(source: str | Path | Videos) -> datasets.Dataset | datasets.IterableDataset:
    """List images, each as a video of one frame: of a folder those in it at any depth, else as `load_videos` does.

    Where all images of a folder lie in sub-folders, the name of its own folder is the label of an image.

    Raises:
        ValueError: a folder without images, or as of `load_videos`.
    """
    if isinstance(source, Videos) or not os.path.isdir(source):
        return load_videos(source)
    images = [os.path.join(path, name) for path, names in _walk(str(source)) for name in names]
    images = [image for image in images if _suffix(image) in IMAGE_SUFFIXES]
    if not images:
        raise ValueError(f"{source} holds no image; suffixes searched: {' '.join(sorted(IMAGE_SUFFIXES))}")
    return _labelled(images, str(source))


def _open_source(source: str, video_column: str | None, streaming: bool) -> Videos:
    files = _matching_files(source)
    suffixes = {_suffix(file) for file in files}
    if len(files) == 1 and os.path.isdir(files[0]):
        videos = _from_folder(files[0], video_column, streaming)
    elif suffixes <= VIDEO_SUFFIXES:
        videos = datasets.Dataset.from_dict({"video": files})
    elif len(suffixes) > 1:
        raise ValueError(f"videos {source!r} matches files of several kinds ({', '.join(sorted(suffixes))}): name one")
    elif suffixes & set(TABLES) and not _are_headerless(files):
        videos = _from_tables(files, video_column, streaming)
    elif suffixes & IMAGE_SUFFIXES or "://" in source:
        raise ValueError(f"videos {source!r} is of no known kind: give a folder, a list, .parquet, .tar or a video")
    else:
        videos = _from_lines(files)
    if isinstance(videos, datasets.Dataset) and len(videos) == 0:
        raise ValueError(f"{source} lists no video; suffixes searched in a folder: {' '.join(sorted(VIDEO_SUFFIXES))}")
    return videos


def _matching_files(source: str) -> list[str]:
    if "://" in source or os.path.exists(source):
        return [source]
    files = sorted(glob.glob(source)) if glob.has_magic(source) else []
    if not files:
        raise ValueError(f"videos {source!r} does not exist: give a folder of videos or a list of them")
    return files


def _suffix(file: str) -> str:
    return os.path.splitext(file.split("?")[0] if "://" in file else file)[1].lower()


# --- folders -------------------------------------------------------------------------------------------------------


def _from_folder(folder: str, video_column: str | None, streaming: bool) -> Videos:
    if os.path.exists(os.path.join(folder, "state.json")):  # written by `Dataset.save_to_disk`
        with _reading(folder):
            saved = datasets.load_from_disk(folder)
        return _with_video_column(saved, video_column, folder, folder)
    videos: list[str] = []
    tables: dict[str, list[str]] = {".tar": [], ".parquet": []}
    frame_folders: list[str] = []
    for path, names in _walk(folder):
        found = {name: _suffix(name) for name in names}
        videos += [os.path.join(path, name) for name, suffix in found.items() if suffix in VIDEO_SUFFIXES]
        for kind, files in tables.items():
            files += [os.path.join(path, name) for name, suffix in found.items() if suffix == kind]
        if IMAGE_SUFFIXES.intersection(found.values()):
            frame_folders.append(path)
    shards = tables[".tar"] or tables[".parquet"]
    if not videos and shards:
        return _from_tables(shards, video_column, streaming)
    return _labelled(videos or frame_folders, folder)


def _labelled(videos: list[str], folder: str) -> datasets.Dataset:
    """A table of what lies in a folder; where all of it lies in sub-folders, with their names as labels."""
    parents = [os.path.dirname(video) for video in videos]
    root = os.path.normpath(folder)
    labels = {} if root in map(os.path.normpath, parents) or videos == [folder] else {"label": parents}
    labels = {name: [os.path.basename(parent) for parent in values] for name, values in labels.items()}
    return datasets.Dataset.from_dict({"video": videos} | (labels if videos else {}))


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Folders, each once, and the names of their files, in an order that depends on nothing but the names."""
    seen: set[str] = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:  # links may lead in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in names if not name.startswith("."))
        for name in names:
            _require_utf8(os.path.join(path, name))
        yield path, names


def _require_utf8(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name of the file {path!r} is not UTF-8, so no table can hold it: rename it") from error


# --- tables --------------------------------------------------------------------------------------------------------


def _from_tables(files: list[str], video_column: str | None, streaming: bool) -> Videos:
    builder, options = TABLES[_suffix(files[0])]
    streaming = streaming and builder in STREAMED
    if builder == "csv":  # read as text, so that leading zeros of a name stay
        options = options | {"converters": dict.fromkeys([video_column] if video_column else VIDEO_COLUMNS, str)}
    videos = _load(builder, files, streaming=streaming, **options)
    videos = _with_video_column(videos, video_column, files[0], folder=os.path.dirname(files[0]))
    if builder == "webdataset" and "cls" in videos.column_names:
        videos = videos.rename_column("cls", "label")
    return videos


def _load(builder: str, files: list[str], **options: Any) -> Videos:
    names = [file if "://" in file else glob.escape(file) for file in files]
    with _reading(files[0] if len(files) == 1 else f"{files[0]}, or one of {len(files) - 1} like it,"):
        return datasets.load_dataset(builder, data_files=names, split="train", **options)


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """Turns whatever the readers of files raise into a ValueError that names the source."""
    try:
        yield
    except UNREADABLE as error:
        cause = error.__cause__ or error
        reason = "it is empty" if isinstance(cause, IndexError | StopIteration) else cause
        raise ValueError(f"{source} cannot be read: {reason}") from error


def _with_video_column(videos: Videos, column: str | None, source: str, folder: str | None = None) -> Videos:
    """The table with its videos in the column `video`, undecoded; of a file, relative paths begin at its `folder`."""
    if videos.features is None:
        raise ValueError(f"{source} does not say what its columns hold: give it features, for example with `cast`")
    column = column or _find_video_column(videos.features)
    if column not in videos.features:
        wanted = column or " or ".join(VIDEO_COLUMNS)
        raise ValueError(f"{source} has no column {wanted}; its columns are {', '.join(videos.column_names)}")
    for name, feature in videos.features.items():
        if getattr(feature, "decode", False):  # decoding is ours; the other media of a shard are not wanted
            videos = videos.cast_column(name, type(feature)(decode=False))
    if column != "video":
        videos = videos.remove_columns("video") if "video" in videos.column_names else videos
        videos = videos.rename_column(column, "video")
    feature = videos.features["video"]
    if not _is_text(feature) and not _is_file(feature):
        raise ValueError(
            f"{source} has no videos in the column {column}, which is {feature}: give paths, bytes or "
            '{"bytes": ..., "path": ...}, or name another video_column'
        )
    if not _is_text(feature) or (folder is None and feature == PATH):
        return videos
    features = datasets.Features(videos.features | {"video": PATH})  # one type, whatever the reader made: tables mix
    return _map(videos, partial(_absolute_paths, folder=folder or ""), features)


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _is_file(feature: Any) -> bool:
    """Whether a column holds bytes, alone or with their name."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    is_media = isinstance(feature, datasets.Video | datasets.Image)
    return is_media or getattr(feature, "dtype", None) in ("binary", "large_binary")


def _find_video_column(features: datasets.Features) -> str | None:
    for name in VIDEO_COLUMNS:
        if name in features:
            return name
    media = [name for name, feature in features.items() if isinstance(feature, datasets.Video | datasets.Image)]
    # WebDataset names the columns of a sample by the suffixes of its files. A text of such a name is no header.
    others = [name for name, feature in features.items() if _is_file(feature) and name not in media]
    media += [name for name in others if f".{name.rsplit('.')[-1].lower()}" in VIDEO_SUFFIXES]
    return media[0] if len(media) == 1 else None


def _absolute_paths(rows: dict[str, list], folder: str) -> dict[str, list]:
    return {"video": [_absolute(path, folder) for path in rows["video"]]}


def _absolute(path: str | None, folder: str) -> str | None:
    if not path:  # an empty cell
        return None
    return path if "://" in path else os.path.join(folder, path)


def _map(videos: Videos, function: Any, features: datasets.Features) -> Videos:
    """Apply a function of batches of rows; of a `Dataset` the result is memory-mapped too."""
    return videos.map(function, batched=True, batch_size=ROWS_AT_ONCE, features=features)


# --- lines ---------------------------------------------------------------------------------------------------------


def _are_headerless(files: list[str]) -> bool:
    """Whether the lists have no header; all or none of them, for a header read as a video would be a broken one."""
    headerless = [file for file in files if _is_headerless(file)]
    if headerless and len(headerless) < len(files):
        other = next(file for file in files if file not in headerless)
        raise ValueError(
            f"{other} begins with a header and {headerless[0]} does not: read together, both must or none"
        )
    return bool(headerless)


def _is_headerless(file: str) -> bool:
    """Whether a .csv or .tsv file has no header but lines of paths or `path label`, as Meta's lists do."""
    if _suffix(file) not in LISTS or "://" in file:
        return False
    with _reading(file), open(file, newline="", encoding="utf-8-sig") as lines:
        rows = csv.reader(lines, delimiter=LISTS[_suffix(file)])
        cells = next((cells for cells in rows if cells), [""])
    if set(cells).intersection(VIDEO_COLUMNS):
        return False
    if _suffix(cells[0]) not in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
        return _path_and_label(file).fullmatch(" ".join(cells)) is not None
    if len(cells) > 2 or (len(cells) == 2 and not re.fullmatch(LABEL, cells[1].strip())):
        raise ValueError(f"{file} has neither a header nor just paths and integer labels: begin it with column names")
    return True


def _path_and_label(file: str) -> re.Pattern[str]:
    divider = r"\s," if _suffix(file) == ".csv" else r"\s"
    return re.compile(rf"(.*[^{divider}])[{divider}]+({LABEL})")


def _from_lines(files: list[str]) -> datasets.Dataset:
    with _reading(files[0]), open(files[0], encoding="utf-8-sig") as lines:
        first = next((line for line in lines if line.strip()), "")
    labelled = _path_and_label(files[0]).fullmatch(first.strip()) is not None
    features = datasets.Features({"video": PATH})
    if labelled:
        features["label"] = datasets.Value("int64")
    parts = []
    for file in files:
        lines = _load("text", [file])
        split = partial(_split_lines, file=file, labelled=labelled)
        parts.append(
            lines.map(
                split,
                with_indices=True,
                batched=True,
                batch_size=ROWS_AT_ONCE,
                remove_columns=["text"],
                features=features,
            )
        )
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _split_lines(rows: dict[str, list[str]], numbers: list[int], file: str, labelled: bool) -> dict[str, list]:
    columns: dict[str, list] = {"video": [], "label": []} if labelled else {"video": []}
    pattern = _path_and_label(file) if labelled else re.compile("(.*)()")
    for number, line in zip(numbers, rows["text"], strict=True):
        line = line.removeprefix("\ufeff").strip()
        if not line:
            continue
        match = pattern.fullmatch(line)
        if not match:
            expected = "`path label` with an integer label, as in the first line"
            raise ValueError(f"{file}, line {number + 1}: expected {expected}, got {line!r}")
        columns["video"].append(_absolute(match[1].strip('"'), os.path.dirname(file)))
        if labelled:
            columns["label"].append(int(match[2]))
    return columns


# --- mixtures and parts --------------------------------------------------------------------------------------------
