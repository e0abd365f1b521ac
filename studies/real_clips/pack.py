"""Pack the clips of the study for another machine: the frames that the study reads, small, and no others.

    python studies/real_clips/pack.py PATH_TO_actions_folder PACKED --side 150

writes PACKED and PACKED.csv, which `compare.py --videos PACKED` reads.
"""

import csv
from pathlib import Path
from typing import Annotated

import av
import torch
import typer

from clips import CACHED_FRAMES, read_frames


def write_video(frames: torch.Tensor, path: Path) -> None:
    """Encode frames, uint8 `(T, 3, H, W)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[2:], "yuv420p"
        for frame in frames.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def pack(
    videos: Annotated[Path, typer.Argument(help="folder with the clips; the list next to it has the same name")],
    output: Annotated[Path, typer.Argument(help="folder to write")],
    side: Annotated[int, typer.Option(help="height and width of the packed clips; even")] = 150,
) -> None:
    """Write the frames of every clip as a small video, and the list with the new paths."""
    with open(videos.with_suffix(".csv"), newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        source = videos.parent / row["path"]
        target = (output / source.relative_to(videos)).with_suffix(".mp4")
        write_video(read_frames(source, side), target)
        row["path"] = target.relative_to(output.parent).as_posix()
    with open(output.with_suffix(".csv"), "w", newline="") as lines:
        table = csv.DictWriter(lines, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    print(f"{len(rows)} clips of {CACHED_FRAMES} frames in {output}")


if __name__ == "__main__":
    typer.run(pack)
