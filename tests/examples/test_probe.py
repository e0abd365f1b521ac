"""examples/probe.py in this process: its options, and the files that it writes.

pytest tests/examples/test_probe.py
"""

import json
import re
import shlex
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import pipeline

import classify_video
import probe
from house import REPO
from vjepa_hf import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.data.sources import load_videos
from vjepa_hf.training.arguments import parse

BASE = {"label": "side", "epochs": 2, "num_workers": 0}


@pytest.fixture
def model(tiny_pretraining_model, tmp_path) -> str:
    tiny_pretraining_model.save_pretrained(tmp_path / "model")
    VJEPAVideoProcessor(crop_size=32, num_frames=4, patch_size=8, frame_step=2).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def words(options: dict) -> list[str]:
    """Return the command line of options; the value True is omitted."""
    command_line = []
    for name, value in options.items():
        values = [] if value is True else value if isinstance(value, list) else [value]
        command_line += [f"--{name}", *map(str, values)]
    return command_line


def run(model: str, *lists: Path, **options) -> dict:
    sources = dict(zip(("train_videos", "test_videos"), lists, strict=True)) if lists else {}
    with torch.random.fork_rng(devices=[]):
        probe.main(words({"model": model} | sources | BASE | options))
    return json.loads((options["output_dir"] / "result.json").read_text())


@pytest.mark.parametrize(
    ("line", "epochs", "min_steps"),
    [([], 50, 300), (["--epochs", "2"], 2, 0), (["--min_steps", "40"], 50, 40), (["--min_steps", "0"], 50, 0)],
)
def test_a_probe_has_enough_steps_for_a_few_videos_unless_told_otherwise(line, epochs, min_steps):
    args = parse(probe.ProbeArguments, line)
    assert (args.epochs, args.min_steps) == (epochs, min_steps)


def test_a_sweep_writes_one_classifier_its_metrics_and_its_confusions(model, lists, tmp_path):
    rates = {"learning_rate": [1e-3, 1e-4], "weight_decay": [0.0, 0.1], "num_pooler_layers": 4}
    result = run(model, *lists, output_dir=tmp_path / "probe", **rates)
    assert result["learning_rate"] in rates["learning_rate"] and result["weight_decay"] in rates["weight_decay"]
    assert 0 <= result["validation_accuracy"] <= 1
    assert result["top_1_interval"][0] <= result["top_1_accuracy"] <= result["top_1_interval"][1]
    assert set(result["per_class"]) == {"left", "right"} and result["num_samples"] == 8
    files = {path.name for path in (tmp_path / "probe").iterdir()}
    assert {"config.json", "model.safetensors", "confusion.csv", "confusion.png", "result.json"} <= files
    (tmp_path / "new").touch()
    assert {path.stat().st_mode for path in (tmp_path / "probe").iterdir()} == {(tmp_path / "new").stat().st_mode}
    assert "features" not in files
    classifier = VJEPAForVideoClassification.from_pretrained(tmp_path / "probe")
    assert classifier.config.num_pooler_layers == 4
    encoder = VJEPAForPreTraining.from_pretrained(model).vjepa.encoder.state_dict()
    assert all(torch.equal(encoder[name], value) for name, value in classifier.vjepa.encoder.state_dict().items())


def test_a_low_shot_table_has_mean_and_std_and_encodes_each_video_once(model, lists, tmp_path):
    options = {"features_dir": tmp_path / "probe" / "features", "label_fraction": [0.25, 0.5], "splits": 2}
    result = run(model, *lists, output_dir=tmp_path / "probe", **options)
    assert {name: summary["splits"] for name, summary in result["summary"].items()} == {"25 %": 2, "50 %": 2}
    assert [record["train_videos"] for record in result["probes"]] == [4, 4, 8, 8]
    assert len({record["seed"] for record in result["probes"]}) == 2
    times = {path: path.stat().st_mtime_ns for path in options["features_dir"].rglob("*.safetensors")}
    assert len(times) == 2
    again = run(model, *lists, output_dir=tmp_path / "probe", **options)
    assert again == result and times == {path: path.stat().st_mtime_ns for path in times}


