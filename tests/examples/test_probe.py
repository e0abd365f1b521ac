"""`examples/probe.py` called as a function: what its options do to the files it leaves.

pytest tests/examples/test_probe.py
"""

import functools
import json
import re
import shlex
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from transformers import pipeline
from typer.testing import CliRunner

import classify_video
import probe
from house import REPO
from vjepa_hf import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.data.clips import load_videos

BASE = {"label": "side", "epochs": 2, "num_workers": 0}


@pytest.fixture
def model(tiny_pretraining_model, tmp_path) -> str:
    tiny_pretraining_model.save_pretrained(tmp_path / "model")
    VJEPAVideoProcessor(crop_size=32, num_frames=4, patch_size=8, frame_step=2).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def run(model: str, *lists: Path, **options) -> dict:
    with torch.random.fork_rng(devices=[]):
        probe.main(model, *lists, **BASE | options)
    return json.loads((options["output"] / "result.json").read_text())


def test_a_sweep_leaves_one_classifier_its_score_and_what_it_confuses(model, lists, tmp_path):
    rates = {"learning_rate": [1e-3, 1e-4], "weight_decay": [0.0, 0.1], "num_pooler_layers": 4}
    result = run(model, *lists, output=tmp_path / "probe", **rates)
    assert result["learning_rate"] in rates["learning_rate"] and result["weight_decay"] in rates["weight_decay"]
    assert 0 <= result["validation_accuracy"] <= 1
    assert result["top_1_interval"][0] <= result["top_1_accuracy"] <= result["top_1_interval"][1]
    assert set(result["per_class"]) == {"left", "right"} and result["num_samples"] == 8
    left = {path.name for path in (tmp_path / "probe").iterdir()}
    assert {"config.json", "model.safetensors", "confusion.csv", "confusion.png", "result.json"} <= left
    assert "features" not in left
    classifier = VJEPAForVideoClassification.from_pretrained(tmp_path / "probe")
    assert classifier.config.num_pooler_layers == 4
    encoder = VJEPAForPreTraining.from_pretrained(model).vjepa.encoder.state_dict()
    assert all(torch.equal(encoder[name], value) for name, value in classifier.vjepa.encoder.state_dict().items())


def test_a_low_shot_table_has_mean_and_spread_and_reads_each_video_once(model, lists, tmp_path):
    kept = {"features": tmp_path / "kept", "label_share": [0.25, 0.5], "splits": 2}
    result = run(model, *lists, output=tmp_path / "probe", **kept)
    assert {name: summary["splits"] for name, summary in result["summary"].items()} == {"25 %": 2, "50 %": 2}
    assert [record["train_videos"] for record in result["probes"]] == [4, 4, 8, 8]
    assert len({record["seed"] for record in result["probes"]}) == 2
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.safetensors")}
    assert len(made) == 2
    again = run(model, *lists, output=tmp_path / "probe", **kept)
    assert again == result and made == {path: path.stat().st_mtime_ns for path in made}


def test_testing_a_classifier_again_gives_the_score_of_its_probe(model, lists, tmp_path, capsys):
    several = {"num_clips": 2, "num_crops": 3}
    result = run(model, *lists, output=tmp_path / "probe", **several)
    weights = (tmp_path / "probe" / "model.safetensors").read_bytes()
    again = run(str(tmp_path / "probe"), evaluate=lists[1], output=tmp_path / "again")
    assert {name: again[name] for name in again if name != "random_init"}.items() <= result.items()
    assert not (tmp_path / "again" / "model.safetensors").exists()
    assert (tmp_path / "probe" / "model.safetensors").read_bytes() == weights
    classify = pipeline("video-classification", model=str(tmp_path / "probe"))
    assert classify.video_processor.num_clips == 2 and classify.video_processor.num_crops == 3
    video = load_videos(lists[1])["video"][0]
    classify_video.main(str(tmp_path / "probe"), [video], num_crops=1)
    processor = VJEPAVideoProcessor.from_pretrained(tmp_path / "probe", num_crops=1)
    best = pipeline("video-classification", model=str(tmp_path / "probe"), video_processor=processor)(video)[0]
    assert f"{best['score']:.3f}  {best['label']}" in capsys.readouterr().out


