"""Sources of videos as tables with the column `video`; no video is opened or decoded here.

A `video` is a path, a URL, a folder of frames, or the bytes of a file with its name: `{"bytes": ..., "path": ...}`.
The tables are those of `datasets`: memory-mapped, or streamed.
"""

import csv
import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from ..model.names import printable
from ..model.video_inputs import IMAGE_SUFFIXES
from .file_types import VIDEO_SUFFIXES, is_binary, is_video, suffix
from .shards import check_end, shard_features, stream_shards
from .tables import SHARDS, Videos, map_batches, named_errors, read_table, undecoded

# A video may be called NA or nan; only an empty cell is None. No column is an index.
CSV = {"keep_default_na": False, "na_values": [""], "index_col": False}
# Suffix -> builder of `datasets` and its options.
TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", CSV),
    ".tsv": ("csv", CSV | {"delimiter": "\t"}),
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".parquet": ("parquet", {}),
    ".tar": ("webdataset", {}),
}
DELIMITERS = {".csv": ",", ".tsv": "\t"}  # of lists that may have no header
LABEL = r"-?\d{1,18}"
VIDEO_COLUMNS = ("video", "path", "file_name")
LEFTOVERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")  # folders made by file managers
STREAM_SHARDS = 1024  # parts of a list that is streamed, to shuffle and to split over workers
SAVED = ("state.json", "dataset_info.json")  # written by `Dataset.save_to_disk`
PATH = datasets.Value("string")

logger = logging.getLogger(__name__)


def load_videos(
    source: str | Path | Videos | Sequence[Any], video_column: str | None = None, streaming: bool = False
) -> Videos:
    """List the videos of a source without opening them.

    - A folder: its videos, at any depth; without videos, those of its .tar or .parquet files; without these, every
      folder of images is one video with the images as frames. Names that begin with a dot are skipped.
    - .csv, .tsv, .jsonl, .json: a column of paths or URLs of videos, of folders of frames, or of images as stills.
    - Lines `path label`, or only paths, which may contain spaces; labels are integers. These are all other suffixes,
      and .csv or .tsv without a header, such as Meta's lists; there the separator may be a comma or a tab.
    - .tar: the videos or images of WebDataset shards. .parquet: paths, or the bytes of videos.
    - A video: itself. A pattern such as `shards/*.tar`: all files that match.
    - A `datasets.Dataset` or `IterableDataset`: its column.
    - A list or column of paths, bytes or rows `{"bytes": ..., "path": ...}`: the videos themselves.

    Files with an unknown suffix, or none, are videos if they begin like one.

    Relative paths in a table start at its folder, and ~ is the home folder. If all videos of a folder are in
    sub-folders, the name of the sub-folder is the label of a video.

    Args:
        source: folder, file, pattern, URL of a table, dataset, or list of videos.
        video_column: column with the videos; None takes the first of `VIDEO_COLUMNS` that exists, else the only column
            of videos or images.
        streaming: read during training instead of listing first.

    Returns:
        A table with the column `video` and all other columns of the source, by convention `label`.

    Raises:
        ValueError: the source does not exist, cannot be read, is of an unknown kind, has no videos, or no such column.
    """
    if isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise ValueError(
            f"the dataset has the splits {', '.join(source)}; pass one of them: dataset[{next(iter(source))!r}]"
        )
    if isinstance(source, Videos):
        if isinstance(source, datasets.Dataset) and len(source) == 0:
            raise ValueError("the dataset contains no video: it has no rows")
        videos = _with_video_column(_without_format(source), video_column, "the dataset")
    elif not isinstance(source, str | Path):
        videos = _from_list(source)
    else:
        videos = _open_source(os.path.expanduser(source), video_column, streaming)
    if not streaming or isinstance(videos, datasets.IterableDataset):
        return videos
    # Neighbors in a list are often alike, and a stream is shuffled only locally; the run's seed orders its parts.
    return videos.shuffle(seed=0).to_iterable_dataset(num_shards=min(len(videos), STREAM_SHARDS))


