"""Bad steps are skipped and counted, too many of them end the run, and so does a signal.

pytest tests/training/test_run_guard.py
"""

import math
import os
import signal
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator

from vjepa_hf.training.run_guard import NUM_PAST_NORMS, STOP_SIGNALS, RunGuard, ignore_stop_signals


@pytest.fixture(autouse=True)
def restored_signals():
    before = [(number, signal.getsignal(number)) for number in STOP_SIGNALS]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def make_guard(max_skipped_steps: int = 3, max_grad_norm_ratio: float | None = None) -> RunGuard:
    return RunGuard(Accelerator(cpu=True), max_skipped_steps, max_grad_norm_ratio)


def step(guard: RunGuard, loss: float = 1.0, encoder: float = 1.0, predictor: float = 1.0, passes: int = 1) -> bool:
    """Check an optimizer step with two clips per forward pass."""
    for number in range(passes):
        keys = [(0, 2 * number, 0), (0, 2 * number + 1, 0)]
        guard.watch({"video_names": ["a.mp4", "b.mp4"], "clip_keys": keys}, torch.tensor(loss))
    return guard.accepts({"encoder": torch.tensor(encoder), "predictor": torch.tensor(predictor)})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "encoder", "predictor"])
def test_a_step_with_nan_or_inf_is_skipped(where, value):
    guard = make_guard()
    assert step(guard)
    assert not step(guard, **{where: value})
    assert guard.skip_reason == f"{where} is {value}" and guard.stop is None
    assert step(guard) and guard.skip_reason is None
    assert guard.skipped_steps == 1


def test_too_many_skipped_steps_in_a_row_end_the_run():
    guard = make_guard(max_skipped_steps=3)
    for loss in (math.nan, math.nan, 1.0, math.nan, math.nan):
        step(guard, loss=loss)
    assert guard.stop is None and guard.skipped_steps == 4
    step(guard, loss=math.nan)
    assert guard.gave_up and "skipped 3 steps in a row, the last because loss is nan" in guard.stop


def test_the_log_shows_the_mean_of_the_finite_losses_and_the_count():
    guard = make_guard()
    for loss in (1.0, 2.0, math.nan, 6.0):
        step(guard, loss=loss)
    assert guard.read() == {"loss": 3.0, "encoder": 1.0, "predictor": 1.0, "skipped_steps": 1}
    step(guard, loss=5.0)
    assert guard.read()["loss"] == 5.0
    step(guard, loss=math.inf)
    assert math.isnan(guard.read()["loss"])


def test_exploding_gradients_are_skipped_once_the_median_is_known():
    guard, lenient = make_guard(max_grad_norm_ratio=5.0), make_guard()
    assert step(guard, encoder=100.0)  # no median yet
    for _ in range(NUM_PAST_NORMS):
        assert step(guard) and step(lenient)
    assert step(guard, encoder=4.9) and step(lenient, encoder=100.0)
    assert not step(guard, encoder=5.1)
    assert guard.skip_reason.startswith(
        "encoder 5.1 is more than max_grad_norm_ratio=5.0 times 1, the median of the last 100 steps"
    )
    assert not step(guard, predictor=5.1)


def test_skipped_steps_do_not_change_the_median():
    guard = make_guard(max_skipped_steps=1000, max_grad_norm_ratio=5.0)
    for _ in range(NUM_PAST_NORMS):
        step(guard)
    for _ in range(2 * NUM_PAST_NORMS):
        assert not step(guard, encoder=6.0)


def test_the_clips_of_a_skipped_step_are_listed_with_their_keys():
    guard = make_guard()
    step(guard)
    step(guard, loss=math.nan, passes=2)
    skipped = guard.skipped_step()
    assert skipped["reason"] == "loss is nan" and math.isnan(skipped["loss"]) and skipped["encoder"] == 1.0
    assert [clip["video"] for clip in skipped["clips"]] == ["a.mp4", "b.mp4"] * 2
    assert [clip["clip_key"] for clip in skipped["clips"]] == [(0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0)]


