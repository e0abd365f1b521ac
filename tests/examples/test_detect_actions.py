"""examples/detect_actions.py as users run it: on one and two processes, with and without weights, on detected boxes.

pytest tests/examples/test_detect_actions.py
"""

import csv
import json

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from vjepa_hf import VJEPAForActionDetection, VJEPAForPreTraining, VJEPAVideoProcessor
from vjepa_hf.evaluation.detection import KeyFrameClips, collate_key_frames, find_videos, read_annotations

ONE = ("accelerate", "launch")
TWO = ("accelerate", "launch", "--multi_gpu", "--num_processes", "2")


@pytest.fixture(scope="module")
def toy_actions(tmp_path_factory):
    from make_toy_actions import make_toy_actions

    folder = make_toy_actions(tmp_path_factory.mktemp("toy_actions"), num_train=8, num_test=5)
    (folder / "test" / "000001.mp4").write_bytes(b"not a video")
    return folder


@pytest.fixture
def pretrained(tiny_pretraining_model, tmp_path):
    tiny_pretraining_model.save_pretrained(tmp_path / "pretrained")
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2).save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"


def run(run_example, launcher, pretrained, toy_actions, output, *more):
    options = {
        "model": pretrained,
        "train_videos": toy_actions / "train",
        "train_annotations": toy_actions / "train.csv",
        "test_videos": toy_actions / "test",
        "test_annotations": toy_actions / "test.csv",
        "actions": toy_actions / "actions.pbtxt",
        "test_boxes": toy_actions / "test_boxes.csv",
        "epochs": 2,
        "image_size": 48,
        "roi_size": 2,
        "num_workers": 0,
        "output_dir": output,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    result = run_example(*launcher, "examples/detect_actions.py", *words, *more)
    return result.stdout, json.loads((output / "result.json").read_text())


@pytest.mark.slow
def test_a_run_writes_metrics_a_figure_and_a_model_that_loads(run_example, pretrained, toy_actions, tmp_path):
    output = tmp_path / "output"
    printed, result = run(run_example, ONE, pretrained, toy_actions, output)
    assert "epoch 2/2: loss" in printed and 0 <= result["mean_average_precision"] <= 1
    card = ModelCard.load(output / "README.md")
    (frame_map,) = card.data.eval_results
    assert frame_map.metric_value == result["mean_average_precision"] and card.data.license == "unknown"
    assert result["num_samples"] == 5 and result["unreadable_clips"] == 1 and "000001.mp4" in printed
    modes = {path.stat().st_mode for path in output.iterdir()}
    assert len(modes) == 1  # the weights can be read by everybody who can read the other files
    with Image.open(output / "detections.png") as picture:
        assert picture.width > 1000
    with (output / "results.csv").open() as file:
        rows = list(csv.reader(file))
    assert {int(row[6]) for row in rows} == {*range(1, 9), *range(11, 15)}
    assert "000001" not in {row[0] for row in rows}

    detector = VJEPAForActionDetection.from_pretrained(output)
    processor = VJEPAVideoProcessor.from_pretrained(output)
    frames = read_annotations(toy_actions / "train.csv", range(12))
    batch = collate_key_frames([KeyFrameClips(frames, find_videos(toy_actions / "train"), processor)[0]])
    logits = detector(batch["pixel_values_videos"], batch["boxes"], batch["box_mask"]).logits
    assert logits.shape == (1, len(frames[0].boxes), 12)
    # The encoder is frozen.
    before = VJEPAForPreTraining.from_pretrained(pretrained).vjepa.encoder.state_dict()
    assert all(before[name].equal(value) for name, value in detector.vjepa.encoder.state_dict().items())


@pytest.mark.slow
def test_two_processes_fine_tune_the_encoder_and_test_every_key_frame_once(
    run_example, pretrained, toy_actions, tmp_path
):
    options = ("--fine_tune", "--random_init", "--epochs", "1", "--batch_size", "2")
    _, result = run(run_example, TWO, pretrained, toy_actions, tmp_path / "output", *options)
    assert result["fine_tune"] is result["random_init"] is True
    assert result["num_samples"] == 5 and result["unreadable_clips"] == 1
    before = VJEPAForPreTraining.from_pretrained(pretrained).vjepa.encoder.norm.bias
    assert not before.equal(VJEPAForActionDetection.from_pretrained(tmp_path / "output").vjepa.encoder.norm.bias)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--actions", "nowhere.pbtxt"], "nowhere.pbtxt"),
        (["--test_video", "x"], "unknown option 'test_video'; did you mean 'test_videos'"),
        (["--epochs", "few"], "epochs"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    pretrained, toy_actions, tmp_path, options, message, monkeypatch, capsys
):
    import detect_actions

    words = ["--model", str(pretrained), "--train_annotations", str(toy_actions / "train.csv"), *options]
    monkeypatch.setattr("sys.argv", ["detect_actions.py", *words, "--output_dir", str(tmp_path / "output")])
    with pytest.raises(SystemExit) as stopped:
        detect_actions.main()
    *_, line = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.startswith("detect_actions.py: ") and message in line, line
    assert not (tmp_path / "output").exists()
