"""Random generators as functions of a purpose, the seed and a key, such as (epoch, sample id)."""

import hashlib
import json
import operator

import numpy as np


def generator(purpose: str, seed: int, *key: int) -> np.random.Generator:
    """Return the random generator of (purpose, seed, key), seeded by their hash.

    `np.random.default_rng([seed, *key])` would pad short keys with zeros: (3,) and (3, 0) draw the same numbers.

    Raises:
        TypeError: a seed or key is not an integer.
    """
    text = json.dumps([purpose, *map(operator.index, (seed, *key))])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest(), "little"))