def test_evaluate_only_gives_the_metrics_of_the_probe(model, lists, tmp_path, capsys):
    views = {"num_clips": 2, "num_crops": 3}
    result = run(model, *lists, output_dir=tmp_path / "probe", **views)
    weights = (tmp_path / "probe" / "model.safetensors").read_bytes()
    again = run(str(tmp_path / "probe"), test_videos=lists[1], evaluate_only=True, output_dir=tmp_path / "again")
    assert {name: again[name] for name in again if name != "random_init"}.items() <= result.items()
    assert not (tmp_path / "again" / "model.safetensors").exists()
    assert (tmp_path / "probe" / "model.safetensors").read_bytes() == weights
    classify = pipeline("video-classification", model=str(tmp_path / "probe"))
    assert classify.video_processor.num_clips == 2 and classify.video_processor.num_crops == 3
    video = load_videos(lists[1])["video"][0]
    classify_video.main(["--model", str(tmp_path / "probe"), "--videos", video, "--num_crops", "1"])
    processor = VJEPAVideoProcessor.from_pretrained(tmp_path / "probe", num_crops=1)
    best = pipeline("video-classification", model=str(tmp_path / "probe"), video_processor=processor)(video)[0]
    assert f"{best['score']:.3f}  {best['label']}" in capsys.readouterr().out


def test_a_probe_of_several_layers_reads_them_in_training_and_evaluation(model, lists, tmp_path):
    options = {"pooler_layers": [0, 1], "num_clips": 2, "attend_across_clips": True}
    features = tmp_path / "features"
    result = run(model, *lists, output_dir=tmp_path / "probe", features_dir=features, **options)
    with safe_open(next((features / "test").glob("*.safetensors")), framework="pt") as tensors:
        assert tensors.get_slice("0").get_shape() == [2, 2 * 32, 48]
        assert tensors.metadata()["layers"] == "[0, 1]"
    folder = tmp_path / "probe"
    again = run(str(folder), test_videos=lists[1], evaluate_only=True, output_dir=tmp_path / "again")
    assert again["top_1_accuracy"] == result["top_1_accuracy"]
    classifier = VJEPAForVideoClassification.from_pretrained(folder).eval()
    assert classifier.config.pooler_layers == [0, 1]
    processor, table = VJEPAVideoProcessor.from_pretrained(folder), load_videos(lists[1])
    with torch.no_grad():
        logits = [classifier(**processor(video)).logits.argmax().item() for video in table["video"]]
    correct = [classifier.config.id2label[index] == side for index, side in zip(logits, table["side"], strict=True)]
    assert again["top_1_accuracy"] == pytest.approx(np.mean(correct))


def test_a_probe_reads_the_layers_of_the_models_configuration_unless_others_are_named(model, lists, tmp_path):
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"pooler_layers": [0, 1]}))
    for name, options, expected in (("kept", {}, [0, 1]), ("named", {"pooler_layers": [1]}, [1])):
        run(model, *lists, output_dir=tmp_path / name, **options)
        assert json.loads((tmp_path / name / "config.json").read_text())["pooler_layers"] == expected


def test_whoever_would_see_label_17_learns_how_to_name_the_classes(tiny_classifier, toy_video_path, tmp_path, capsys):
    tiny_classifier.save_pretrained(tmp_path / "model")
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1).save_pretrained(tmp_path / "model")
    command = ["--model", str(tmp_path / "model"), "--videos", str(toy_video_path)]
    classify_video.main(command)
    printed = capsys.readouterr()
    assert "LABEL_0" in printed.out
    assert "--class_names FILE" in printed.err and "facebookresearch/jepa/issues/18" in printed.err

    (tmp_path / "names.txt").write_text("walk\nrun\njump\n")
    classify_video.main([*command, "--class_names", str(tmp_path / "names.txt")])
    printed = capsys.readouterr()
    assert "jump" in printed.out and "LABEL_" not in printed.out and "--class_names" not in printed.err

    (tmp_path / "names.txt").write_text("walk\nrun\n")
    with pytest.raises(SystemExit):
        classify_video.main([*command, "--class_names", str(tmp_path / "names.txt")])
    assert "2 different names for 3 classes" in capsys.readouterr().err


@pytest.mark.parametrize("live", ["false", "true"])
def test_a_probe_may_attend_across_augmented_clips(model, lists, tmp_path, live):
    options = {"num_clips": 2, "attend_across_clips": True, "augment": "crop", "augmented_views": 2}
    run(model, *lists, output_dir=tmp_path / "probe", live_features=live, **options)
    assert VJEPAForVideoClassification.from_pretrained(tmp_path / "probe").config.pooler_num_clips == 2
    answers = pipeline("video-classification", model=str(tmp_path / "probe"))(load_videos(lists[1])["video"][0])
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)


