"""Write a small labelled set of H.264 videos: a flock of textured shapes that moves over moving clutter.

    python examples/make_toy_videos.py --output_dir output/toy_videos

Each video has two independent labels. `motion` is the direction of the flock, which no single frame shows.
`appearance` is the form and texture of its shapes, which every frame shows.

The shapes of a flock have only the labels in common: each has its own position, size, color and texture phase. They
are brighter than the ground, so a model that knows the motion of the flock can predict them in a hidden region. The
frame is a torus, a shape that leaves on one side enters on the other, so its position does not reveal its direction.
The clutter is made of ripples, each with its own velocity, so no background, brightness or camera motion is shared by
the whole clip.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from vjepa_hf.training.arguments import mistakes_exit, option, parse

MOTIONS = ("east", "south-east", "south", "south-west", "west", "north-west", "north", "north-east")
SHAPES = ("disk", "square", "triangle", "cross")
TEXTURES = ("striped", "checked")
APPEARANCES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)

FRAMES_PER_SECOND = 12
ENCODER_OPTIONS = {"crf": "18", "preset": "veryfast", "tune": "zerolatency"}
FLOCK = 3  # shapes of a video
CLUTTER = 3  # ripples of a video
GROUND = 0.25  # gray level, 0 is black and 1 is white

# Ranges of uniform draws, in sides of the frame: they do not depend on its size in pixels.
RADIUS = (0.21, 0.25)
SPEED = (0.05, 0.094)  # per frame: less than half a texture period, or the texture would seem to move backwards
TEXTURE_PERIOD = (0.16, 0.25)
RIPPLE_SPEED = (0.0, 0.063)
RIPPLE_WIDTH = (0.19, 0.38)
RIPPLE_PERIOD = (0.25, 0.63)


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the distance to the outline of a shape of radius 1, negative inside; `x` points right and `y` down.

    The areas are 4 (square), 2.7 (disk), 1.9 (cross) and 1.3 (triangle): in a frame of few patches an encoder sees how
    much of a patch is covered, and little of the outline.
    """
    if shape == "disk":
        return np.hypot(x, y) - 0.93
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 1.0
    if shape == "triangle":
        return np.maximum(0.87 * abs(x) - 0.5 * y, y) - 0.5
    vertical, horizontal = np.maximum(abs(x) - 0.28, abs(y) - 1.0), np.maximum(abs(x) - 1.0, abs(y) - 0.28)
    return np.minimum(vertical, horizontal)  # a cross


def texture_wave(texture: str, x: np.ndarray, y: np.ndarray, angle: float, period: float) -> np.ndarray:
    """Return a pattern in [-1, 1] that moves with the shape."""
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    wave = np.sin(2 * np.pi * along / period)
    return wave if texture == "striped" else wave * np.sin(2 * np.pi * across / period)


def centers_on_torus(generator: np.random.Generator, heading: float, speed: float, num_frames: int) -> np.ndarray:
    """Return centers (2, T), x and y in sides of the frame, of a straight motion from a random position."""
    velocity = speed * np.array([np.cos(heading), np.sin(heading)])
    return (generator.uniform(0, 1, (2, 1)) + velocity[:, None] * np.arange(num_frames)) % 1


def offsets_on_torus(centers: np.ndarray, size: int) -> np.ndarray:
    """Return offsets (2, T, size) of pixel columns and rows from the nearest image of `centers` (2, T)."""
    return ((np.arange(size) + 0.5) / size - centers[:, :, None] + 0.5) % 1 - 0.5


def render_clutter(generator: np.random.Generator, num_frames: int, size: int) -> np.ndarray:
    """Render moving ripples on the ground, (T, C, H, W).

    A ripple is a wave times a Gaussian: the real part of f(x) g(y) with complex f and g. So one matmul over the real
    and imaginary parts renders all ripples.
    """
    columns, rows, colors = [], [], []
    for _ in range(CLUTTER):
        heading, speed = generator.uniform(0, 2 * np.pi), generator.uniform(*RIPPLE_SPEED)
        x, y = offsets_on_torus(centers_on_torus(generator, heading, speed, num_frames), size)  # (T, W), (T, H)
        angle, phase = generator.uniform(0, 2 * np.pi, 2)
        width, frequency = generator.uniform(*RIPPLE_WIDTH), 2j * np.pi / generator.uniform(*RIPPLE_PERIOD)
        columns.append(np.exp(-0.5 * (x / width) ** 2 + frequency * np.cos(angle) * x))
        rows.append(np.exp(-0.5 * (y / width) ** 2 + frequency * np.sin(angle) * y + 1j * phase))
        colors.append(generator.uniform(-0.15, 0.15, 3))
    f, g, color = np.array(columns), np.array(rows), np.array(colors).T  # (K, T, W), (K, T, H), (C, K)
    f = np.concatenate([f.real, -f.imag]).transpose(1, 0, 2)  # (T, 2K, W)
    g = np.concatenate([g.real, g.imag]).transpose(1, 2, 0)  # (T, H, 2K)
    return GROUND + (g[:, None] * np.tile(color, 2)[:, None]) @ f[:, None]


