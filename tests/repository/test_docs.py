"""The code on the pages runs, in the order in which a reader meets it, and our parsers understand the commands."""

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

import classify_video
import detect_actions
import draw_predictions
import finetune
import make_toy_actions
import make_toy_videos
import probe
import vjepa_hf
from house import REPO, sources
from space import app as space_app
from vjepa_hf import VJEPAVideoProcessor, cli
from vjepa_hf.training.arguments import parse, parse_arguments, shipped_configs
from vjepa_hf.training.diagnostics import ALARMS, health


def python_blocks(page: str) -> str:
    """All Python of a page as one program, on the lines where the page has it, so that errors point into the page."""
    lines, inside = [], False
    for line in page.splitlines():
        opens, closes = line == "```python", line == "```"
        lines.append(line if inside and not closes else "")
        inside = opens or inside and not closes
    return "\n".join(lines)


def pages_not_run(pages: dict[str, str], tests: str) -> list[str]:
    """Pages with Python that no test reads by name."""
    return [
        page for page, text in pages.items() if python_blocks(text).strip() and f'"{Path(page).name}"' not in tests
    ]


def test_the_python_of_every_page_is_run_by_a_test():
    pages = sources("README.md", "CONTRIBUTING.md", "docs/**/*.md", "examples/README.md")
    assert pages_not_run(pages, "".join(sources("tests/**/test_*.py").values())) == []


def test_pages_not_run_catch_a_violation():
    page = {"docs/a.md": "```python\nx = 1\n```"}
    assert pages_not_run(page, 'open("a.md")') == [] and pages_not_run({"docs/a.md": "text"}, "") == []
    assert pages_not_run(page, "") == ["docs/a.md"]


def test_walk_of_one_clip_runs_and_has_the_shapes_it_claims(toy_video_path, tmp_path):
    page = REPO / "docs" / "index.md"
    program = python_blocks(page.read_text())
    assert program.count("assert") > 8
    exec(compile(program, page, "exec"), {"video": toy_video_path, "folder": tmp_path})


def test_first_code_of_the_readme_runs(tiny_pretraining_model, toy_video_path, tmp_path):
    tiny_pretraining_model.save_pretrained(tmp_path)
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1).save_pretrained(tmp_path)
    program = re.search(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)[1]
    paths = f"{str(tmp_path)!r}, {str(toy_video_path)!r}"
    names = {}
    exec(program.replace('"models/vitl16", "my_video.mp4"', paths), names)
    assert names["features"].shape == (1, 32, 48)


def test_code_of_the_quickstart_runs(tiny_pretraining_model, tiny_classifier, toy_video_path, tmp_path):
    for model, name in ((tiny_pretraining_model, "model"), (tiny_classifier, "probe")):
        model.save_pretrained(tmp_path / name)
        VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1).save_pretrained(tmp_path / name)
    page = REPO / "docs" / "quickstart.md"
    program = python_blocks(page.read_text())
    paths = {"output/mine": "model", "output/probe": "probe"}
    for path, name in paths.items():
        assert f'"{path}"' in program
        program = program.replace(f'"{path}"', repr(str(tmp_path / name)))
    names = {}
    exec(compile(program.replace('"my_video.mp4"', repr(str(toy_video_path))), page, "exec"), names)
    assert names["features"].shape[-1] == vjepa_hf.VJEPAConfig.from_pretrained(vjepa_hf.tiny_checkpoint()).hidden_size


def test_quickstart_reaches_features_in_three_lines():
    program = python_blocks((REPO / "docs" / "quickstart.md").read_text())
    assert re.search(r"^folder, video = .*\n\n(?:\w+ = .*\n){2}features = .*$", program, re.MULTILINE)