def test_class_names_come_from_folders(model, lists, toy_videos, tmp_path):
    for split in ("train", "test"):
        for number, path in enumerate(sorted((toy_videos / split).glob("*.mp4"))[:6]):
            folder = tmp_path / split / ("hop", "skip", "jump")[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).symlink_to(path)
    run(model, tmp_path / "train", tmp_path / "test", output_dir=tmp_path / "probe", label="label")
    config = VJEPAForVideoClassification.from_pretrained(tmp_path / "probe").config
    assert config.id2label == {0: "hop", 1: "jump", 2: "skip"}


def test_unreadable_videos_are_reported_and_skipped(model, lists, tmp_path, capsys):
    (tmp_path / "test.csv").write_text(lists[1].read_text() + f"{tmp_path / 'gone.mp4'},left\n")
    result = run(model, lists[0], tmp_path / "test.csv", output_dir=tmp_path / "probe")
    assert (result["test_videos"], result["unreadable_test_videos"], result["num_samples"]) == (9, 1, 8)
    assert re.search("skipped .*gone.mp4: .*No such file", capsys.readouterr().out)


@pytest.mark.parametrize("num_frames", [None, 2], ids=["all frames", "two"])
def test_folders_of_images_are_probed_as_still_clips(model, tmp_path, num_frames):
    generator = np.random.default_rng(0)
    for split, color in product(("train", "test"), ("dark", "light")):
        for number in range(4):
            pixels = generator.integers(0, 60, (40, 40, 3), dtype=np.uint8) + (150 if color == "light" else 0)
            (tmp_path / split / color).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / color / f"{number}.png")
    more = {"images": True, "label": "label", "epochs": 30} | ({"num_frames": num_frames} if num_frames else {})
    result = run(model, tmp_path / "train", tmp_path / "test", output_dir=tmp_path / "probe", **more)
    assert result["top_1_accuracy"] == 1.0
    config = VJEPAForVideoClassification.from_pretrained(tmp_path / "probe").config
    assert config.num_frames == (num_frames or 4)
    classify = pipeline("video-classification", model=str(tmp_path / "probe"))
    assert classify(Image.open(tmp_path / "test" / "light" / "0.png"))[0]["label"] == "light"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"test_videos": "nowhere"}, "'nowhere' does not exist"),
        ({"label": "class"}, "train_videos has no column 'class' with labels, only video, side"),
        ({"label_fraction": [5]}, r"label fraction 5.0 must lie in (0, 1]"),
        ({"labels_per_class": 100}, "has 8 samples, fewer than 100 per class"),
        ({"model": "tests"}, "config.json"),
        ({"attend_across_clips": True}, "attend_across_clips needs num_clips"),
        ({"labels": 3}, "unknown option 'labels'; did you mean 'label'"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(model, lists, tmp_path, options, message, monkeypatch, capsys):
    chosen = {"model": model, "train_videos": lists[0], "test_videos": lists[1], "output_dir": tmp_path / "probe"}
    monkeypatch.setattr("sys.argv", ["probe.py", *words(chosen | BASE | options)])
    with pytest.raises(SystemExit) as stopped:
        probe.main()
    *_, line = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.startswith("probe.py: ") and message in line, line


# --- files of others ---


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_of(model: str, lists, capsys, **options) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(model, *lists, **options)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("live", ["false", "true"])
def test_nothing_is_removed_that_the_probe_did_not_make(model, lists, tmp_path, live):
    mine = tmp_path / "probe" / "features" / "train" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("weeks of work")
    run(model, *lists, output_dir=tmp_path / "probe", live_features=live)
    assert mine.read_text() == "weeks of work"
    assert [path.name for path in (tmp_path / "probe").iterdir() if path.is_dir()] == ["features"]


def test_named_features_are_kept_inside_the_output(model, lists, tmp_path):
    folder = tmp_path / "probe" / "features"
    for _ in range(2):
        run(model, *lists, output_dir=tmp_path / "probe", features_dir=folder)
        assert len(list(folder.rglob("*.safetensors"))) == 2


def full(*arguments, **options):
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_of_features_is_one_sentence_and_they_are_removed(
    model, lists, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(probe, "extract_features", full)
    assert "No space left" in error_of(model, lists, capsys, output_dir=tmp_path / "probe")
    assert not list((tmp_path / "probe").iterdir())


def test_an_error_in_training_keeps_its_traceback_and_leaves_no_features(model, lists, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise ValueError("a bug")

    monkeypatch.setattr(probe.probes, "fit_probe", broken)
    with pytest.raises(ValueError, match="a bug"):
        run(model, *lists, output_dir=tmp_path / "probe")
    assert not list((tmp_path / "probe").iterdir())


def test_a_list_without_a_readable_video_is_one_sentence(model, lists, tmp_path, capsys):
    (tmp_path / "test.csv").write_text(f"video,side\n{tmp_path / 'gone.mp4'},left\n")
    line = error_of(model, [lists[0], tmp_path / "test.csv"], capsys, output_dir=tmp_path / "probe")
    assert "none of the 1 test_videos can be read; the first: " in line and "gone.mp4" in line


def test_a_probe_that_cannot_be_saved_leaves_the_old_one_whole(model, lists, tmp_path, monkeypatch):
    run(model, *lists, output_dir=tmp_path / "probe")
    before = content(tmp_path / "probe")
    monkeypatch.setattr(VJEPAVideoProcessor, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        run(model, *lists, output_dir=tmp_path / "probe", learning_rate=0.1)
    assert content(tmp_path / "probe") == before


@pytest.mark.parametrize("evaluate_only", [False, True])
@pytest.mark.parametrize("files", [["config.json", "model.safetensors"], ["arguments.yaml"], ["result.json", "a.bin"]])
def test_a_folder_with_another_model_or_a_run_is_refused_and_untouched(
    model, lists, tmp_path, capsys, files, evaluate_only
):
    folder = tmp_path / "other"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}")
    before = content(folder)
    options = {"evaluate_only": True} if evaluate_only else {}
    line = error_of(model, lists, capsys, output_dir=folder, **options)
    assert "other' holds another model or a run; choose a new folder" in line
    assert content(folder) == before


def test_the_output_of_a_probe_may_be_replaced_by_the_next_one_but_not_by_another_model(
    model, lists, tmp_path, capsys
):
    run(model, *lists, output_dir=tmp_path / "probe")
    evaluated = {"model": str(tmp_path / "probe"), "evaluate_only": True, "output_dir": tmp_path / "probe"}
    run(evaluated.pop("model"), *lists, **evaluated)
    run(model, *lists, output_dir=tmp_path / "probe")
    (tmp_path / "probe" / "result.json").write_text('{"method": "lora"}')  # as examples/finetune.py writes
    assert "holds another model" in error_of(model, lists, capsys, output_dir=tmp_path / "probe")


def test_an_output_that_cannot_be_written_is_refused_before_the_work(model, lists, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(probe, "load_tables", None)  # the work
    (tmp_path / "file").touch()
    for options in ({"output_dir": tmp_path / "file"}, {"features_dir": tmp_path / "file" / "features"}):
        line = error_of(model, lists, capsys, **{"output_dir": tmp_path / "probe"} | options)
        assert "file" in line


def test_every_path_of_the_probe_may_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    names = ["model", "train_videos", "test_videos", "validation_videos", "features_dir", "output_dir"]
    args = parse(probe.ProbeArguments, [word for name in names for word in (f"--{name}", "~/x")])
    assert {getattr(args, name) for name in names} == {str(tmp_path / "x")}


def test_a_damaged_model_is_one_sentence(model, lists, tmp_path, capsys):
    (Path(model) / "config.json").write_text("[1]")
    for options in ({}, {"evaluate_only": True}):
        assert "cannot load model" in error_of(model, lists, capsys, output_dir=tmp_path / "probe", **options)


# --- commands of the pages ---


def commands_of(page: str) -> list[list[str]]:
    """Return the options of every `examples/probe.py` in the shell blocks of a page."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line.split("examples/probe.py", 1)[1]) for line in blocks.splitlines() if "probe.py" in line]


def errors_of(commands: list[list[str]]) -> list[str]:
    """Return the error messages of invalid command lines."""
    messages = []
    for command in commands:
        try:
            parse(probe.ProbeArguments, command)
        except ValueError as error:
            messages.append(str(error))
    return messages


def test_every_command_in_the_docs_is_valid():
    pages = [REPO / "README.md", REPO / "docs" / "probing.md", REPO / "examples" / "README.md"]
    commands = [command for page in pages for command in commands_of(page.read_text())]
    protocols = re.findall(r"^\|.*\| `(--[^|]*|the same.*)`", (REPO / "docs" / "probing.md").read_text(), re.MULTILINE)
    commands += [shlex.split(part) for row in protocols for part in row.split("`")[::2] if part.startswith("--")]
    assert len(commands) > 15
    assert errors_of(commands) == []


def test_the_check_of_commands_catches_a_violation():
    assert len(errors_of([["--clips", "8"], ["--epochs", "many"], ["MODEL"]])) == 3
    assert commands_of("```bash\npython examples/probe.py --a \\\n    --b 1\n```") == [["--a", "--b", "1"]]
