"""Log files of a resumed run, throughput, and the monitor.

pytest tests/training/test_log.py
"""

import json

import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from tiny_run import tiny_arguments
from vjepa_hf.data.input_log import InputLog
from vjepa_hf.data.videos import VideoFailure
from vjepa_hf.training.log import Monitor, RunLog, Throughput, join_mask_types, memory_gib, read_log, run_summary
from vjepa_hf.training.run_guard import RunGuard
from vjepa_hf.training.setup import mask_sampler


def test_a_resumed_log_drops_repeated_steps(accelerator, tmp_path):
    args = tiny_arguments("--output_dir", str(tmp_path))
    log = RunLog(accelerator, args, first_step=0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0 / step})
    log.close()
    RunLog(accelerator, args, first_step=2).close()
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]


@pytest.mark.parametrize(
    "line",
    [
        "\0" * 40,
        '{"step": 2, "lo',
        '{"loss": 1.0}',
        "[1]",
        "by hand",
        '{"step": "2"}',
        '{"step": 2, "loss": "0.5"}',
        '{"step": 2, "target_std": null}',
        '{"step": 2, "loss": [0.5]}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_damaged_line_is_skipped_with_a_warning_and_does_not_block_a_resume(accelerator, tmp_path, line):
    rows = [json.dumps({"step": step}) for step in (1, 2)]
    for name in ("log.jsonl", "skipped_steps.jsonl"):
        text = f"{rows[0]}\n{line}\n{rows[1]}\nincomplete"
        (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.warns(UserWarning, match="skipped 1 damaged lines of .*jsonl"):
        RunLog(accelerator, tiny_arguments("--output_dir", str(tmp_path)), first_step=2).close()
    for name in ("log.jsonl", "skipped_steps.jsonl"):
        assert (tmp_path / name).read_text() == "".join(f"{row}\n" for row in rows)


def test_a_new_log_is_empty(accelerator, tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    RunLog(accelerator, tiny_arguments("--output_dir", str(tmp_path)), first_step=0).close()
    assert read_log(tmp_path / "log.jsonl") == []


def test_the_summary_has_clips_epochs_and_schedules_at_three_steps(accelerator, model):
    summary = run_summary(accelerator, tiny_arguments("--per_device_batch_size", "8"), num_videos=20, model=model)
    assert "global batch size 8 = 8 clips" in summary and "80 clips in 10 steps = 4.0 epochs" in summary
    for name in ("first step", "warm-up end step", "last step"):
        (line,) = (line for line in summary.splitlines() if line.startswith(name))
        assert "lr" in line and "weight decay" in line and "EMA momentum" in line


def test_the_summary_says_that_a_warm_up_was_shortened(accelerator, model):
    args = tiny_arguments()
    assert "shortened" not in run_summary(accelerator, args, 20, model)
    args.optimization.warmup_steps = 200
    assert "warm-up shortened to 1 steps" in run_summary(accelerator, args, 20, model)


def test_throughput_yields_every_batch_and_restarts_after_read():
    throughput = Throughput()
    assert list(throughput.timed([1, 2, 3])) == [1, 2, 3]
    throughput.clips = 6
    metrics = throughput.read()
    assert metrics["clips_per_second"] > 0 and 0 <= metrics["data_wait"] <= 1
    assert throughput.read()["clips_per_second"] == 0


def test_utilization_is_the_fraction_of_the_matmul_rate():
    throughput = Throughput(lambda: 1e12)
    throughput.started -= 100.0
    throughput.flops = 25 * 10**12
    assert throughput.read()["matmul_utilization"] == pytest.approx(0.25, rel=1e-2)
    assert throughput.read()["matmul_utilization"] == 0.0


def test_a_matmul_rate_that_the_run_exceeds_is_measured_again():
    rates = iter([1e12, 4e12])
    throughput = Throughput(lambda: next(rates))
    for expected in (0.25, 0.5, 0.5):  # of 1e12; then 2e12 exceeds it, and 4e12 stays
        throughput.started -= 100.0
        throughput.flops = 25 * 10**12 if expected == 0.25 else 200 * 10**12
        assert throughput.read()["matmul_utilization"] == pytest.approx(expected, rel=1e-2)


def test_memory_is_a_number_of_gib():
    assert 0.01 < memory_gib(torch.device("cpu")) < 1000


# --- monitor ---


def make_batch(names: list[str], masks: tuple, failures: list[VideoFailure]) -> dict:
    keys = [(0, index, 0) for index in range(len(names))]
    context_masks, target_masks = masks
    return {
        "clip_keys": keys,
        "video_names": names,
        "failures": failures,
        "context_masks": context_masks,
        "target_masks": target_masks,
    }


def test_a_monitor_logs_progress_health_and_evaluation_at_their_intervals(accelerator, model, tmp_path):
    words = "--max_steps 4 --logging_steps 2 --health_steps 4 --eval_steps 3 --save_steps 100".split()
    args = tiny_arguments(*words, "--output_dir", str(tmp_path))
    inputs, guard = InputLog(0.9), RunGuard(accelerator, max_skipped_steps=9)
    monitor = Monitor(accelerator, args, model, inputs, guard, 0, evaluate=lambda encoder: {"knn_accuracy": 0.5})
    masks = mask_sampler(args.masking, (2, 4, 4), seed=0)([(0, 0), (0, 1)])
    batch = make_batch(["a.mp4", "b.mp4"], masks, [VideoFailure("broken.mp4", "no frames")])
    clips = torch.randn(2, 4, 3, 32, 32)
    outputs = [model(clips, [masks[0][index]], [masks[1][index]], [index]) for index in range(2)]
    for step, _ in enumerate(monitor.batches([batch] * 4), start=1):
        guard.watch(batch, outputs[0].loss)
        guard.accepts({"norm": torch.tensor(1.0)})
        monitor.step(step, {"learning_rate": 0.1}, batch, outputs)
    monitor.close()
    rows = read_log(tmp_path / "log.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [2, 4]
    assert [row["step"] for row in rows if "target_std" in row] == [4]
    assert [row["step"] for row in rows if "knn_accuracy" in row] == [3, 4]
    (last,) = (row for row in rows if "loss" in row and row["step"] == 4)
    assert last["failed_videos"] == 4 and last["learning_rate"] == 0.1 and last["clips_per_second"] > 0


def test_outputs_of_mask_types_join_to_those_of_all_at_once(model):
    masks = mask_sampler(tiny_arguments().masking, (2, 4, 4), seed=0)([(0, 0), (0, 1)])
    clips = torch.randn(2, 4, 3, 32, 32)
    whole = model(clips, *masks)
    joined = join_mask_types([model(clips, [masks[0][index]], [masks[1][index]], [index]) for index in range(2)])
    for name in ("losses", "predictions", "targets", "context_hidden_states", "target_hidden_state"):
        torch.testing.assert_close(joined[name], whole[name])


class RecordingTracker(GeneralTracker):
    """A tracker that keeps what it gets."""

    name, requires_logging_directory = "recording", False

    def __init__(self):
        super().__init__()
        self.config, self.rows, self.images = {}, [], {}

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **options):
        self.rows.append({"step": step} | values)

    def log_images(self, values, step=None, **options):
        self.images |= {name: (step, images.shape, images.dtype) for name, images in values.items()}


def test_trackers_get_the_summary_metrics_alarms_and_curves(tmp_path):
    tracker = RecordingTracker()
    log = RunLog(Accelerator(cpu=True, log_with=tracker), tiny_arguments("--output_dir", str(tmp_path)), 0, "4 videos")
    log.write(1, {"loss": 1.0})
    log.write_health(2, {"target_std": 0.1}, ["constant-features: ..."])
    log.write_evaluation(2, {"knn_accuracy": 0.5})
    log.write_curves("title")
    log.close()
    assert tracker.config["summary"] == "4 videos" and tracker.config["max_steps"] == "10"
    assert tracker.rows == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "target_std": 0.1, "alarms": 1},
        {"step": 2, "knn_accuracy": 0.5},
    ]
    assert tracker.images == {"curves": (2, (1, 900, 1600, 3), "uint8")}
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("more, name", [([], "run7"), (["--run_name", "mine"], "mine")])
def test_the_run_has_a_name_in_trackers(tmp_path, monkeypatch, more, name):
    (tmp_path / "run7").mkdir()
    accelerator, calls = Accelerator(cpu=True, log_with=RecordingTracker()), []
    monkeypatch.setattr(accelerator, "init_trackers", lambda project, config, init_kwargs: calls.append(init_kwargs))
    RunLog(accelerator, tiny_arguments("--output_dir", str(tmp_path / "run7"), *more), 0).close()
    assert calls[0]["wandb"] == calls[0]["trackio"] == {"name": name}