def test_code_about_sharing_runs(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    page = REPO / "docs" / "sharing.md"
    names = {"folder": tmp_path}
    exec(compile(python_blocks(page.read_text()), page, "exec"), names)
    assert type(names["model"]) is type(tiny_model)


def test_code_about_data_runs(toy_videos, toy_video_path):
    page = REPO / "docs" / "data.md"
    program = python_blocks(page.read_text())
    assert "assert" in program
    exec(compile(program, page, "exec"), {"folder": toy_videos / "train", "video": toy_video_path})


def test_code_about_detection_runs(toy_video_path, tiny_pretraining_model, tmp_path):
    from vjepa_hf import VJEPAVideoProcessor

    tiny_pretraining_model.save_pretrained(tmp_path)
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2).save_pretrained(tmp_path)
    page = REPO / "docs" / "detection.md"
    program = python_blocks(page.read_text())
    assert program.count("assert") > 3
    exec(compile(program, page, "exec"), {"folder": tmp_path, "video": str(toy_video_path)})


def test_walk_catches_a_wrong_shape(toy_video_path, tmp_path):
    program = python_blocks((REPO / "docs" / "index.md").read_text())
    wrong = re.sub(r"\(1, 256, 96\)", "(1, 255, 96)", program)
    assert wrong != program
    with pytest.raises(AssertionError):
        exec(compile(wrong, "wrong", "exec"), {"video": toy_video_path, "folder": tmp_path})


def accuracy_rows(page: str) -> dict[str, list[str]]:
    """Return "encoder, seed or mean" -> motion and appearance, of a page's table."""
    rows = re.findall(r"^\| (\w+) \| (\d|mean) \| (\d\.\d{3})[^|]* \| (\d\.\d{3})[^|]* \|$", page, re.MULTILINE)
    return {f"{encoder}, {seed}": accuracies for encoder, seed, *accuracies in rows}


def test_readme_and_recipe_report_the_measured_accuracies():
    measured = accuracy_rows((REPO / "benchmarks" / "results" / "learning_probes.md").read_text())
    assert {"pretrained, 0", "pretrained, 1", "pretrained, 2", "untrained, mean", "VideoMAE, mean"} <= set(measured)
    assert accuracy_rows((REPO / "docs" / "recipe.md").read_text()) == measured
    readme = " ".join((REPO / "README.md").read_text().split())
    reported = re.findall(r"(\d+) % of the test videos, and with an untrained encoder in (\d+) %", readme)
    pretrained, untrained = (measured[f"{encoder}, mean"] for encoder in ("pretrained", "untrained"))
    assert reported == [(f"{100 * float(pretrained[0]):.0f}", f"{100 * float(untrained[0]):.0f}")]
    assert float(pretrained[0]) - float(untrained[0]) > 0.15 and float(pretrained[1]) >= float(untrained[1])


def test_code_about_health_runs():
    page = REPO / "docs" / "pretraining.md"
    program = python_blocks(page.read_text())
    assert program.count("assert") >= 2
    exec(compile(program, page, "exec"), {})


def table_rows(page: str) -> set[str]:
    return {line for line in page.splitlines() if line.startswith("|") and not line.startswith("| ---")}


def test_runs_that_collapse_are_reported_as_measured():
    page = (REPO / "docs" / "pretraining.md").read_text()
    measured = REPO / "benchmarks" / "results" / "collapse_runs.md"
    reported = {row for row in table_rows(page) if row.startswith(("| V-JEPA", "| naive", "| hasty"))}
    reported |= {row for row in table_rows(page) if re.search(r"never \||from step \d+ \|", row)}
    assert len(reported) == 9 + len(ALARMS)
    assert reported <= table_rows(measured.read_text())
    healthy = [row for row in reported if row.startswith("| V-JEPA")]
    assert all(row.endswith("| none |") for row in healthy)
    first = min(int(step) for step in re.findall(r"from step (\d+)", "".join(reported)))
    assert first < 200  # the end of the warm-up
    warned = re.search(r"warns\s+from\s+step\s+(\d+)\s+on", (REPO / "docs" / "recipe.md").read_text())[1]
    assert f"from step {warned} |" in next(row for row in reported if row.startswith("| constant-features"))


