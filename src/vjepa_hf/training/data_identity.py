"""What the data of a run is: number, names and content of its videos, so that a resumed run notices other data."""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ..data.sources import Videos, is_text
from ..model.video_inputs import video_name

NUM_FILES, NUM_EMBEDDED = 1000, 100  # videos whose content is compared: files, and raw bytes in a table
HEAD_BYTES = 2**14  # read of each of them
BATCH_ROWS = 10_000


@dataclass(frozen=True)
class DataIdentity:
    """Identity of the data of a run.

    Attributes:
        num_videos: number of listed videos; None for streams.
        names: hash of the names of all videos, in order; for streams of the sources and their numbers of shards.
        contents: hash of the sizes and first bytes of up to `NUM_FILES` videos, evenly spread over the list.
    """

    num_videos: int | None
    names: str
    contents: str

    @classmethod
    def of(cls, sources: Sequence[Videos], names: Sequence[str]) -> "DataIdentity":
        """Identify sources that `load_videos` returned for these names."""
        listed = [source for source in sources if isinstance(source, datasets.Dataset)]
        if len(listed) < len(sources):
            shards = (
                f"{name}\0{getattr(source, 'num_shards', 1)}" for name, source in zip(names, sources, strict=True)
            )
            return cls(None, _hash(shards), _hash(()))
        num_videos = sum(map(len, listed))
        contents = (content for source in listed for content in _contents(source, num_videos))
        return cls(num_videos, _hash(name for source in listed for name in _names(source)), _hash(contents))

    def changes_since(self, other: "DataIdentity") -> str | None:
        """Return what changed since `other`, in words, or None."""
        if self.num_videos != other.num_videos:
            then, now = (
                "a stream" if identity.num_videos is None else f"{identity.num_videos} videos"
                for identity in (other, self)
            )
            return f"it was {then} and is {now}"
        if self.names != other.names:
            what = "sources" if self.num_videos is None else f"{self.num_videos} videos"
            return f"its {what} have other names or another order"
        return "files have another content under the same names" if self.contents != other.contents else None


def _hash(texts: Iterator[str] | Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _names(source: datasets.Dataset) -> Iterator[str]:
    """Yield the paths of the videos, or the names and numbers of bytes in a table without reading the bytes."""
    feature = source.features["video"]
    if is_text(feature):
        for batch in source.select_columns("video").iter(BATCH_ROWS):
            yield from map(str, batch["video"])
    else:
        yield f"{len(source)} {feature}"


def _contents(source: datasets.Dataset, num_videos: int) -> Iterator[str]:
    limit = NUM_FILES if is_text(source.features["video"]) else NUM_EMBEDDED
    count = min(len(source), math.ceil(limit * len(source) / num_videos))
    rows = source.select_columns("video")
    for index in np.linspace(0, len(source) - 1, count).astype(int).tolist():
        video = rows[index]["video"]
        yield f"{video_name(video)} {_head(video)}"


def _head(video: Any) -> str:
    """Return size and hash of the first bytes of a video; of an address or a folder nothing is read."""
    if isinstance(video, dict):
        video = video["bytes"] if video.get("bytes") is not None else video.get("path")
    if isinstance(video, bytes):
        size, head = len(video), video[:HEAD_BYTES]
    elif video and os.path.isfile(video):
        try:
            with open(video, "rb") as file:
                size, head = os.fstat(file.fileno()).st_size, file.read(HEAD_BYTES)
        except OSError:
            return "unreadable"  # training reports it
    else:
        return "not a file"
    return f"{size} {hashlib.sha256(head).hexdigest()}"
