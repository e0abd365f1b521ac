"""What happens when a run is broken on purpose: killed, out of disk, fed with bad numbers, files or processes.

pytest tests/test_faults.py
"""

import random
from functools import partial
from pathlib import Path

import pytest
import torch

from forked_runs import ForkedRuns, die_after, die_at_file_change
from vjepa_hf.checkpoints import list_checkpoints
from vjepa_hf.training import read_log

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults")]
WITHOUT_A_CLOCK = ("clips_per_second", "data_wait", "memory_gib")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> ForkedRuns:
    return ForkedRuns(tmp_path_factory.mktemp("forked_runs"))


@pytest.fixture(scope="module")
def videos(toy_videos) -> Path:
    return toy_videos / "train.csv"


def log(output: Path) -> list[dict]:
    """The rows of a log without the figures that come from a clock."""
    rows = read_log(output / "log.jsonl")
    return [{name: value for name, value in row.items() if name not in WITHOUT_A_CLOCK} for row in rows]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint: weights, moments of the optimizer."""
    from safetensors.torch import load_file

    found = load_file(folder / "model.safetensors")
    state = torch.load(folder / "optimizer.bin", weights_only=True)["state"]
    return found | {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def assert_same_run(first: Path, second: Path) -> None:
    assert log(first) == log(second)
    last = [list_checkpoints(folder)[-1] for folder in (first, second)]
    assert last[0].name == last[1].name
    a, b = map(tensors, last)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


# --- killed ---

LONG = {"max_steps": "90", "save_steps": "4", "logging_steps": "3", "health_steps": "5"}


@pytest.fixture(scope="module")
def uninterrupted(runs, videos, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    runs.finish(videos=videos, output_dir=output, **LONG)
    return output


def test_a_run_killed_twenty_times_equals_the_uninterrupted_one_bit_by_bit(runs, videos, uninterrupted, tmp_path):
    output, draw, kills, while_saving = tmp_path / "run", random.Random(0), 0, 0
    for _ in range(40):
        fate = partial(die_at_file_change, str(output), draw.randrange(1, 70))
        if draw.random() < 0.3:
            fate = partial(die_after, draw.uniform(0.5, 2.0))
        start = {"resume": "true"} if list_checkpoints(output) else {"overwrite_output_dir": "true"}
        (code,) = runs.run(fate, videos=videos, output_dir=output, **LONG, **start)
        assert code in (0, -9), runs.printed()[-6000:]
        kills += code == -9
        while_saving += any((output / "checkpoints").glob("unfinished_*"))
        if kills == 20:
            break
    assert kills == 20 and while_saving >= 3
    runs.finish(videos=videos, output_dir=output, **LONG, resume="true")
    assert_same_run(output, uninterrupted)