def test_every_alarm_is_explained_and_its_threshold_is_the_one_in_force():
    page = (REPO / "docs" / "pretraining.md").read_text()
    headings = re.findall(r"^### (.+)$", page, re.MULTILINE)
    assert headings == [alarm.name for alarm in ALARMS] + ["not-finite"]
    for alarm in ALARMS:
        side, limit = ("<", alarm.low) if alarm.high == float("inf") else (">", alarm.high)
        assert f"| {alarm.name} | {alarm.metric} {side} {limit:g} |" in page
    low = {alarm.metric: alarm.low for alarm in ALARMS}["target_std"]
    assert f"a `target_std` below {low} means that any two tokens have a cosine above {1 - low**2:g}" in " ".join(
        page.split()
    )


def test_every_health_metric_is_explained(tiny_pretraining_model, tiny_clip):
    masks = [torch.tensor([[0], [1]])], [torch.tensor([[16], [17]])]
    figures = health(tiny_pretraining_model, tiny_pretraining_model(tiny_clip, *masks), *masks)
    page = (REPO / "docs" / "pretraining.md").read_text()
    for name in figures:
        family = re.sub(r"^(context|prediction)_.*", r"\1_...", name)
        assert f"`{re.sub(r'time_1', 'time_0', family)}`" in page, name


def test_health_metrics_cost_less_than_a_percent():
    shares = re.findall(r"\| ([\d.]+)% \|", (REPO / "benchmarks" / "results" / "collapse_health_cost.md").read_text())
    assert len(shares) == 2 and all(0 < float(share) < 1 for share in shares)


def test_code_about_probing_runs(tiny_model, tiny_classifier, toy_video_path, tmp_path):
    for model, name in ((tiny_model, "model"), (tiny_classifier, "probe")):
        model.save_pretrained(tmp_path / name)
        VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1).save_pretrained(tmp_path / name)
    page = REPO / "docs" / "probing.md"
    program = python_blocks(page.read_text())
    assert program.count("assert") >= 3
    names = {"folder": tmp_path / "model", "probe": str(tmp_path / "probe"), "video": str(toy_video_path)}
    exec(compile(program, page, "exec"), names | {"image": Image.new("RGB", (40, 40))})


def test_code_about_embedding_runs(tiny_model, toy_videos, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1).save_pretrained(tmp_path / "model")
    page = REPO / "docs" / "embedding.md"
    videos = sorted(str(path) for path in toy_videos.rglob("*.mp4"))
    names = {"model": str(tmp_path / "model"), "videos": videos, "output": tmp_path / "table.parquet"}
    programs = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert len(programs) == 4
    for program in programs:
        optional = re.search(r"^(?:import|from) (faiss|sentence_transformers)\b", program, re.MULTILINE)
        if optional is None or importlib.util.find_spec(optional[1]):
            exec(compile(program, page, "exec"), names)


def test_code_about_looking_runs(tiny_pretraining_model, toy_video_path, tmp_path):
    tiny_pretraining_model.save_pretrained(tmp_path / "model")
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1).save_pretrained(tmp_path / "model")
    page = REPO / "docs" / "look.md"
    names = {"folder": tmp_path / "model", "video": str(toy_video_path), "output": tmp_path / "look.html"}
    exec(compile(python_blocks(page.read_text()), page, "exec"), names)
    assert (tmp_path / "look.html").exists()


def numbers_without_a_source(page: str, results: str) -> list[str]:
    """Decimal fractions of a page, outside its code, that no page of results has."""
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    return [number for number in re.findall(r"\b\d+\.\d+\b", prose) if number not in re.findall(r"\d+\.\d+", results)]


def pages_in_history(page: str) -> str:
    """The results pages of the commit that a page names as `git show COMMIT:benchmarks/results/PAGE.md`."""
    commit = re.search(r"`git show ([0-9a-f]{7,}):benchmarks/results/\w+\.md`", page)[1]
    command = ["git", "-C", REPO, "grep", "-h", "", commit, "--", "benchmarks/results/*.md"]
    pages = subprocess.run(command, capture_output=True, text=True)
    if pages.returncode:
        pytest.skip(f"the history of this checkout does not contain {commit}, where the pages of old scripts are")
    return pages.stdout