def test_a_resumed_guard_makes_the_same_decisions():
    straight, first = (make_guard(max_grad_norm_ratio=5.0) for _ in range(2))
    for guard in (straight, first):
        for number in range(NUM_PAST_NORMS + 3):
            step(guard, loss=1.0 + number % 7, encoder=1.0 + number % 5)
        step(guard, loss=math.nan)
    resumed = make_guard(max_grad_norm_ratio=5.0)
    resumed.load_state_dict(first.state_dict())
    for values in ({"encoder": 14.0}, {"encoder": 16.0}, {"loss": 0.1}, {"loss": math.nan}):
        assert step(straight, **values) == step(resumed, **values)
        assert straight.skip_reason == resumed.skip_reason
    assert straight.read() == resumed.read() and straight.state_dict() == resumed.state_dict()


def test_a_resumed_run_starts_to_count_skipped_steps_again():
    guard = make_guard(max_skipped_steps=2)
    step(guard, loss=math.nan), step(guard, loss=math.nan)
    resumed = make_guard(max_skipped_steps=2)
    resumed.load_state_dict(guard.state_dict())
    step(resumed, loss=math.nan)
    assert guard.gave_up and resumed.stop is None and resumed.skipped_steps == 3


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_stops_the_run_after_the_step(number):
    guard = make_guard()
    with guard.signals():
        assert step(guard) and guard.stop is None
        os.kill(os.getpid(), number)
        assert guard.stop is None  # not in the middle of a step
        assert step(guard)
    assert guard.stop == f"received {number.name}" and not guard.gave_up


def test_signal_handlers_are_restored_after_the_block():
    received = []
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, frame: received.append(number))
    guard = make_guard()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyError), guard.signals():
        os.kill(os.getpid(), signal.SIGTERM)
        raise KeyError
    os.kill(os.getpid(), STOP_SIGNALS[-1])
    assert received == [signal.SIGTERM, STOP_SIGNALS[-1]]


def test_a_worker_ignores_the_signals():
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    ignore_stop_signals(0)
    for number in STOP_SIGNALS:
        os.kill(os.getpid(), number)


FAILING_RUN = """
import torch
from accelerate import Accelerator
from vjepa_hf.training.run_guard import RunGuard, ignore_stop_signals

guard = RunGuard(Accelerator(cpu=True), max_skipped_steps=1)
loader = torch.utils.data.DataLoader(range(9), num_workers=1, worker_init_fn=ignore_stop_signals)
with guard.signals():
    batches = iter(loader)
    next(batches)
    raise ValueError("the run fails while its worker waits")
"""


# A process of the user notes that it was asked to end, which it cannot do if it is killed.
FINISHED_RUN = """
import multiprocessing
import signal
import sys
import time
from accelerate import Accelerator
from vjepa_hf.training.run_guard import RunGuard

def wait(ready):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("asked to end", flush=True)))
    ready.set()
    time.sleep(60)

ready = multiprocessing.get_context("fork").Event()
with RunGuard(Accelerator(cpu=True), max_skipped_steps=1).signals():
    pass
multiprocessing.get_context("fork").Process(target=wait, args=(ready,), daemon=True).start()
ready.wait()
"""


WITHOUT_UNIX = """
import signal
import sys
import accelerate, datasets, matplotlib.pyplot, psutil, torch, torch._functorch.config, torchvision, transformers
from torch.distributed import fsdp

sys.modules["resource"] = None
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP"):
    delattr(signal, name)
import vjepa_hf.training.setup
from vjepa_hf.training.log import memory_gib
from vjepa_hf.training.run_guard import STOP_SIGNALS

print([number.name for number in STOP_SIGNALS], memory_gib(torch.device("cpu")))
"""


def test_training_imports_where_windows_lacks_resource_and_sigusr1():
    result = subprocess.run([sys.executable, "-c", WITHOUT_UNIX], capture_output=True, text=True, timeout=120)
    assert result.stdout == "['SIGTERM'] nan\n", result.stderr


def test_a_failed_run_does_not_wait_for_its_workers():
    result = subprocess.run([sys.executable, "-c", FAILING_RUN], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and "fails while its worker waits" in result.stderr


def test_a_run_that_ended_well_leaves_other_processes_alone():
    result = subprocess.run([sys.executable, "-c", FINISHED_RUN], capture_output=True, text=True, timeout=120)
    assert result.stdout == "asked to end\n" and result.returncode == 0, result.stderr
