"""Every benchmark runs at its smallest setting and prints a page, and no page is written from uncommitted code.

pytest tests/repository/test_benchmarks.py
"""

import ast
import importlib
import multiprocessing
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from house import REPO, dotted, functions, sources
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
    "inference.py surprise --timed toy --rounds 2",
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


def page_commands(scripts: dict[str, str]) -> set[str]:
    """The commands that write a page: `data.py masks`, or `step.py` for a script with one command and no callback."""
    commands = set()
    for file, text in scripts.items():
        calls = [(node.name, call) for node in functions(text) for call in node.decorator_list]
        kinds = {name: dotted(call.func) for name, call in calls if isinstance(call, ast.Call) and not call.keywords}
        names = {name for name, kind in kinds.items() if kind == "app.command"}
        has_names = len(names) > 1 or "app.callback" in kinds.values()
        commands |= {f"{Path(file).name} {name}" if has_names else Path(file).name for name in names}
    return commands


def page_violation(name: str, page: str, commands: set[str]) -> str | None:
    """What is wrong with the command that a page of results names."""
    command = re.search(r"^`python benchmarks/(\w+\.py(?: \w+)?)", page, re.MULTILINE)
    if not command or command[1] not in commands:
        return f"{name}: {command and command[1]} is not a command"
    if name != command[1].replace(".py", "").replace(" ", "_"):
        return f"{name}: the name of the page is not that of its command, {command[1]}"
    return None


def commit_of(page: str) -> str | None:
    """The commit that a page was written at; None if there was none, or code was not committed."""
    found = re.search(r", vjepa_hf ([0-9a-f]{7,40})$", page, re.MULTILINE)
    return found and found[1]


def result_pages() -> dict[str, str]:
    return {Path(file).stem: text for file, text in sources("benchmarks/results/*.md").items()}


def test_every_page_is_written_by_a_command_of_today():
    commands = page_commands(sources("benchmarks/*.py"))
    found = {name: page_violation(name, page, commands) for name, page in result_pages().items()}
    assert {name: text for name, text in found.items() if text} == {}


def test_every_page_is_written_at_a_commit_of_the_history():
    def git(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", "-C", REPO, *words], capture_output=True, text=True)

    commits = {name: commit_of(page) for name, page in result_pages().items()}
    assert [name for name, commit in commits.items() if commit is None] == []
    if git("rev-parse", "--is-shallow-repository").stdout != "false\n":
        pytest.skip("only a full git clone knows the commits; this is a shallow one, or an unpacked archive")
    strays = {
        name for name, commit in commits.items() if git("merge-base", "--is-ancestor", str(commit), "HEAD").returncode
    }
    assert strays == set(), "pages whose commit is not in the history"


def test_page_rules_catch_a_violation():
    scripts = {"benchmarks/a.py": "@app.command()\ndef run(): pass\n@app.command()\ndef draw(): pass"}
    one = "@app.command()\ndef one(): pass\n@app.command(hidden=True)\ndef helper(): pass"
    scripts |= {"benchmarks/b.py": one, "benchmarks/c.py": f"@app.callback()\ndef main(): pass\n{one}"}
    commands = page_commands(scripts)
    assert commands == {"a.py run", "a.py draw", "b.py", "c.py one"}
    page = "# A\n\n`python benchmarks/a.py run`: ...\n\ntorch 2, vjepa_hf 1234567\n"
    assert page_violation("a_run", page, commands) is None
    assert page_violation("b", page.replace("a.py run", "b.py"), commands) is None
    for name, text in (
        ("a_run", page.replace("a.py run", "a.py fly")),
        ("a_run", page.replace("a.py run", "a.py")),
        ("a_draw", page),
    ):
        assert page_violation(name, text, commands), (name, text)
    assert commit_of(page) == "1234567" and commit_of(page.replace("1234567", "1234567-dirty")) is None


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
    for folder in ("results", "benchmarks", "studies"):
        (tmp_path / folder).mkdir()
    (tmp_path / "step.py").write_text("1")
    git("add", "-A")
    git("commit", "-m", "a step")
    (tmp_path / "results" / "step.md").write_text("a page of another benchmark is not code")
    (tmp_path / "studies" / "results.md").write_text("nor is a page outside the folder of the benchmarks")
    report.HERE = tmp_path / "benchmarks"
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