def test_figures_about_speed_stand_in_the_results():
    page = (REPO / "docs" / "performance.md").read_text()
    today, history = page.split("## What was tried")
    names = ("step", "inference_clips", "inference_rotation")
    results = "".join((REPO / "benchmarks" / "results" / f"{name}.md").read_text() for name in names)
    assert numbers_without_a_source(today, results) == []
    assert numbers_without_a_source(history, results + pages_in_history(page)) == []


def test_figures_about_speed_catch_a_number_without_a_source():
    assert numbers_without_a_source("It is 1.23 times as fast.", "| 1.23 |") == []
    assert numbers_without_a_source("It is 1.24 times as fast.", "| 1.23 | 11.24 |") == ["1.24"]


def test_code_about_performance_runs():
    program = python_blocks((REPO / "docs" / "performance.md").read_text())
    assert program.count("assert") > 1
    exec(compile(program, "performance.md", "exec"), {})


def test_the_loss_that_rises_is_reported_as_measured():
    page = (REPO / "docs" / "pretraining.md").read_text()
    measured = table_rows((REPO / "benchmarks" / "results" / "reliability_training.md").read_text())
    reported = [row for row in page.splitlines() if re.match(r"\| \d+ \| 0\.\d{3} \|", row)]
    assert len(reported) == 4 and set(reported) <= measured
    rows = {int(row.split("|")[1]): [float(cell) for cell in row.split("|")[2:5]] for row in reported}
    begin, end = map(int, re.search(r"from step (\d+)\s+to step (\d+)\s+the loss rises", page).groups())
    loss, std, ratio = (after / before for before, after in zip(rows[begin], rows[end], strict=True))
    assert loss > 1 and std > 1 and std > ratio
    later = [rows[step] for step in sorted(rows) if step >= end]
    assert all(list(column) == sorted(column, reverse=True) for column in zip(*later, strict=True))


def test_memory_and_descriptors_of_the_soak_are_flat():
    page = (REPO / "benchmarks" / "results" / "reliability_training.md").read_text()
    rows = re.findall(r"^\| (?:MiB|open) [^|]*\| ([\d.]+) \| ([\d.]+) \|", page, re.MULTILINE)
    assert len(rows) >= 3
    assert all(float(last) <= 1.02 * float(first) for first, last in rows)


# --- command lines ---

SCRIPTS = {
    "pretrain": lambda words: parse_arguments(words, REPO / "examples" / "configs" / "tiny_cpu.yaml"),
    "probe": lambda words: parse(probe.ProbeArguments, words),
    "finetune": lambda words: parse(finetune.FinetuningArguments, words),
    "detect_actions": lambda words: parse(detect_actions.DetectionArguments, words),
    "classify_video": lambda words: parse(classify_video.ClassifyArguments, words),
    "draw_predictions": lambda words: parse(draw_predictions.DrawingArguments, words),
    "space.app": lambda words: parse(space_app.DemoArguments, words),
    "make_toy_videos": lambda words: parse(make_toy_videos.ToyVideosArguments, words),
    "make_toy_actions": lambda words: parse(make_toy_actions.ToyActionsArguments, words),
}


def check_vjepa_hf(words: list[str]) -> None:
    """Check the options of a `vjepa-hf` command: they have underscores on the pages, although dashes work too."""
    if words[0] in cli.SCRIPTS:
        SCRIPTS[cli.SCRIPTS[words[0]][0]](words[1:])
        return
    command = typer.main.get_command(cli.app).commands[words[0]]
    known = {"--help"}.union(*(parameter.opts + parameter.secondary_opts for parameter in command.params))
    if unknown := [word for word in words[1:] if word.startswith("-") and word not in known]:
        raise ValueError(f"unknown {unknown}")