@pytest.mark.parametrize("from_video", [False, True], ids=["kept", "from video"])
def test_a_probe_may_attend_across_augmented_clips(model, lists, tmp_path, from_video):
    options = {"num_clips": 2, "attend_across_clips": True, "augment": "crop", "augmented_views": 2}
    run(model, *lists, output=tmp_path / "probe", from_video=from_video, **options)
    assert VJEPAForVideoClassification.from_pretrained(tmp_path / "probe").config.pooler_num_clips == 2
    answers = pipeline("video-classification", model=str(tmp_path / "probe"))(load_videos(lists[1])["video"][0])
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)


def test_class_names_come_from_folders(model, lists, toy_videos, tmp_path):
    for split in ("train", "test"):
        for number, path in enumerate(sorted((toy_videos / split).glob("*.mp4"))[:6]):
            folder = tmp_path / split / ("hop", "skip", "jump")[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).symlink_to(path)
    run(model, tmp_path / "train", tmp_path / "test", output=tmp_path / "probe", label="label")
    config = VJEPAForVideoClassification.from_pretrained(tmp_path / "probe").config
    assert config.id2label == {0: "hop", 1: "jump", 2: "skip"}


def test_unreadable_videos_are_told_and_left_out(model, lists, tmp_path, capsys):
    (tmp_path / "test.csv").write_text(lists[1].read_text() + f"{tmp_path / 'gone.mp4'},left\n")
    result = run(model, lists[0], tmp_path / "test.csv", output=tmp_path / "probe")
    assert (result["test_videos"], result["unreadable_test_videos"], result["num_samples"]) == (9, 1, 8)
    assert re.search("left out .*gone.mp4", capsys.readouterr().out)


@pytest.mark.parametrize("num_frames", [None, 2], ids=["all frames", "two"])
def test_folders_of_images_are_probed_as_still_clips(model, tmp_path, num_frames):
    generator = np.random.default_rng(0)
    for split, color in product(("train", "test"), ("dark", "light")):
        for number in range(4):
            pixels = generator.integers(0, 60, (40, 40, 3), dtype=np.uint8) + (150 if color == "light" else 0)
            (tmp_path / split / color).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / color / f"{number}.png")
    more = {"images": True, "label": "label", "epochs": 30, "num_frames": num_frames}
    result = run(model, tmp_path / "train", tmp_path / "test", output=tmp_path / "probe", **more)
    assert result["top_1_accuracy"] == 1.0
    config = VJEPAForVideoClassification.from_pretrained(tmp_path / "probe").config
    assert config.num_frames == (num_frames or 4)
    classify = pipeline("video-classification", model=str(tmp_path / "probe"))
    assert classify(Image.open(tmp_path / "test" / "light" / "0.png"))[0]["label"] == "light"


def commands_of(page: str) -> list[list[str]]:
    """Arguments of every `examples/probe.py` in the shell blocks of a page."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line.split("examples/probe.py", 1)[1]) for line in blocks.splitlines() if "probe.py" in line]


def refused(commands: list[list[str]]) -> list[str]:
    """What the command line of the example does not take, in words."""

    @functools.wraps(probe.main)
    def parsed_only(*args, **kwargs) -> None:
        pass

    app = typer.Typer()
    app.command()(parsed_only)
    results = [CliRunner().invoke(app, words) for words in commands]
    return [result.output for result in results if result.exit_code]


def test_every_command_on_the_pages_is_understood():
    pages = [REPO / "README.md", REPO / "docs" / "probing.md", REPO / "examples" / "README.md"]
    commands = [words for page in pages for words in commands_of(page.read_text())]
    protocols = re.findall(r"^\|.*\| `(--[^|]*|the same.*)`", (REPO / "docs" / "probing.md").read_text(), re.MULTILINE)
    commands += [["MODEL", *shlex.split(part)] for row in protocols for part in row.split("`")[::2] if "--" in part]
    assert len(commands) > 15
    assert refused(commands) == []


def test_commands_catch_a_violation():
    assert len(refused([["MODEL", "--clips", "8"], ["MODEL", "--epochs", "many"], []])) == 3
    assert commands_of("```bash\npython examples/probe.py A \\\n    --b 1\n```") == [["A", "--b", "1"]]
