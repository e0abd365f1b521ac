"""Film the player of a game: short videos of a world with depth, texture and occlusion, seen by a moving camera.

    pip install vizdoom
    python studies/vizdoom/make_clips.py --output_dir output/vizdoom

The 68 levels of Freedoom, which the package `vizdoom` contains, are divided into training, validation and test levels.
In a level the player stands at random spots and is filmed seven times from each, once for each action, which it holds
for the whole video. Each video has two labels. `motion` is the action: the seven videos of a spot begin with the same
frame and their speed is drawn per spot, so no single frame shows it. `place` is `open` or `room`, by the median depth
of that first frame.

There are no monsters, the view does not bob, and neither weapon nor head-up display are drawn. A spot is used only if
the player can walk the same distance in all four directions, so no wall gives the action away.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import vizdoom
from torchvision.transforms.v2 import functional

from levels import Level, divide, read_levels
from vjepa_hf.data.randomness import generator
from vjepa_hf.training.arguments import mistakes_exit, option, parse

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
from make_toy_videos import write_table, write_video  # noqa: E402

WADS = ("freedoom1.wad", "freedoom2.wad")  # archives of levels in the package
# Value of the buttons forward, right and turn right, in units of the speed of a spot.
ACTIONS = {
    "advance": (1, 0, 0),
    "retreat": (-1, 0, 0),
    "strafe right": (0, 1, 0),
    "strafe left": (0, -1, 0),
    "turn right": (0, 0, 1),
    "turn left": (0, 0, -1),
    "stand": (0, 0, 0),
}
BUTTONS = ("MOVE_FORWARD_BACKWARD_DELTA", "MOVE_LEFT_RIGHT_DELTA", "TURN_LEFT_RIGHT_DELTA")
WALKS = ("advance", "retreat", "strafe right", "strafe left")
WALK_SPEED = (10.0, 26.0)  # of a button; 26 ends at about 9 units a tic
TURN_SPEED = (0.8, 2.2)  # degrees per tic
OPEN = 25.0  # median depth of the first frame, in units of the depth buffer, above which a place is open

TICS_PER_FRAME = 3  # a second has 35 tics
GAMMA = 0.6  # many levels are dark
REST = 40  # tics until the player stands still
TRIES = 20  # random spots for each one that is filmed


def open_game(wad: Path, seed: int) -> vizdoom.DoomGame:
    """Start the game without a window."""
    game = vizdoom.DoomGame()
    game.set_doom_game_path(str(wad))
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(True)
    for drawn in ("hud", "weapon", "crosshair", "messages", "screen_flashes", "particles", "decals"):
        getattr(game, f"set_render_{drawn}")(False)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_available_buttons([getattr(vizdoom.Button, name) for name in BUTTONS])
    position = vizdoom.GameVariable.POSITION_X, vizdoom.GameVariable.POSITION_Y
    game.set_available_game_variables(list(position))
    game.add_game_args("-nomonsters +movebob 0 +sv_cheats 1")
    game.set_episode_timeout(0)
    game.set_seed(seed)
    game.init()
    return game


def film(
    game: vizdoom.DoomGame, spot: np.ndarray, angle: float, buttons: np.ndarray, num_frames: int
) -> tuple[np.ndarray, float, np.ndarray]:
    """Hold the buttons from a spot; return frames `(T, H, W, 3)`, median depth of the first, and path `(T, 2)`."""
    game.send_game_command(f"warp {spot[0]} {spot[1]}")
    game.make_action([0, 0, 0], REST)
    game.make_action([0, 0, (game.get_game_variable(vizdoom.GameVariable.ANGLE) - angle) % 360])
    frames, path, depth = [], [], 0.0
    while len(frames) < num_frames and not game.is_episode_finished():
        state = game.get_state()
        if not frames:
            depth = float(np.median(state.depth_buffer))
        frames.append(state.screen_buffer.copy())
        path.append(state.game_variables)
        game.make_action(buttons.tolist(), TICS_PER_FRAME)
    return np.array(frames), depth, np.array(path)


def film_spot(
    game: vizdoom.DoomGame, spot: np.ndarray, draws: np.random.Generator, num_frames: int
) -> tuple[str, dict[str, np.ndarray]] | None:
    """Return the place of a spot and action -> frames; None if something is in the way of a walk."""
    walk, turn, angle = draws.uniform(*WALK_SPEED), draws.uniform(*TURN_SPEED), draws.uniform(0, 360)
    frames, lengths, depth = {}, [], 0.0
    for action, direction in ACTIONS.items():
        speeds = np.multiply(direction, (walk, walk, turn))
        frames[action], depth, path = film(game, spot, angle, speeds, num_frames)
        if len(path) < num_frames:  # the level ended
            return None
        length = float(np.linalg.norm(path[-1] - path[0]))
        if action in WALKS:
            lengths.append(length)
        elif length > 1:  # something carries the player
            return None
        if lengths and min(lengths) < max(0.95 * max(lengths), 2 * walk):
            return None
    return "open" if depth > OPEN else "room", frames


def shrink(frames: np.ndarray, size: int) -> np.ndarray:
    """Cut the central square out of frames `(T, H, W, 3)`, scale it to `size` pixels and brighten it."""
    margin = (frames.shape[2] - frames.shape[1]) // 2
    square = torch.from_numpy(frames[:, :, margin : frames.shape[2] - margin]).permute(0, 3, 1, 2)
    bright = functional.adjust_gamma(functional.resize(square, [size, size], antialias=True), GAMMA)
    return bright.permute(0, 2, 3, 1).numpy()


def film_level(level: Level, spots: int, num_frames: int, seed: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield place and videos of up to `spots` spots of a level, a function of level and seed."""
    game = open_game(level.wad, seed)
    game.set_doom_map(level.name)
    draws = generator("spots", seed, int.from_bytes(f"{level.wad.stem} {level.name}".encode(), "little"))
    filmed, fresh = 0, False
    for _ in range(TRIES * spots):
        if not fresh:
            game.new_episode()
            game.send_game_command("god")
        videos = film_spot(game, draws.choice(level.stands), draws, num_frames)
        fresh = videos is None and not game.is_episode_finished()
        if videos is not None:
            yield videos
            filmed += 1
        if filmed == spots:
            break
    game.close()