def command_lines(page: str) -> list[tuple[str, str]]:
    """Programs and options of all calls of our scripts and of `vjepa-hf`, in code blocks and between backticks."""
    page = re.sub(r"\\\n\s*", "", page)
    lines = re.findall(r"`([^`\n]+)`", page) + re.findall(r"^ {4}(\S.*)$", page, re.MULTILINE)
    for block in re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        lines += block.splitlines()
    script = r"(?:python|accelerate launch|torchrun)\b.* (?:examples/(\w+)\.py|-m vjepa_hf\.examples\.(\w+))"
    program = re.compile(rf"(?:{script}|(vjepa-hf) (?=[a-z]))(.*)")
    calls = (call.groups() for line in lines if (call := program.match(line)))
    return [(path or module or command, options) for path, module, command, options in calls]


def refused_commands(pages: dict[str, str]) -> list[str]:
    """Command lines of pages that our parsers refuse. What needs a file of the user is not checked."""
    configs = "|".join(shipped_configs())
    needs_files = (
        rf"\$steps|\.\.\.|--config (?!examples/|(?:{configs})\b)\S+|--resume\b(?!_)(?: true)?|--resume_from_hub \S+"
    )
    refused = []
    for page, (program, options) in ((page, call) for page, text in pages.items() for call in command_lines(text)):
        words = shlex.split(re.sub(needs_files, "", options), comments=True)
        words = [str(REPO / word) if word.startswith("examples/") else word for word in words]
        try:
            check_vjepa_hf(words) if program == "vjepa-hf" else SCRIPTS[program](words)
        except (ValueError, KeyError) as error:
            refused.append(f"{page}: {program} {options}: {error}")
    return refused


def test_every_command_on_the_pages_is_understood():
    pages = sources("README.md", "CONTRIBUTING.md", "docs/*.md", "examples/README.md", "examples/*.py")
    assert sum(len(command_lines(text)) for text in pages.values()) > 50
    assert refused_commands(pages) == []


def test_the_examples_in_the_help_are_understood():
    commands = typer.main.get_command(cli.app).commands
    examples = [f"vjepa-hf {command} {script[2]}" for command, script in cli.SCRIPTS.items()]
    examples += [commands[name].epilog.removeprefix("Example: ") for name in commands.keys() - cli.SCRIPTS.keys()]
    assert len(examples) == len(commands)
    assert refused_commands({"help": "".join(f"`{example}`\n" for example in examples)}) == []


def test_commands_catch_a_violation():
    good = (
        "```bash\naccelerate launch --num_processes 2 examples/pretrain.py --model.hidden_size 48 \\\n --resume\n```"
    )
    good += "\n    python examples/probe.py --label a  # b\n\n`vjepa-hf check-data LIST --num_workers 2`"
    good += "\n\n`vjepa-hf finetune --label b` `accelerate launch -m vjepa_hf.examples.pretrain --config vitl16`"
    assert len(command_lines(good)) == 5 and refused_commands({"x": good}) == []
    for before, after in (
        ("--model.hidden_size 48", "--hidden_size 48"),
        ("--label a", "--labels a"),
        ("--num_workers", "--num-workers"),
        ("check-data", "check"),
        ("probe.py", "judge.py"),
        ("finetune --label b", "finetune --labels b"),
        ("finetune", "tune"),
        ("examples.pretrain", "examples.train"),
        ("vitl16", "vitl16 --unknown 1"),
    ):
        assert len(refused_commands({"x": good.replace(before, after)})) == 1, after


def test_run_file_on_the_page_is_understood(tmp_path):
    block = re.search(r"```yaml\n(.*?)```", (REPO / "docs" / "pretraining.md").read_text(), re.DOTALL)[1]
    (tmp_path / "run.yaml").write_text(block)
    assert len(parse_arguments(["--config", str(tmp_path / "run.yaml")]).masking.masks) > 1
