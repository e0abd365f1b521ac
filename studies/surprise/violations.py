"""Is an impossible clip more surprising than its possible twin?

    pip install pybullet  # only for this study
    python studies/surprise/violations.py --output studies/surprise/results.md

A pair is two clips that are equal up to a random frame. From there on, one shape of the impossible clip breaks what
holds in all training clips: it vanishes, teleports, reverses, turns, changes its form or its color. Four kinds are
rendered by pybullet, whose pictures no training clip resembles: a ball vanishes, teleports, reverses, or passes the
wall from which its twin bounces.

The score of a clip knows neither the twin nor the frame: the largest mean over the most surprising ninth of the
tubelets of a time step, because one shape of several breaks a rule. It was chosen on 96 other pairs of shapes; two
other rules follow. A pair counts when the impossible clip has the larger score; equal scores count half.

The first model is pretrained on the toy set, the second has its random initial weights. Frame difference is the mean
absolute change from frame to frame in each tubelet, with the same rules. Intervals are Wilson's at 95 %.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from programs import pretrained  # noqa: E402
from report import Output, Runs, Steps, ToyVideos, environment, make_app, publish, table  # noqa: E402
from vjepa_hf import VJEPAModel, VJEPAVideoProcessor, surprise  # noqa: E402
from vjepa_hf.evaluation.metrics import wilson_interval  # noqa: E402
from vjepa_hf.examples.make_toy_videos import (  # noqa: E402
    FLOCK,
    RADIUS,
    SHAPES,
    SPEED,
    TEXTURES,
    centers_on_torus,
    paint_shape,
    render_clutter,
    to_bytes,
)

NUM_FRAMES = 16
VIOLATION = (8, 12)  # range of the first frame that differs
TURNS = {"reverses": np.pi, "turns": np.pi / 2}
TOY_KINDS = ("vanishes", "teleports", *TURNS, "changes form", "changes color")
BALL_KINDS = ("vanishes", "teleports", "reverses", "passes the wall")
app = make_app()


# --- toy clips ---


@dataclass(frozen=True)
class Shape:
    """The last shape of a flock, which covers the others."""

    form: str
    texture: str
    centers: np.ndarray  # (2, T)
    radius: float
    look: int  # seed of color, texture phase and period


def toy_pair(seed: int, kind: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Render a possible and an impossible clip, each uint8 `(T, H, W, C)`."""
    generator = np.random.default_rng([seed, TOY_KINDS.index(kind)])
    frame = int(generator.integers(*VIOLATION))
    texture, form, other_form = generator.choice(TEXTURES), *generator.choice(SHAPES, 2, replace=False)
    heading, speed = generator.uniform(0, 2 * np.pi), generator.uniform(*SPEED)
    ground = render_clutter(generator, NUM_FRAMES, size)
    for _ in range(FLOCK - 1):
        radius, centers = generator.uniform(*RADIUS), centers_on_torus(generator, heading, speed, NUM_FRAMES)
        paint_shape(generator, ground, form, texture, centers, radius)
    centers = centers_on_torus(generator, heading, speed, NUM_FRAMES)
    possible = Shape(form, texture, centers, generator.uniform(*RADIUS), look=seed)
    changed = dict(vars(possible))
    if kind == "teleports":
        changed["centers"] = (centers + generator.uniform(0.3, 0.7, (2, 1))) % 1
    elif kind in TURNS:
        angle = heading + TURNS[kind]
        step = speed * np.array([[np.cos(angle)], [np.sin(angle)]])
        changed["centers"] = (centers[:, frame - 1 : frame] + step * (np.arange(NUM_FRAMES) - frame + 1)) % 1
    elif kind == "changes form":
        changed["form"] = other_form
    elif kind == "changes color":
        changed["look"] = seed + 1
    after = ground if kind == "vanishes" else painted(ground, Shape(**changed))
    before = painted(ground, possible)
    return to_bytes(before), to_bytes(np.concatenate([before[:frame], after[frame:]]))


def painted(ground: np.ndarray, shape: Shape) -> np.ndarray:
    frames = ground.copy()
    paint_shape(np.random.default_rng([shape.look]), frames, shape.form, shape.texture, shape.centers, shape.radius)
    return frames


# --- balls ---


