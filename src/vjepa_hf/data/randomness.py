"""Random numbers as a function of what they are for, the seed and a key, such as (epoch, sample id)."""

import hashlib
import json
import operator

import numpy as np


def generator(purpose: str, seed: int, *key: int) -> np.random.Generator:
    """Return the random generator of (purpose, seed, key), which has a stream of its own.

    `np.random.default_rng([seed, *key])` has not: numpy fills short keys up with zeros, so (3,) and (3, 0) draw the
    same numbers. Here a hash of all that is given seeds the generator.

    Raises:
        TypeError: a seed or key that is not an integer.
    """
    text = json.dumps([purpose, *map(operator.index, (seed, *key))])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest(), "little"))
