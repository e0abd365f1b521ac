"""Runs that are broken on purpose: killed, without disk space, with NaN, damaged files or dead processes.

pytest tests/examples/test_faults.py
"""

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from forked_runs import (
    FSDP,
    ForkedRuns,
    command_line,
    die_after,
    get_signal_at_file_change,
    shard_on_cpu,
    spoil_passes,
)
from house import REPO
from programs import cpu_environment
from vjepa_hf.training.checkpoints import list_checkpoints
from vjepa_hf.training.log import read_log

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults")]
WITHOUT_A_CLOCK = ("clips_per_second", "data_wait", "memory_gib", "matmul_utilization")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> ForkedRuns:
    return ForkedRuns(tmp_path_factory.mktemp("forked_runs"))


@pytest.fixture(scope="module")
def videos(toy_videos) -> Path:
    return toy_videos / "train.csv"


def log(output: Path) -> list[dict]:
    """Return the rows of a log without the metrics that depend on time or memory."""
    rows = read_log(output / "log.jsonl")
    return [{name: value for name, value in row.items() if name not in WITHOUT_A_CLOCK} for row in rows]


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint: weights and moments of the optimizer."""
    found = load_file(checkpoint / "model.safetensors")
    state = torch.load(checkpoint / "optimizer.bin", weights_only=True)["state"]
    return found | {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def assert_same_run(first: Path, second: Path) -> None:
    """Check that the logs, the last checkpoints and the exported models are bit-equal."""
    assert log(first) == log(second)
    assert equal(*(load_file(folder / "model.safetensors") for folder in (first, second)))
    last = [list_checkpoints(folder)[-1] for folder in (first, second)]
    assert last[0].name == last[1].name and equal(*map(tensors, last))


def losses(output: Path) -> list[float]:
    return [row["loss"] for row in log(output) if "loss" in row]


def assert_same_to_rounding(first: Path, second: Path, tolerance: float = 2e-5) -> None:
    """Check that losses and exported weights, also of the target encoder, are equal to rounding."""
    assert losses(first) == pytest.approx(losses(second), abs=tolerance)
    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert a.keys() == b.keys() and any(name.startswith("vjepa.encoder.") for name in a)
    assert max((a[name] - b[name]).abs().max().item() for name in a) < tolerance


def without_last_checkpoint(run: Path, copy: Path) -> Path:
    """Copy a run without its last checkpoint."""
    shutil.copytree(run, copy)
    shutil.rmtree(list_checkpoints(copy)[-1])
    return copy


# --- killed ---

LONG = {"max_steps": "150", "save_steps": "4", "logging_steps": "3", "health_steps": "5"}


@pytest.fixture(scope="module")
def uninterrupted(runs, videos, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    runs.finish(videos=videos, output_dir=output, **LONG)
    return output


def test_a_run_killed_twenty_times_equals_the_uninterrupted_one_bit_by_bit(runs, videos, uninterrupted, tmp_path):
    output, draw, kills, while_saving = tmp_path / "run", random.Random(0), 0, 0
    for _ in range(40):
        fate = partial(get_signal_at_file_change, str(output), draw.randrange(1, 70))
        if draw.random() < 0.3:
            fate = partial(die_after, draw.uniform(0.3, 1.5))
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


def die_in_export(number: int) -> None:
    """Kill this process, without running any handler, at the beginning of an export."""
    import pretrain

    export, remaining = pretrain.export, [number]

    def die(*args):
        remaining[0] -= 1
        os.kill(os.getpid(), signal.SIGKILL) if remaining[0] == 0 else export(*args)

    pretrain.export = die


@pytest.mark.parametrize("harm", [lambda model: None, Path.unlink], ids=["old export", "no export"])
def test_a_run_killed_between_its_last_checkpoint_and_the_export_is_exported(runs, videos, straight, tmp_path, harm):
    output = tmp_path / "run"
    options = {"videos": videos, "output_dir": output}
    assert runs.run(partial(die_in_export, 2), **options) == [-9]
    assert list_checkpoints(output)[-1].name == "step_00000006"
    harm(output / "model.safetensors")
    assert "load the encoder" in runs.finish(resume="true", **options)
    assert_same_run(output, straight)


# --- two runs, one folder ---


def wait_briefly() -> None:
    from vjepa_hf.training import output

    output.LOCK_TIMEOUT = 0.1


def test_a_second_run_in_the_folder_of_a_live_one_is_refused_until_it_is_dead(runs, videos, tmp_path):
    output = tmp_path / "run"
    options = {"videos": videos, "output_dir": output, "num_workers": "1", "save_steps": "2"}
    (first,) = runs.start(max_steps="100000", **options)
    try:
        while first.is_alive() and not list_checkpoints(output):
            time.sleep(0.05)
        for more in ({"resume": "true"}, {"overwrite_output_dir": "true"}):
            assert runs.run(wait_briefly, **options, **more) == [2]
            assert f"pretrain.py: another process is using output_dir '{output}'" in runs.printed()
            assert first.is_alive() and list_checkpoints(output)
    finally:
        first.kill()
        first.join()
    step = int(list_checkpoints(output)[-1].name.removeprefix("step_"))
    options["max_steps"] = str(step + 2)
    assert "load the encoder" in runs.finish(wait_briefly, resume="true", **options)


# --- what a run says ---


def test_a_resumed_run_says_what_changed_in_its_data(runs, toy_videos, tmp_path):
    shutil.copytree(toy_videos / "train", tmp_path / "videos")
    options = {"videos": tmp_path / "videos", "output_dir": tmp_path / "run"}
    runs.finish(**options)
    assert "WARNING the data" not in runs.finish(resume="true", **options)
    for path in sorted((tmp_path / "videos").iterdir())[5:]:
        path.unlink()
    changed = "the data is not that of the checkpoint: it was 16 videos and is 5 videos"
    assert changed in runs.finish(resume="true", **options | {"max_steps": "8"})
    assert changed not in runs.finish(resume="true", **options | {"max_steps": "8"})  # now it is


def test_a_moved_run_resumes_where_its_file_lies(runs, videos, straight, tmp_path):
    shutil.copytree(straight, tmp_path / "moved")
    before = (straight / "arguments.yaml").read_bytes()
    options = {"config": tmp_path / "moved" / "arguments.yaml", "max_steps": "8", "resume": "true"}
    assert str(tmp_path / "moved" / "checkpoints" / "step_00000006") in runs.finish(**options)
    assert list_checkpoints(tmp_path / "moved")[-1].name == "step_00000008"
    assert list_checkpoints(straight)[-1].name == "step_00000006"
    assert (straight / "arguments.yaml").read_bytes() == before


def test_mistakes_are_one_sentence_and_status_2(runs, videos, straight, tmp_path):
    options = {"videos": videos, "output_dir": tmp_path / "run"}
    for wrong, words in (
        ({"videos": tmp_path / "nowhere"}, "does not exist"),
        ({"init_from": tmp_path / "nowhere"}, "has no config.json"),
        ({"output_dir": straight}, "is not empty; add --resume"),
        ({"resume": "true"}, "no checkpoint to resume from"),
        ({"report_to": "tensorbord"}, "'tensorbord' is not a tracker"),
        ({"mixed_precision": "fp16"}, "fp16 needs a GPU"),
        ({"freeze_layers": "9"}, "freeze_layers must be"),
    ):
        assert runs.run(**options | wrong) == [2], runs.printed()
        last = runs.printed().strip().splitlines()[-1]
        assert last.startswith("pretrain.py: ") and words in last and "Traceback" not in runs.printed()


def compile_without_a_compiler() -> None:
    from vjepa_hf.training import setup

    setup.compile_layers.__defaults__ = ("eager",)


def test_launcher_precision_home_folder_no_tracker_and_a_short_run(runs, videos, tmp_path):
    options = {"videos": videos, "output_dir": "~/runs/one", "report_to": "none", "max_steps": "2"}
    options |= {"config": REPO / "examples" / "configs" / "tiny_cpu.yaml", "warmup_steps": None}
    options |= {"compile": "true", "max_grad_norm_ratio": "10", "video_column": "video"}
    env = {"HOME": str(tmp_path), "ACCELERATE_MIXED_PRECISION": "bf16"}
    printed = runs.finish(compile_without_a_compiler, env=env, **options)
    assert "mixed precision bf16" in printed and "warm-up shortened to 0 steps" in printed
    assert (tmp_path / "runs" / "one" / "model.safetensors").exists() and not (REPO / "~").exists()
    assert "mixed_precision: bf16" in (tmp_path / "runs" / "one" / "arguments.yaml").read_text()


# --- asked to stop ---

TWO_PROCESSES = ("accelerate", "launch", "--multi_gpu", "--num_processes", "2")
TORCHRUN = ("torchrun", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
# By default, torchrun and accelerate forward only some signals.
FORWARD_SIGNALS = {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"}


@contextmanager
def launched(launcher: Sequence[str], tmp_path: Path, env: dict[str, str] | None = None, **options):
    """Launch a run as a user does, in its own process group; write its output to `output.txt`."""
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
    """Wait until a run has logged a step; fail if the run ends before."""
    path = output_dir / "log.jsonl"
    while process.poll() is None:
        if path.exists() and any(row["step"] >= step for row in read_log(path)):
            return
        time.sleep(0.05)
    raise AssertionError(f"the run ended with {process.returncode} before step {step}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_stopped_between_log_rows_resumes_bit_by_bit(runs, videos, uninterrupted, tmp_path, number):
    output = tmp_path / "run"
    changes = {signal.SIGTERM: 22, signal.SIGUSR1: 34}[number]
    fate = partial(get_signal_at_file_change, str(output), changes, number)
    printed = runs.finish(fate, videos=videos, output_dir=output, **LONG)
    step = int(list_checkpoints(output)[-1].name.removeprefix("step_"))
    assert f"received {number.name}: saved step {step} and stopped; resume with --config {output}" in printed
    assert step % 3 and step % 4 and step < 90  # the step has neither a log row nor a periodic checkpoint
    runs.finish(videos=videos, output_dir=output, resume="true", **LONG)
    assert_same_run(output, uninterrupted)


def ranks_of(process: subprocess.Popen) -> list[psutil.Process]:
    ranks = [child for child in psutil.Process(process.pid).children() if "pretrain.py" in " ".join(child.cmdline())]
    assert len(ranks) == 2
    return ranks


def ask_to_stop(process: subprocess.Popen) -> None:
    """Signal the launcher, which forwards the signal, and the workers, as schedulers signal all processes of a job."""
    for worker in (worker for rank in ranks_of(process) for worker in rank.children()):
        worker.terminate()
    os.kill(process.pid, signal.SIGUSR1)


def kill_one_rank(process: subprocess.Popen) -> None:
    ranks_of(process)[1].kill()


@pytest.mark.parametrize(
    ("launcher", "act", "words"),
    [
        (TORCHRUN, ask_to_stop, "received SIGUSR1: saved step"),
        (TWO_PROCESSES, kill_one_rank, "exitcode: -9"),
    ],
    ids=["asked", "dead rank"],
)
def test_two_processes_stop_together_and_one_resumes_with_the_same_clips(
    runs, videos, uninterrupted, tmp_path, launcher, act, words
):
    output = tmp_path / "run"
    halves = LONG | {"per_device_batch_size": "2", "num_workers": "1"}
    with launched(launcher, tmp_path, FORWARD_SIGNALS, videos=videos, output_dir=output, **halves) as process:
        wait_for_step(output, 6, process)
        act(process)
        process.wait(60)
    printed = (tmp_path / "output.txt").read_text()
    assert process.returncode != 0 and words in printed, printed[-6000:]
    assert 4 <= int(list_checkpoints(output)[-1].name.removeprefix("step_")) < 90
    runs.finish(videos=videos, output_dir=output, resume="true", **LONG)
    assert_same_to_rounding(output, uninterrupted, 1e-3)


# --- other processes ---


@pytest.fixture(scope="module")
def straight(runs, videos, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("straight") / "run"
    runs.finish(videos=videos, output_dir=output)
    return output


def test_a_run_resumes_with_more_processes(runs, videos, straight, tmp_path):
    output = without_last_checkpoint(straight, tmp_path / "run")
    halves = {"per_device_batch_size": "2", "processes": 2}
    runs.finish(videos=videos, output_dir=output, resume="true", **halves)
    assert_same_to_rounding(output, straight)


def test_an_fsdp_run_is_equal_to_rounding_and_resumes_exactly(runs, videos, straight, tmp_path):
    output = tmp_path / "run"
    sharded = {"env": FSDP, "processes": 2, "per_device_batch_size": "2", "videos": videos}
    sharded |= {"eval_train_videos": videos, "eval_test_videos": videos, "eval_label": "appearance", "eval_steps": "3"}
    runs.finish(shard_on_cpu, output_dir=output, **sharded)
    assert [row["step"] for row in log(output) if "knn_accuracy" in row] == [3, 6]
    assert (list_checkpoints(output)[-1] / "pytorch_model_fsdp_0" / "__1_0.distcp").exists()
    assert_same_to_rounding(output, straight)
    resumed = without_last_checkpoint(output, tmp_path / "resumed")
    runs.finish(shard_on_cpu, output_dir=resumed, resume="true", **sharded)
    assert log(resumed) == log(output)
    assert equal(*(load_file(folder / "model.safetensors") for folder in (resumed, output)))
    assert "was written with FSDP" in runs.fail(videos=videos, output_dir=output, resume="true")


def test_unsupported_launcher_settings_are_errors(runs, videos, tmp_path):
    options = {"videos": videos, "output_dir": tmp_path / "run"}
    assert "DeepSpeed is not supported" in runs.fail(env={"ACCELERATE_USE_DEEPSPEED": "true"}, **options)
    assert "ACCELERATE_DYNAMO_BACKEND=EAGER" in runs.fail(env={"ACCELERATE_DYNAMO_BACKEND": "EAGER"}, **options)
    accumulation = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"}
    assert "the run accumulates 1" in runs.fail(env=accumulation, **options)
    assert "Accelerate does not shard models on the device cpu" in runs.fail(env=FSDP, processes=2, **options)
    assert not (tmp_path / "run").exists()


def test_an_unreadable_video_of_one_process_changes_nothing_for_the_others(runs, toy_videos, tmp_path):
    (tmp_path / "videos").mkdir()
    for path in sorted((toy_videos / "train").glob("*.mp4"))[:5]:
        shutil.copy(path, tmp_path / "videos")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"not a video")
    options = {"videos": tmp_path / "videos", "max_failed_share": "0.9"}
    runs.finish(output_dir=tmp_path / "one", **options)
    runs.finish(output_dir=tmp_path / "two", processes=2, per_device_batch_size="2", **options)
    failed = [[row["failed_videos"] for row in log(tmp_path / name) if "loss" in row] for name in ("one", "two")]
    assert failed[0] == failed[1] and failed[0][-1] > 0
    assert_same_to_rounding(tmp_path / "one", tmp_path / "two")


def test_two_machines_make_one_run(videos, straight, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = ("accelerate", "launch", "--config_file", "examples/accelerate/multi_node.yaml", "--num_processes", "2")
    command += (
        "--mixed_precision",
        "no",
        "--main_process_ip",
        "127.0.0.1",
        "--main_process_port",
        port,
        "--machine_rank",
    )
    options = {"videos": videos, "output_dir": tmp_path / "run", "per_device_batch_size": "2"}
    for rank in "01":
        (tmp_path / rank).mkdir()
    with launched((*command, "0"), tmp_path / "0", **options) as first:
        with launched((*command, "1"), tmp_path / "1", **options) as second:
            codes = first.wait(200), second.wait(200)
    assert codes == (0, 0), "".join((tmp_path / rank / "output.txt").read_text()[-3000:] for rank in "01")
    assert_same_to_rounding(tmp_path / "run", straight)


# --- NaN ---


@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_with_nan_in_one_process_is_skipped_in_all(runs, videos, tmp_path, processes):
    output = tmp_path / "run"
    split = {"processes": processes, "per_device_batch_size": str(4 // processes)}
    spoil = partial(spoil_passes, 3, 3, rank=processes - 1)
    printed = runs.finish(spoil, videos=videos, output_dir=output, save_steps="1", save_total_limit="10", **split)
    assert "skipped step 3: loss is nan" in printed
    assert [row["skipped_steps"] for row in log(output) if "loss" in row] == [0, 0, 1, 1, 1, 1]
    (skipped,) = read_log(output / "skipped_steps.jsonl")
    assert skipped["step"] == 3 and len({tuple(clip["clip_key"]) for clip in skipped["clips"]}) == 4
    assert all(Path(clip["video"]).exists() for clip in skipped["clips"])
    before, after, later = (tensors(folder) for folder in list_checkpoints(output)[1:4])
    assert equal(before, after) and not equal(after, later)
    assert all(value.isfinite().all() for value in later.values())


def test_too_many_skipped_steps_save_and_end_the_run_which_can_resume(runs, videos, tmp_path):
    output = tmp_path / "run"
    options = {"videos": videos, "output_dir": output, "max_skipped_steps": "2"}
    printed = runs.fail(partial(spoil_passes, 3, 100), **options)
    assert "FloatingPointError: skipped 2 steps in a row, the last because loss is nan. Step 4 is saved" in printed
    assert [row["step"] for row in read_log(output / "skipped_steps.jsonl")] == [3, 4]
    runs.finish(resume="true", **options)
    assert [row["skipped_steps"] for row in log(output) if "loss" in row][-1] == 2
    assert [row["step"] for row in log(output) if "loss" in row][-1] == 6


# --- disks ---


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_ends_the_run_and_keeps_its_checkpoints(runs, videos, straight, tmp_path):
    output = without_last_checkpoint(straight, tmp_path / "run")
    options = {"videos": videos, "output_dir": output, "resume": "true"}
    printed = runs.fail(partial(limit_files, 100_000), **options)
    assert f"cannot write the checkpoint '{output}/checkpoints/step_00000006': " in printed
    assert "The newest one is step_00000003. Free disk space" in printed
    runs.finish(**options)
    assert_same_run(output, straight)


def test_a_damaged_checkpoint_ends_the_run_until_resume_step_is_given(runs, videos, straight, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    weights = list_checkpoints(output)[-1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    options = {"videos": videos, "output_dir": output}
    printed = runs.fail(resume="true", **options)
    assert "step_00000006' is damaged: model.safetensors has" in printed and "--resume_step 3" in printed
    assert "set_aside_0_step_00000006" in runs.finish(resume_step="3", **options)
    assert_same_run(output, straight)


# --- initial weights ---


def test_a_run_reports_its_initial_weights_and_keeps_frozen_layers(runs, videos, straight, tmp_path):
    output = tmp_path / "run"
    options = {"videos": videos, "output_dir": output, "freeze_layers": "1"}
    parts = {"init_from": straight, "init_parts": "target_encoder predictor"}
    printed = runs.finish(**options, **parts)
    assert "loaded target_encoder, " in printed and "not loaded: context_encoder, " in printed
    before, after = (load_file(folder / "model.safetensors") for folder in (straight, output))
    frozen = [name for name in after if name.startswith(("context_encoder.embeddings", "context_encoder.layers.0"))]
    trained = [name for name in after if name.startswith("context_encoder.layers.1")]
    source = {name: before[name.replace("context_encoder.", "vjepa.encoder.")] for name in frozen + trained}
    assert frozen and all(torch.equal(after[name], source[name]) for name in frozen)
    assert not any(torch.equal(after[name], source[name]) for name in trained if "weight" in name)
    shutil.rmtree(list_checkpoints(output)[-1])
    assert "weights of" not in runs.finish(resume="true", **options, **(parts | {"init_from": "gone"}))