def render_video(
    generator: np.random.Generator, appearance: str, motion: str, num_frames: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Render a video: frames (T, H, W, C) uint8, and boxes (T, FLOCK, 4) as x0, y0, x1, y1.

    Boxes are in pixels, half open, and cropped at the border of the frame; if the border divides a shape, its box has
    the part with its center. Later shapes cover earlier ones.
    """
    texture, shape = appearance.split()
    heading, speed = 2 * np.pi * MOTIONS.index(motion) / len(MOTIONS), generator.uniform(*SPEED)
    frames = render_clutter(generator, num_frames, size)
    boxes = []
    for _ in range(FLOCK):
        radius = generator.uniform(*RADIUS)
        centers = centers_on_torus(generator, heading, speed, num_frames)
        boxes.append(paint_shape(generator, frames, shape, texture, centers, radius))
    return to_bytes(frames), np.clip(np.round(size * np.stack(boxes, axis=1)), 0, size).astype(int)


def paint_shape(
    generator: np.random.Generator,
    frames: np.ndarray,
    shape: str,
    texture: str,
    centers: np.ndarray,
    radius: float,
    scale: float = 1.0,
) -> np.ndarray:
    """Paint a shape of random color over `frames` (T, C, H, W); return its boxes (T, 4) as x0, y0, x1, y1.

    `centers` (2, T), `radius` and the boxes are in sides of the frame; boxes may cross its border. `scale` multiplies
    the texture period.
    """
    size = frames.shape[-1]
    x, y = offsets_on_torus(centers, size)
    x, y = x[:, None, :], y[:, :, None]  # (T, 1, W), (T, H, 1)
    distance = size * radius * signed_distance(shape, x / radius, y / radius)  # in pixels
    inside = np.clip(0.5 - distance, 0, 1)[:, None]
    angle, period = generator.uniform(0, np.pi), scale * generator.uniform(*TEXTURE_PERIOD)
    wave = texture_wave(texture, x, y, angle, period)[:, None]
    color = generator.uniform(0.7, 1.0, (3, 1, 1))
    frames += inside * (color * (0.55 + 0.45 * wave) - frames)
    return np.concatenate([centers - radius, centers + radius]).T


def to_bytes(frames: np.ndarray) -> np.ndarray:
    """Convert frames (T, C, H, W) between 0 and 1 to (T, H, W, C) uint8."""
    return np.round(255 * np.clip(frames, 0, 1)).astype(np.uint8).transpose(0, 2, 3, 1)


def write_video(path: Path, frames: np.ndarray) -> None:
    """Write frames (T, H, W, C) uint8 as H.264.

    One thread and no look-ahead, because otherwise the bytes are not deterministic.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=ENCODER_OPTIONS)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def balanced_labels(generator: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Return `count` pairs (appearance, motion) in random order, with equal counts of each pair, plus or minus one."""
    pairs = [(appearance, motion) for appearance in APPEARANCES for motion in MOTIONS]
    rounds = [generator.permutation(len(pairs)) for _ in range(-(-count // len(pairs)))]
    return [pairs[index] for index in np.concatenate(rounds)[:count]] if count else []


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def make_toy_videos(
    output: str | Path, num_train: int = 2000, num_test: int = 512, seed: int = 0, num_frames: int = 16, size: int = 48
) -> Path:
    """Write `train/*.mp4`, `test/*.mp4`, `boxes.csv`, `test.csv` and `train.csv`.

    `train.csv` and `test.csv` have the columns video (path relative to `output`), appearance, motion; `boxes.csv` has
    video, frame, shape, x0, y0, x1, y1. Every video is a function of (seed, split, index). `train.csv` is written
    last: if it exists, the set is complete.

    Args:
        output: folder to write; existing files are replaced.
        num_train: number of training videos.
        num_test: number of test videos.
        seed: seed of the set.
        num_frames: frames per video.
        size: height and width in pixels, even, because H.264 in 4:2:0 halves the color resolution.

    Raises:
        ValueError: `size` is odd or below 16.
    """
    if size % 2 or size < 16:
        raise ValueError(f"size={size} must be an even number of pixels, 16 or more")
    output = Path(output)
    tables: dict[str, list[tuple]] = {"boxes": []}
    for split_number, (split, count) in enumerate((("train", num_train), ("test", num_test))):
        (output / split).mkdir(parents=True, exist_ok=True)
        tables[split] = []
        for number, pair in enumerate(balanced_labels(np.random.default_rng([seed, split_number]), count)):
            name = f"{split}/{number:06d}.mp4"
            frames, boxes = render_video(np.random.default_rng([seed, split_number, number]), *pair, num_frames, size)
            write_video(output / name, frames)
            tables[split].append((name, *pair))
            tables["boxes"] += [(name, *index, *boxes[index]) for index in np.ndindex(boxes.shape[:2])]
    write_table(output / "boxes.csv", ("video", "frame", "shape", "x0", "y0", "x1", "y1"), tables["boxes"])
    for split in ("test", "train"):
        write_table(output / f"{split}.csv", ("video", "appearance", "motion"), tables[split])
    return output


@dataclass
class ToyVideosArguments:
    """Write the toy set of labelled H.264 videos."""

    output_dir: str = option("folder to write", "output/toy_videos")
    num_train: int = option("number of training videos", 2000)
    num_test: int = option("number of test videos", 512)
    seed: int = option("seed of the set", 0)
    num_frames: int = option("frames per video", 16)
    size: int = option("height and width (px)", 48)


def main(command_line: Sequence[str] | None = None) -> None:
    args = parse(ToyVideosArguments, command_line)
    with mistakes_exit():
        make_toy_videos(args.output_dir, args.num_train, args.num_test, args.seed, args.num_frames, args.size)
    print(f"{args.num_train} + {args.num_test} videos in {args.output_dir}")


if __name__ == "__main__":
    main()