def ball_pair(seed: int, kind: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Render a ball that moves to a wall and back, and its impossible twin, each uint8 `(T, H, W, C)`."""
    generator = np.random.default_rng([seed, BALL_KINDS.index(kind)])
    frame = int(generator.integers(*VIOLATION))
    radius, speed, depth = generator.uniform(0.35, 0.5), generator.uniform(0.12, 0.2), generator.uniform(-0.5, 0.5)
    wall = 1 - radius  # where the ball turns
    moved = speed * (np.arange(NUM_FRAMES) - frame)
    straight = moved + (wall if kind == "passes the wall" else 0)
    possible = np.stack([np.where(straight > wall, 2 * wall - straight, straight), np.full(NUM_FRAMES, depth)], axis=1)
    impossible = possible.copy()
    impossible[frame:] = {
        "vanishes": np.full((NUM_FRAMES, 2), -9.0),  # behind the camera
        "teleports": possible + [-generator.uniform(0.4, 1.0), generator.choice([-1, 1])],
        "reverses": possible * [-1, 1],
        "passes the wall": np.stack([straight, possible[:, 1]], axis=1),
    }[kind][frame:]
    side, colors = generator.choice([-1, 1]), generator.uniform(0.2, 1, (3, 3))
    clips = [render_ball(path * [side, 1], radius, side, colors, size) for path in (possible, impossible)]
    return clips[0], clips[1]


def render_ball(path: np.ndarray, radius: float, side: int, colors: np.ndarray, size: int) -> np.ndarray:
    """Render a ball on a floor with a wall; `path` (T, 2) is its x, to the right, and its y, away from the camera."""
    import pybullet  # only for these kinds

    client = pybullet.connect(pybullet.DIRECT)

    def body(shape: int, color: int, position: Sequence[float], **sizes: object) -> int:
        visual = pybullet.createVisualShape(shape, rgbaColor=[*colors[color], 1], **sizes)
        return pybullet.createMultiBody(0, baseVisualShapeIndex=visual, basePosition=position)

    try:
        ball = body(pybullet.GEOM_SPHERE, 0, [0, 0, 0], radius=radius)
        body(pybullet.GEOM_BOX, 1, [side * 1.05, 0, 0.8], halfExtents=[0.05, 1.5, 0.8])
        body(pybullet.GEOM_BOX, 2, [0, 0, -0.1], halfExtents=[9, 9, 0.1])
        view = pybullet.computeViewMatrix([0, -3.6, 2.4], [0, 0, 0.3], [0, 0, 1])
        projection = pybullet.computeProjectionMatrixFOV(50, 1, 0.1, 20)
        frames = []
        for x, y in path:
            pybullet.resetBasePositionAndOrientation(ball, [x, y, radius], [0, 0, 0, 1])
            pixels = pybullet.getCameraImage(size, size, view, projection, renderer=pybullet.ER_TINY_RENDERER)[2]
            frames.append(np.reshape(pixels, (size, size, 4))[..., :3].astype(np.uint8))
    finally:
        pybullet.disconnect(client)
    return np.stack(frames)


# --- scores ---


def frame_difference(clip: np.ndarray, first: int, patch_size: int) -> np.ndarray:
    """Return the mean absolute change up to the frames of each tubelet, `(steps, h, w)`; nan before step `first`."""
    T, H, W, _ = clip.shape
    change = np.abs(np.diff(clip.astype(np.float32), axis=0, prepend=clip[:1])).mean(axis=3)
    blocks = change.reshape(T // 2, 2, H // patch_size, patch_size, W // patch_size, patch_size)
    maps = blocks.mean(axis=(1, 3, 5))
    maps[:first] = np.nan
    return maps


def most_surprising(maps: np.ndarray) -> float:
    """Return the largest mean over a ninth of the tubelets of a time step of `(steps, h, w)`."""
    tubelets = np.sort(maps.reshape(len(maps), -1), axis=1)
    return np.nanmax(tubelets[:, -max(1, tubelets.shape[1] // 9) :].mean(axis=1))


# From maps (steps, h, w) to the score of a clip; the first one decides.
RULES = {
    "most surprising ninth of the tubelets": most_surprising,
    "largest score of a time step": lambda maps: np.nanmax(maps.mean(axis=(1, 2))),
    "largest score less the mean score": lambda maps: np.nanmax(maps.mean(axis=(1, 2))) - np.nanmean(maps),
}


def cell(wins: Sequence[float]) -> str:
    low, high = wilson_interval(sum(wins), len(wins))
    return f"{np.mean(wins):.2f} ({low:.2f} to {high:.2f})"


def is_surprising(pair: Sequence[np.ndarray], rule: Callable[[np.ndarray], float]) -> float:
    """Return 1 if the impossible clip has the larger score, 0 if the possible one has, and 0.5 if they are equal."""
    possible, impossible = map(rule, pair)
    return 0.5 + 0.5 * float(np.sign(impossible - possible))


@app.command()
def main(
    model: Annotated[Path | None, typer.Option(help="folder of a pretraining run; default: made by --runs")] = None,
    mask_token_index: Annotated[int, typer.Option(help="mask type of the run that hides the future")] = 2,
    context_steps: Annotated[int, typer.Option(help="visible time steps of a window")] = 2,
    toy_pairs: Annotated[int, typer.Option(help="pairs of each toy kind")] = 24,
    ball_pairs: Annotated[int, typer.Option(help="pairs of each kind of pybullet")] = 14,
    seed: Annotated[int, typer.Option(help="of the pairs")] = 0,
    videos: ToyVideos = Path("output/toy_videos"),
    runs: Runs = Path("output/runs"),
    steps: Steps = 2700,
    scores_file: Annotated[Path | None, typer.Option(help="npz file that keeps the maps of all clips")] = None,
    output: Output = None,
) -> None:
    torch.set_num_threads(1)
    folder = model or pretrained(runs, videos, seed=0, steps=steps)
    trained, processor = VJEPAModel.from_pretrained(folder), VJEPAVideoProcessor.from_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = VJEPAModel(trained.config)
    size, first = processor.crop_size["height"], trained.config.grid_size[0] - 1
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        name: lambda clip, model=model: (
            surprise(model, clip, processor, context_steps, mask_token_index, batch_size=8).maps
        )
        for name, model in (("pretrained", trained), ("untrained", untrained))
    }
    methods["frame difference"] = lambda clip: frame_difference(clip, first, trained.config.patch_size)
    kinds = [("shape", kind, toy_pair, toy_pairs) for kind in TOY_KINDS]
    kinds += [("ball", kind, ball_pair, ball_pairs) for kind in BALL_KINDS]
    scores: dict[tuple[str, str, str], list] = {}
    for number in range(max(toy_pairs, ball_pairs)):  # all kinds in turn, so that a run that is stopped has all
        for subject, kind, render, count in kinds:
            if number < count:
                pair = render(seed * 10_000 + number, kind, size)
                for name, method in methods.items():
                    scores.setdefault((subject, kind, name), []).append([method(clip) for clip in pair])
        if scores_file:
            np.savez(scores_file, **{"/".join(key): np.array(pairs) for key, pairs in scores.items()})
    publish(page(scores, list(methods), f"{folder.name}, {context_steps} of {first + 1} time steps visible"), output)


def page(scores: dict[tuple[str, str, str], list], methods: list[str], settings: str) -> list[str]:
    """Return the lines of the page of results."""
    total = sum(map(len, scores.values())) // len(methods)
    method = " ".join(" ".join(__doc__.split("\n\n")[2:]).split())
    lines = ["# Surprise at impossible clips", "", f"`python studies/surprise/violations.py`: {method}", ""]
    lines += [environment(f"{total} pairs", settings), ""]
    for rule_name, rule in RULES.items():
        wins = {key: [is_surprising(pair, rule) for pair in pairs] for key, pairs in scores.items()}
        kinds = list(dict.fromkeys(key[:2] for key in wins))
        groups = {f"{subject} {kind}": [(subject, kind)] for subject, kind in kinds}
        groups |= {f"all {name}s": [key for key in kinds if key[0] == name] for name in dict(kinds)}
        groups |= {"all": kinds}
        rows = []
        for group, members in groups.items():
            of_methods = [[win for key in members for win in wins[(*key, name)]] for name in methods]
            rows.append([group, len(of_methods[0]), *map(cell, of_methods)])
        lines += [f"## Rule: {rule_name}", "", *table(["kind", "pairs", *methods], rows), ""]
    return lines


if __name__ == "__main__":
    app()
