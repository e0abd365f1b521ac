"""What happens when a run is broken on purpose: killed, out of disk, fed with bad numbers, files or processes.

pytest tests/test_faults.py
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from conftest import cpu_environment
from forked_runs import ForkedRuns, command_line, die_after, die_at_file_change
from house import REPO
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


# --- asked to stop ---

ACCELERATE = ("accelerate", "launch")
TWO_PROCESSES = ("accelerate", "launch", "--cpu", "--num_processes", "2")
# torchrun and accelerate hand on only some signals by themselves.
HAND_ON = {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"}


@contextmanager
def launched(launcher: Sequence[str], tmp_path: Path, env: dict[str, str] | None = None, **options):
    """A run as a user starts it, in a process group of its own, with its output in `output.txt`."""
    program = [str(Path(sys.executable).parent / launcher[0]), *launcher[1:]]
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [*program, "examples/pretrain.py", *command_line(**options)],
            cwd=REPO,
            env=cpu_environment(tmp_path) | (env or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_step(output_dir: Path, step: int, process: subprocess.Popen) -> None:
    """Wait until a run has logged a step; a run that ends before is an error."""
    path = output_dir / "log.jsonl"
    while process.poll() is None:
        if path.exists() and any(row["step"] >= step for row in read_log(path)):
            return
        time.sleep(0.05)
    raise AssertionError(f"the run ended with {process.returncode} before step {step}")


def test_a_run_asked_to_stop_saves_and_goes_on_with_other_processes(runs, videos, tmp_path):
    """Two processes under a launcher get SIGUSR1; one process goes on; a straight run is the measure."""
    options = {"videos": videos, "num_workers": "1", "max_steps": "100000", "save_steps": "100000"}
    output = tmp_path / "run"
    halves = {"per_device_batch_size": "2", "output_dir": output}
    with launched(TWO_PROCESSES, tmp_path, HAND_ON, **options, **halves) as process:
        wait_for_step(output, 4, process)
        os.kill(process.pid, signal.SIGUSR1)
        process.wait(60)
    (checkpoint,) = list_checkpoints(output)
    step = int(checkpoint.name.removeprefix("step_"))
    printed = (tmp_path / "output.txt").read_text()
    assert f"received SIGUSR1: saved step {step} and stopped; continue with --config" in printed
    assert [row["step"] for row in log(output) if "loss" in row] == list(range(1, step + 1))
    # The schedules depend on max_steps, which is the same here; stop the others by saving where they should end.
