"""The levels of an archive of the game, where one can stand in them, and which of them are tested."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vjepa_hf.data.randomness import generator

# Types of things that mark room to stand: starts of players (1 to 4, 11) and of monsters, which are not in the videos.
STANDS = (1, 2, 3, 4, 11, 7, 9, 16, 58, *range(64, 70), 71, 72, 84, *range(3001, 3007))
TRAIN_LEVELS, VALIDATION_LEVELS = 36, 10


@dataclass(frozen=True)
class Level:
    """A map and the points (x, y) of it where something can stand, `(n, 2)`."""

    wad: Path
    name: str
    stands: np.ndarray


def read_levels(wad: Path) -> list[Level]:
    """Read the levels of an archive. A level is a lump with its name and no content, and `THINGS` is the next lump."""
    data = wad.read_bytes()
    count, directory = struct.unpack_from("<ii", data, 4)
    lumps = [struct.unpack_from("<ii8s", data, directory + 16 * number) for number in range(count)]
    names = [name.rstrip(b"\0").decode() for *_, name in lumps]
    levels = []
    for number, (start, size, _) in enumerate(lumps):
        if names[number] == "THINGS":
            things = np.frombuffer(data, "<i2", size // 2, start).reshape(-1, 5)  # x, y, angle, type, flags
            levels.append(Level(wad, names[number - 1], things[np.isin(things[:, 3], STANDS), :2]))
    return levels


def divide(levels: Sequence[Level], seed: int) -> dict[str, list[Level]]:
    """Return split -> its levels, drawn at random."""
    shuffled = [levels[index] for index in generator("levels", seed).permutation(len(levels))]
    second = TRAIN_LEVELS + VALIDATION_LEVELS
    return {"train": shuffled[:TRAIN_LEVELS], "validation": shuffled[TRAIN_LEVELS:second], "test": shuffled[second:]}