@dataclass
class ClipsArguments:
    """Write labelled videos of a player in the levels of Freedoom."""

    output_dir: str = option("folder to write", "output/vizdoom")
    train_spots: int = option("spots in each training level", 24)
    test_spots: int = option("spots in each validation or test level", 6)
    num_frames: int = option("frames per video", 8)
    size: int = option("height and width (px), even", 48)
    seed: int = option("seed of levels, spots and speeds", 0)


def make_clips(args: ClipsArguments) -> dict[str, int]:
    """Write `SPLIT/*.mp4` and `SPLIT.csv` with the columns video, motion, place, level and spot; count the videos."""
    output, folder = Path(args.output_dir), Path(vizdoom.__file__).parent
    levels = [level for wad in WADS for level in read_levels(folder / wad)]
    counts = {}
    for split, chosen in divide(levels, args.seed).items():
        (output / split).mkdir(parents=True, exist_ok=True)
        rows, spots = [], args.train_spots if split == "train" else args.test_spots
        for level in chosen:
            title = f"{level.wad.stem} {level.name}"
            filmed = film_level(level, spots, args.num_frames, args.seed)
            for spot, (place, videos) in enumerate(filmed):
                for action, frames in videos.items():
                    name = f"{split}/{title} {spot:03d} {action}.mp4".replace(" ", "_")
                    write_video(output / name, shrink(frames, args.size))
                    rows.append((name, action, place, title, spot))
            print(f"{split}: {title}, {len(rows)} videos so far", flush=True)
        write_table(output / f"{split}.csv", ("video", "motion", "place", "level", "spot"), rows)
        counts[split] = len(rows)
    return counts


def main(command_line: Sequence[str] | None = None) -> None:
    args = parse(ClipsArguments, command_line)
    with mistakes_exit():
        counts = make_clips(args)
    print(", ".join(f"{count} {split} videos" for split, count in counts.items()), f"in {args.output_dir}")


if __name__ == "__main__":
    main()
