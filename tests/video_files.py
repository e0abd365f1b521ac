"""Small video files for the tests, written and read with PyAV alone, to compare `video_io` with."""

import io
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path,
    num_frames: int = 40,
    height: int = 48,
    width: int = 64,
    fps: int = 30,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: int = 0,
    hflip: bool = False,
    vflip: bool = False,
    times: list[int] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode a moving pattern. `times` are presentation times in thousandths of a second, by default evenly spaced.

    `rotation` in degrees counterclockwise and then the flips are what a player is told to do.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation or hflip or vflip:
            stream.set_display_rotation(rotation, hflip=hflip, vflip=vflip)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(number, height, width), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, fps if times is None else 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def picture(number: int, height: int, width: int) -> np.ndarray:
    """Frame `number` of the pattern, uint8 (H, W, 3): no two frames are alike, and up differs from down."""
    rows, columns = np.mgrid[:height, :width]
    red = (columns * 255 // width + 5 * number) % 256
    green = np.where((columns - 3 * number) % width < width // 4, 220, 30)
    blue = rows * 255 // height
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def write_image(path: Path, number: int, height: int = 48, width: int = 64) -> Path:
    """Write frame `number` of the pattern as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, height, width), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """Write files by their names, as WebDataset shards hold them."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_audio(path: Path) -> Path:
    """A quarter of a second of silence, a file without any picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2000), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read_all(path: Path) -> np.ndarray:
    """Every frame of a full decode from the beginning, upright, uint8 (T, H, W, 3)."""
    return np.stack(list(read_some(path).values()))


def read_some(path: Path, numbers: set[int] | None = None) -> dict[int, np.ndarray]:
    """Frames of a full decode from the beginning by their numbers, upright, uint8 (H, W, 3) each; None for all."""
    with av.open(str(path), metadata_errors="replace") as container:
        return {
            number: np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            for number, frame in enumerate(container.decode(video=0))
            if numbers is None or number in numbers
        }
