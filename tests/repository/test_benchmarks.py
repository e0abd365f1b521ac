"""Every benchmark runs at its smallest setting and prints a page, and no page is written from uncommitted code.

pytest tests/repository/test_benchmarks.py
"""

import importlib
import multiprocessing
import subprocess
import sys

import pytest
import torch
import typer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from house import REPO
from vjepa_hf import VJEPAForPreTraining, VJEPAVideoProcessor

BENCHMARKS = REPO / "benchmarks"
HELPERS = {"report", "programs", "videomae"}
TINY_STEP = "--models vit_tiny --ways fp32 --num_clips 1 --image_size 32 --num_frames 4 --rounds 1 --threads 1"
# {videos}, {video}, {model} and {folder} stand for a toy set, one video of it, an encoder, and an empty folder.
COMMANDS = [
    f"step.py {TINY_STEP}",
    "inference.py clips --image_size 32 --num_frames 4 --rounds 2 --no-compiled --threads 1",
    "inference.py rotation --image_size 64 --num_frames 4 --rounds 2 --threads 1",
    "inference.py videos --video {video} --seconds 2 --rounds 1",
    "inference.py surprise --models ViT-S --image_size 32 --num_frames 4 --context_steps 1 --rounds 2",
    "data.py decode --videos {videos}/train --long {video} --clips 2 --minutes 0.05",
    "data.py loader --videos {videos}/train --num_videos 4 --batches 1 --batch_size 2 --turns 1",
    "data.py masks --repeats 2 --num_clips 2",
    "data.py lists --rows 100",
    "reliability.py reading --videos {videos}/train --opens 10",
    "reliability.py kills --videos {videos}/test --num_kills 3 --steps 8",
    "reliability.py damaged --videos {videos}/train --copies 4 --seed 1",
    "collapse.py health_cost --models toy --turns 1",
    "collapse.py runs --videos {videos} --steps 2 --health_steps 1 --probes 1 --splits 2 --plot {folder}/health.png",
    "distance.py toy --num_videos 8 --seeds 1",
    "distance.py cost --numbers 8 --num_workers 0",
    "search.py copies --videos {videos} --runs {folder} --steps 2 --num_videos 8 --num_clips 1",
    "look.py shapes --model {model} --num_clips 1",
    "search.py memory --videos {videos} --runs {folder} --steps 2 --num_videos 100",
    "learning.py online --videos {videos} --runs {folder} --steps 2 --num_videos 64",
    "learning.py probes --videos {videos} --runs {folder} --seeds 0 --steps 2 --splits 2 --epochs 1",
]


@pytest.fixture
def benchmark(monkeypatch):
    """Import a benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    for name in names:  # the tests have a `programs`, too
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names & set(sys.modules):
        del sys.modules[name]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A toy set in which every motion has the 8 training videos that a probe asks for."""
    from make_toy_videos import make_toy_videos

    folder = tmp_path_factory.mktemp("toy_videos")
    make_toy_videos(folder, num_train=128, num_test=16, seed=0)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[:2]))
