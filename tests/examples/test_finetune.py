"""Fine-tuning as users run it: from a pretrained folder to an answer of the pipeline.

pytest tests/examples/test_finetune.py
"""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

import vjepa_hf


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A tiny pretraining folder, as examples/pretrain.py leaves one."""
    folder = tmp_path_factory.mktemp("finetune") / "pretrain"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = vjepa_hf.VJEPAConfig(**sizes, num_frames=4, pred_hidden_size=16, pred_num_hidden_layers=1)
    with torch.random.fork_rng(devices=[]):
        vjepa_hf.VJEPAForPreTraining(config).save_pretrained(folder)
    vjepa_hf.VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def class_folders(toy_videos, tmp_path_factory):
    """Two classes as folders; one of the training videos is broken."""
    root = tmp_path_factory.mktemp("classes")
    for split in ("train", "test"):
        for number, path in enumerate(sorted((toy_videos / split).glob("*.mp4"))[:8]):
            folder = root / split / ("left", "right")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    (root / "train" / "left" / "broken.mp4").write_bytes(b"no video")
    return root


def options(pretrained, class_folders, output, **changes):
    chosen = {"model": pretrained, "train_videos": class_folders / "train", "test_videos": class_folders / "test"}
    chosen |= {"output_dir": output, "per_device_train_batch_size": 4, "num_train_epochs": 2, "seed": 0} | changes
    return [word for key, value in chosen.items() for word in (f"--{key}", *str(value).split())]


@pytest.mark.slow
def test_adapters_of_a_run_answer_in_the_pipeline(run_example, pretrained, class_folders, tmp_path):
    changes = {"method": "lora", "eval_strategy": "epoch", "validation_videos": class_folders / "test"}
    words = options(pretrained, class_folders, tmp_path / "run", **changes)
    shown = run_example("accelerate", "launch", "examples/finetune.py", *words)
    assert "broken.mp4" in shown.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test_num_samples"] == result["validation_num_samples"] == 8
    assert [path.endswith("left/broken.mp4") for path in result["unreadable"]["train"]] == [True]
    assert result["unreadable"]["test"] == [] and result["test_num_unreadable"] == 0
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
    video = str(next((class_folders / "test").rglob("*.mp4")))
    answers = pipeline("video-classification", model=str(tmp_path / "run"))(video, top_k=2)
    assert {answer["label"] for answer in answers} == {"left", "right"}


@pytest.fixture
def finetune(monkeypatch):
    """The example's `main` in this process, which saves the time to start another."""
    import finetune

    def run(words):
        monkeypatch.setattr(sys, "argv", ["finetune.py", *words, "--disable_tqdm", "true"])
        with torch.random.fork_rng(devices=[]):
            finetune.main()

    return run


@pytest.mark.invariant
@pytest.mark.slow
def test_two_processes_with_half_the_batch_give_the_same_model(
    run_example, finetune, pretrained, class_folders, tmp_path
):
    (class_folders / "train" / "left" / "broken.mp4").rename(tmp_path / "broken.mp4")
    chosen = {"dataloader_num_workers": 0, "save_strategy": "no", "learning_rate": 1e-3}
    try:
        finetune(options(pretrained, class_folders, tmp_path / "1", per_device_train_batch_size=4, **chosen))
        words = options(pretrained, class_folders, tmp_path / "2", per_device_train_batch_size=2, **chosen)
        run_example("accelerate", "launch", "--multi_gpu", "--num_processes", "2", "examples/finetune.py", *words)
    finally:
        (tmp_path / "broken.mp4").rename(class_folders / "train" / "left" / "broken.mp4")
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("1", "2"))
    assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-4) and two["test_num_samples"] == 8
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "2"))
    assert max((second[name] - tensor).abs().max() for name, tensor in first.items()) < 1e-4


def test_every_option_of_the_recipe_works_and_a_stopped_run_goes_on(finetune, pretrained, class_folders, tmp_path):
    recipe = {"layer_decay": 0.75, "drop_path_rate": 0.2, "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "num_clips": 2}
    recipe |= {"label_smoothing_factor": 0.1, "class_balance": "sampler", "dataloader_num_workers": 0}
    recipe |= {"rand_augment_magnitude": 7, "erase_probability": 0.25, "per_device_train_batch_size": 8}
    finetune(options(pretrained, class_folders, tmp_path, **recipe))
    straight = json.loads((tmp_path / "result.json").read_text())
    weights = vjepa_hf.VJEPAForVideoClassification.from_pretrained(tmp_path).state_dict()
    shutil.rmtree(tmp_path / "checkpoint-4")
    finetune(options(pretrained, class_folders, tmp_path, resume_from_checkpoint="true", **recipe))
    resumed = json.loads((tmp_path / "result.json").read_text())
    again = vjepa_hf.VJEPAForVideoClassification.from_pretrained(tmp_path)
    assert resumed["test_loss"] == straight["test_loss"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())
    assert again.config.id2label == {0: "left", 1: "right"}


def test_options_that_have_no_effect_together_are_refused(finetune, pretrained, class_folders, tmp_path, capsys):
    for wrong in ({"method": "lora", "layer_decay": 0.5}, {"method": "frozen", "drop_path_rate": 0.1}):
        with pytest.raises(SystemExit):
            finetune(options(pretrained, class_folders, tmp_path / "run", **wrong))
        assert wrong["method"] in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
