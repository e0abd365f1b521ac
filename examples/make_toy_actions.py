"""Write a small set of H.264 videos with boxes, in AVA's file format.

    python examples/make_toy_actions.py --output_dir output/toy_actions

Every video lasts two seconds and shows up to four shapes over the moving clutter of the toy set, each with its own
heading, form, texture, size and color. Its key frame, with the annotated boxes, is at second 1, where no shape covers
another. A box has two actions: the heading of its shape, which the key frame alone does not show, and its form.

The boxes of a simulated detector are inexact; some shapes are missing and some boxes are empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vjepa_hf.examples.make_toy_videos import (
    FRAMES_PER_SECOND,
    MOTIONS,
    RADIUS,
    SHAPES,
    SPEED,
    TEXTURES,
    paint_shape,
    render_clutter,
    to_bytes,
    write_video,
)
from vjepa_hf.training.arguments import mistakes_exit, option, parse

SIZE = 72  # height and width (px)
SCALE = 48 / SIZE  # gives shapes the size and speed in pixels of the toy set, whose videos have 48 x 48
KEY_SECOND = 1
SHAPE_PROBABILITY = 0.75  # of a shape in a quarter of the key frame
RECALL = 0.95  # of the detector
FALSE_ALARMS = 0.2  # probability of a detected box in an empty quarter
CORNER_STD = 0.01  # of the corners of detected boxes, in sides of the frame

# Action ids have gaps, like those of AVA.
ACTIONS = dict(enumerate(MOTIONS, start=1)) | dict(enumerate(SHAPES, start=11))
ACTION_IDS = {name: number for number, name in ACTIONS.items()}


def render_scene(generator: np.random.Generator) -> tuple[np.ndarray, list[tuple[np.ndarray | None, str, str]]]:
    """Return frames (T, H, W, C) uint8, and the box, heading and form of the shape in each quarter of the key frame.

    A box (4,) is x1, y1, x2, y2 in sides of the frame; None: the quarter is empty.
    """
    key = KEY_SECOND * FRAMES_PER_SECOND
    frames = render_clutter(generator, 2 * key, SIZE)
    quarters = []
    for middle in ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)):
        motion, shape, texture = (str(generator.choice(names)) for names in (MOTIONS, SHAPES, TEXTURES))
        radius, speed = SCALE * generator.uniform(*RADIUS), SCALE * generator.uniform(*SPEED)
        center = np.array(middle) + generator.uniform(-1, 1, 2) * (0.25 - radius)  # the shape is within its quarter
        heading = 2 * np.pi * MOTIONS.index(motion) / len(MOTIONS)
        velocity = speed * np.array([np.cos(heading), np.sin(heading)])
        centers = (center[:, None] + velocity[:, None] * (np.arange(2 * key) - key)) % 1
        box = None
        if generator.uniform() < SHAPE_PROBABILITY:
            box = paint_shape(generator, frames, shape, texture, centers, radius, SCALE)[key]
        quarters.append((box, motion, shape))
    return to_bytes(frames), quarters


def detect(generator: np.random.Generator, quarters: list[tuple[np.ndarray | None, str, str]]) -> list[tuple]:
    """Simulate a detector on the quarters of a key frame; return boxes (4,) and scores."""
    detections = []
    for index, (box, _, _) in enumerate(quarters):
        if box is not None and generator.uniform() < RECALL:
            detections.append((box + generator.normal(0, CORNER_STD, 4), generator.uniform(0.6, 1.0)))
        elif box is None and generator.uniform() < FALSE_ALARMS:
            corner = 0.5 * np.array([index % 2, index // 2]) + generator.uniform(0.05, 0.15, 2)
            detections.append((np.concatenate([corner, corner + 0.3]), generator.uniform(0.3, 0.8)))
    return [(np.clip(box, 0, 1), score) for box, score in detections]


def make_toy_actions(output: str | Path, num_train: int = 400, num_test: int = 250, seed: int = 0) -> Path:
    """Write `train/*.mp4`, `test/*.mp4`, `actions.pbtxt`, `train.csv`, `test.csv` and `test_boxes.csv`.

    `vjepa_hf.evaluation.detection` describes the tables. Every video is a function of (seed, split, index).
    `train.csv` is written last: if it exists, the set is complete.

    Args:
        output: folder to write; existing files are replaced.
        num_train: number of training videos.
        num_test: number of test videos.
        seed: seed of the set.
    """
    output = Path(output)
    tables: dict[str, list[str]] = {}
    for split_number, (split, count) in enumerate((("train", num_train), ("test", num_test))):
        (output / split).mkdir(parents=True, exist_ok=True)
        annotations, boxes = tables.setdefault(split, []), tables.setdefault(f"{split}_boxes", [])
        for index in range(count):
            generator = np.random.default_rng([seed, split_number, index])
            frames, quarters = render_scene(generator)
            write_video(output / split / f"{index:06d}.mp4", frames)
            for person, (box, *names) in enumerate(quarters):
                if box is not None:
                    annotations += [row(index, box, ACTION_IDS[name], person) for name in names]
            boxes += [row(index, box, "", f"{score:.3f}") for box, score in detect(generator, quarters)]
    items = (f'item {{\n  name: "{name}"\n  id: {number}\n}}\n' for number, name in ACTIONS.items())
    (output / "actions.pbtxt").write_text("".join(items))
    for name in ("test_boxes", "test", "train"):
        (output / f"{name}.csv").write_text("".join(tables[name]))
    return output


def row(index: int, box: np.ndarray, action: int | str, last: int | str) -> str:
    """Return a row of a table in AVA's file format."""
    corners = ",".join(f"{number:.4f}" for number in box)
    return f"{index:06d},{KEY_SECOND:04d},{corners},{action},{last}\n"


@dataclass
class ToyActionsArguments:
    """Write the toy set of videos with boxes."""

    output_dir: str = option("folder to write", "output/toy_actions")
    num_train: int = option("number of training videos", 400)
    num_test: int = option("number of test videos", 250)
    seed: int = option("seed of the set", 0)


def main(command_line: Sequence[str] | None = None) -> None:
    args = parse(ToyActionsArguments, command_line)
    with mistakes_exit():
        make_toy_actions(args.output_dir, args.num_train, args.num_test, args.seed)
    print(f"{args.num_train} + {args.num_test} videos in {args.output_dir}")


if __name__ == "__main__":
    main()