def test_a_benchmark_prints_a_page(command, videos, tiny_model, run_example, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    VJEPAVideoProcessor(crop_size=32, num_frames=4).save_pretrained(tmp_path / "model")
    paths = {"videos": videos, "video": next((videos / "train").glob("*.mp4"))}
    paths |= {"model": tmp_path / "model", "folder": tmp_path}
    script, *words = command.format(**paths).split()
    page = run_example("python", BENCHMARKS / script, *words, timeout=900).stdout
    assert f"\n`python benchmarks/{script}" in f"\n{page}" and ", vjepa_hf " in page
    assert "\n| --- |" in page


def test_every_benchmark_is_tried():
    tried = {command.split(".py")[0] for command in COMMANDS} | {"parity"}
    assert tried == {path.stem for path in BENCHMARKS.glob("*.py")} - HELPERS


def test_a_step_without_memory_is_a_row_and_the_other_ways_go_on(benchmark, monkeypatch):
    step = benchmark("step")
    job = step.Job("vit_tiny", 1, 32, 4, 1, "cpu", None)

    def no_memory(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, "our_step", no_memory)
    here, there = multiprocessing.Pipe()
    step.work(job, step.OURS[0], there)
    assert here.recv() is None
    full = step.Record(step.OURS[0], out_of_memory=True)
    fits = step.Record(step.OURS[2], losses=[1.0, 1.0], seconds=[2.0], memory=3.0)
    full_first, fits_first = (list(step.rows(job, pair, {True: 1e12})) for pair in ([full, fits], [fits, full]))
    assert full_first[0] == fits_first[1] == ["fp32", "out of memory", *[""] * 6]
    assert full_first[1][:4] == ["bf16", "2", "", "0.50"] and fits_first[0][2] == "1.00 (1.00 to 1.00)"
    assert "of the peak" not in fits_first[0][4]
    monkeypatch.setattr(step, "processor_name", lambda: "NVIDIA H200")
    assert "% of the peak)" in next(step.rows(job, [fits], {True: 1e12}))[4]


def test_recorded_numbers_make_a_table(benchmark, shared, monkeypatch):
    parity = benchmark("parity")
    monkeypatch.setattr(parity, "DTYPES", {"float32": parity.DTYPES["float32"]})
    monkeypatch.setattr(parity, "ATTENTION", ("sdpa",))
    rows = [line.split(" | ") for line in parity.recorded_table(shared / "fixtures")[4:]]
    assert len(rows) == 9
    assert all(float(cells[1].split(" / ")[0]) < parity.BOUND for cells in rows)


def test_a_page_names_command_method_machine_and_commit(benchmark):
    report = benchmark("report")
    page = "\n".join(report.opening("Speed", "speed.py", "Title.\n\n    Ours next\n    to theirs.\n    ", "PyAV 17"))
    assert page.startswith("# Speed\n\n`python benchmarks/speed.py`: Ours next to theirs.\n\ntorch ")
    assert f"vjepa_hf {report.COMMIT}" in page and ", PyAV 17, " in page and "thread(s)" in page


def test_no_page_is_written_from_uncommitted_code(benchmark, tmp_path):
    report = benchmark("report")

    def git(*words: str) -> None:
        identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "results").mkdir()
    (tmp_path / "step.py").write_text("1")
    git("add", "-A")
    git("commit", "-m", "a step")
    (tmp_path / "results" / "step.md").write_text("a page of another benchmark is not code")
    report.HERE = tmp_path
    assert report.refuse_uncommitted_code(tmp_path / "page.md") == tmp_path / "page.md"
    (tmp_path / "step.py").write_text("2")
    assert report.refuse_uncommitted_code(None) is None
    with pytest.raises(typer.BadParameter, match="commit these changes first(.|\n)*step.py"):
        report.refuse_uncommitted_code(tmp_path / "page.md")


def test_encoder_flops_are_those_that_torch_counts(benchmark, tiny_config):
    videomae = benchmark("videomae")
    tiny_config.num_frames = 4
    masks = {"context_masks": [torch.arange(8).repeat(2, 1)], "target_masks": [torch.arange(8, 32).repeat(2, 1)]}
    batch = masks | {"pixel_values_videos": torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    for model, encoders in (
        (videomae.new_videomae(tiny_config), ["videomae"]),
        (VJEPAForPreTraining(tiny_config), ["context_encoder", "vjepa.encoder"]),
    ):
        # The math backend, because PyTorch < 2.15 does not count fused attention on the CPU.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            videomae.training_outputs(model, batch).loss.backward()
        counts = counter.get_flop_counts()
        counted = sum(sum(counts[f"{type(model).__name__}.{encoder}"].values()) for encoder in encoders)
        assert videomae.encoder_flops(tiny_config, [batch], predicts_pixels=len(encoders) == 1) == counted