def load_images(source: str | Path | Videos | Sequence[Any]) -> Videos:
    """List images as videos of one frame: those of a folder at any depth, or of another source as in `load_videos`.

    If all images of a folder are in sub-folders, the name of the sub-folder is the label of an image.

    Raises:
        ValueError: a folder without images, or as in `load_videos`.
    """
    source = os.path.expanduser(source) if isinstance(source, str | Path) else source
    if not isinstance(source, str) or not os.path.isdir(source):
        return load_videos(source)
    paths = [os.path.join(folder, name) for folder, names in _walk(source) for name in names]
    images = [path for path in paths if suffix(path) in IMAGE_SUFFIXES]
    if not images:
        raise ValueError(
            f"{printable(source)} contains no image; suffixes searched: {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return _with_labels(images, source)


def _without_format(videos: Videos) -> Videos:
    """Return a dataset whose rows have Python values; a transform of the user stays."""
    has_transform = isinstance(videos, datasets.Dataset) and videos.format["type"] == "custom"
    return videos if has_transform else videos.with_format(None)


def _from_list(videos: Any) -> datasets.Dataset:
    if isinstance(videos, dict) or hasattr(videos, "columns"):
        make = "from_dict" if isinstance(videos, dict) else "from_pandas"
        raise ValueError(f"a {type(videos).__name__} is not a list of videos; pass datasets.Dataset.{make}(...)")
    listed = [os.fspath(video) if isinstance(video, os.PathLike) else video for video in videos]
    listed = [str(video) if isinstance(video, str) else video for video in listed]  # of numpy
    if not listed:
        raise ValueError("the list of videos is empty")
    for video in listed:
        if isinstance(video, str) and suffix(video) in TABLES:
            raise ValueError(f"{printable(video)} in a list of videos is a list itself; load each and use mix_videos")
    types = {type(video) for video in listed}
    if not types <= {str, bytes, dict, type(None)}:
        raise ValueError(f"the list of videos contains {_names(types)}; give paths, bytes or rows with bytes and path")
    if len(types - {type(None)}) > 1 or dict in types:  # as bytes, a path would be content
        listed = [_as_row(video) for video in listed]
    return _with_video_column(datasets.Dataset.from_dict({"video": listed}), "video", "the list of videos")


def _as_row(video: str | bytes | dict[str, Any] | None) -> dict[str, Any]:
    row = video if isinstance(video, dict) else {"bytes" if isinstance(video, bytes) else "path": video}
    return {"bytes": row.get("bytes"), "path": row.get("path")}


def _names(types: set[type]) -> str:
    return ", ".join(sorted(type_.__name__ for type_ in types))


def _open_source(source: str, video_column: str | None, streaming: bool) -> Videos:
    files, name = _matching_files(source), printable(source)
    suffixes = {suffix(file) for file in files}
    if len(files) == 1 and os.path.isdir(files[0]):
        videos = _from_folder(files[0], video_column, streaming)
    elif not suffixes & {*TABLES, *IMAGE_SUFFIXES} and all(is_video(file) or is_binary(file) for file in files):
        videos = datasets.Dataset.from_dict({"video": files})
    elif len(suffixes) > 1:
        kinds = ", ".join(sorted(kind or "no suffix" for kind in suffixes))
        raise ValueError(f"videos '{name}' matches files of several kinds ({kinds}); match one kind")
    elif suffixes & set(TABLES) and not _are_headerless(files):
        videos = _from_tables(files, video_column, streaming)
    elif suffixes & IMAGE_SUFFIXES or "://" in source:
        raise ValueError(f"videos '{name}' is of an unknown kind; give a folder, a list, .parquet, .tar or a video")
    else:
        videos = _from_lines(files)
    if isinstance(videos, datasets.Dataset) and len(videos) == 0:
        suffixes_searched = " ".join(sorted(VIDEO_SUFFIXES))
        raise ValueError(f"{name} contains no video; suffixes searched in a folder: {suffixes_searched}")
    return videos


def _matching_files(source: str) -> list[str]:
    if "://" in source or os.path.exists(source):
        return [source]
    files = sorted(glob.glob(source)) if glob.has_magic(source) else []
    if not files:
        raise ValueError(f"videos '{printable(source)}' does not exist: give a folder of videos or a list of them")
    return files


# --- folders -------------------------------------------------------------------------------------------------------


def _from_folder(folder: str, video_column: str | None, streaming: bool) -> Videos:
    if os.path.exists(os.path.join(folder, "dataset_dict.json")):  # written by `DatasetDict.save_to_disk`
        raise ValueError(
            f"{printable(folder)} is a dataset with splits; give the folder of one of them, such as train"
        )
    if all(os.path.exists(os.path.join(folder, name)) for name in SAVED):
        with named_errors(printable(folder)):
            saved = datasets.load_from_disk(folder)
        return _with_video_column(saved, video_column, printable(folder), folder)
    videos: list[str] = []
    tables: dict[str, list[str]] = {".tar": [], ".parquet": []}
    frame_folders: list[str] = []
    for parent, names in _walk(folder):
        files = {os.path.join(parent, name): suffix(name) for name in names}
        for kind in tables:
            tables[kind] += [file for file, file_suffix in files.items() if file_suffix == kind]
        if IMAGE_SUFFIXES.intersection(files.values()):
            frame_folders.append(parent)
        videos += [file for file, kind in files.items() if kind not in TABLES and is_video(file)]
    shards = tables[".tar"] or tables[".parquet"]
    if not videos and shards:
        return _from_tables(shards, video_column, streaming)
    return _with_labels(videos or frame_folders, folder)


def _with_labels(videos: list[str], folder: str) -> datasets.Dataset:
    """Return a table of the content of a folder, with the names of sub-folders as labels if all are in sub-folders."""
    parents = [os.path.dirname(video) for video in videos]
    columns = {"video": videos}
    if videos and videos != [folder] and os.path.normpath(folder) not in map(os.path.normpath, parents):
        columns["label"] = [os.path.basename(parent) for parent in parents]
    return datasets.Dataset.from_dict(columns)


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder once, with the names of its files, in an order that depends only on the names.

    A folder that cannot be listed, such as `lost+found`, is skipped with a warning.
    """
    seen: set[str] = set()
    for path, folders, names in os.walk(folder, onerror=_warn_of_folder, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:  # links may form a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in LEFTOVERS)
        names = sorted(name for name in names if not name.startswith("."))
        for file in (os.path.join(path, name) for name in names):
            try:
                file.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"the file name '{printable(file)}' is not UTF-8; rename it") from error
        yield path, names


def _warn_of_folder(error: OSError) -> None:
    logger.warning("skipped the folder %s, which cannot be listed: %s", printable(str(error.filename)), error.strerror)


# --- tables --------------------------------------------------------------------------------------------------------


def _from_tables(files: list[str], video_column: str | None, streaming: bool) -> Videos:
    builder, options = TABLES[suffix(files[0])]
    if builder == "csv":  # read as text, so that names keep leading zeros
        options = options | {"converters": dict.fromkeys([video_column] if video_column else VIDEO_COLUMNS, str)}
        for file in files:
            _check_row_lengths(file)
    source = printable(files[0])
    videos: Videos
    if streaming and builder in SHARDS:  # lists are small: they are read first and streamed from the table
        features = shard_features(builder, files[0])
        column = _video_column_of(features, video_column, source)
        videos = stream_shards(builder, files, features, column)
    else:
        for file in files if builder == "webdataset" else ():
            with named_errors(printable(file)):
                check_end(file)
        videos = read_table(builder, files, **options)
    videos = _with_video_column(videos, video_column, source, folder=os.path.dirname(files[0]))
    if builder == "webdataset" and "cls" in videos.column_names:
        videos = videos.rename_column("cls", "label")
    return videos


def _check_row_lengths(file: str) -> None:
    """Check that no row of a csv file is longer than its header, which pandas allows in the first row that it reads.

    Raises:
        ValueError: one is longer, so it is unknown which cells belong to which columns.
    """
    if "://" in file:
        return
    with named_errors(printable(file)), open(file, newline="", encoding="utf-8-sig") as lines:
        reader = csv.reader(lines, delimiter=DELIMITERS[suffix(file)])
        rows = (cells for cells in reader if cells)
        num_columns = len(next(rows, []))
        too_long = next(((reader.line_num, len(cells)) for cells in rows if len(cells) > num_columns), None)
    if too_long is not None:
        raise ValueError(
            f"{printable(file)} cannot be read: line {too_long[0]} has {too_long[1]} cells, the header {num_columns}; "
            "put a cell that contains the delimiter in quotes, or complete the header"
        )


def _with_video_column(videos: Videos, column: str | None, source: str, folder: str | None = None) -> Videos:
    """Return the table with undecoded videos in the column `video`; relative paths of a file start at its `folder`."""
    if videos.features is None:
        raise ValueError(f"{source} does not say what its columns hold; give it features, for example with `cast`")
    column = _video_column_of(videos.features, column, source)
    for name, feature in videos.features.items():
        if undecoded(feature) is not feature:  # videos are decoded by this package, other media not at all
            videos = videos.cast_column(name, undecoded(feature))
    if column != "video":
        videos = videos.remove_columns("video") if "video" in videos.column_names else videos
        videos = videos.rename_column(column, "video")
    feature = videos.features["video"]
    if not is_text(feature):
        if _is_file(feature):
            return videos
        raise ValueError(
            f"{source} has no videos in the column {column}, which is {feature}; give paths, bytes or "
            '{"bytes": ..., "path": ...}, or name another video_column'
        )
    if folder is None and feature == PATH:
        return videos
    features = datasets.Features(videos.features | {"video": PATH})  # one type of text, so that tables can be mixed
    return map_batches(videos, partial(_absolute_paths, folder=folder or ""), features)


def _video_column_of(features: datasets.Features, column: str | None, source: str) -> str:
    """Return the name of the column of videos.

    Raises:
        ValueError: there is none.
    """
    column = column or _find_video_column(features)
    if column is None or column not in features:
        wanted = printable(column or " or ".join(VIDEO_COLUMNS))
        raise ValueError(f"{source} has no column {wanted}; its columns are {printable(', '.join(features))}")
    return column


def is_text(feature: Any) -> bool:
    """Return whether a column contains text."""
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _is_file(feature: Any) -> bool:
    """Return whether a column contains bytes, with or without a name."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    is_media = isinstance(feature, datasets.Video | datasets.Image)
    return is_media or getattr(feature, "dtype", None) in ("binary", "large_binary")


def _find_video_column(features: datasets.Features) -> str | None:
    for name in VIDEO_COLUMNS:
        if name in features:
            return name
    media = [name for name, feature in features.items() if isinstance(feature, datasets.Video | datasets.Image)]
    # WebDataset names the columns of a sample by the suffixes of its files. Text in such a column is not a video.
    others = [name for name, feature in features.items() if _is_file(feature) and name not in media]
    media += [name for name in others if f".{name.rsplit('.')[-1].lower()}" in VIDEO_SUFFIXES]
    return media[0] if len(media) == 1 else None


def _absolute_paths(rows: dict[str, list], folder: str) -> dict[str, list]:
    return {"video": [_absolute(path, folder) if path else None for path in rows["video"]]}


def _absolute(path: str, folder: str) -> str:
    return path if "://" in path else os.path.join(folder, os.path.expanduser(path))


# --- lines ---------------------------------------------------------------------------------------------------------


def _are_headerless(files: list[str]) -> bool:
    """Return whether the lists have no header.

    Raises:
        ValueError: some have one and some have not.
    """
    headerless = [file for file in files if _is_headerless(file)]
    if headerless and len(headerless) < len(files):
        other = next(file for file in files if file not in headerless)
        raise ValueError(
            f"{printable(other)} begins with a header and {printable(headerless[0])} does not; give both a header, or "
            "neither"
        )
    return bool(headerless)


def _is_headerless(file: str) -> bool:
    """Return whether a .csv or .tsv file has lines of paths or `path label` and no header, as Meta's lists do."""
    if suffix(file) not in DELIMITERS or "://" in file:
        return False
    with named_errors(printable(file)), open(file, newline="", encoding="utf-8-sig") as lines:
        rows = csv.reader(lines, delimiter=DELIMITERS[suffix(file)])
        cells = next((cells for cells in rows if cells), [""])
    if set(cells).intersection(VIDEO_COLUMNS):
        return False
    if suffix(cells[0]) not in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
        return _path_and_label(file).fullmatch(" ".join(cells)) is not None
    if len(cells) > 2 or (len(cells) == 2 and not re.fullmatch(LABEL, cells[1].strip())):
        raise ValueError(
            f"{printable(file)} has neither a header nor only paths and integer labels; add a line of column names"
        )
    return True


def _path_and_label(file: str) -> re.Pattern[str]:
    separators = r"\s," if suffix(file) == ".csv" else r"\s"
    return re.compile(rf"(.*[^{separators}])[{separators}]+({LABEL})")


def _from_lines(files: list[str]) -> datasets.Dataset:
    with named_errors(printable(files[0])), open(files[0], encoding="utf-8-sig") as lines:
        first = next((line for line in lines if line.strip()), "")
    labelled = _path_and_label(files[0]).fullmatch(first.strip()) is not None
    features = datasets.Features({"video": PATH} | ({"label": datasets.Value("int64")} if labelled else {}))
    parts = []
    for file in files:
        split = partial(_split_lines, file=file, labelled=labelled)
        lines = read_table("text", [file])
        parts.append(map_batches(lines, split, features, with_indices=True, remove_columns=["text"]))
    return datasets.concatenate_datasets(parts)


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
            raise ValueError(f"{printable(file)}, line {number + 1}: expected {expected}, got {line!r}")
        columns["video"].append(_absolute(match[1].strip('"'), os.path.dirname(file)))
        if labelled:
            columns["label"].append(int(match[2]))
    return columns
