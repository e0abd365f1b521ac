"""examples/finetune.py as users run it: from a pretrained folder to the output of the pipeline.

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
    """A tiny pretraining folder, like those of examples/pretrain.py."""
    folder = tmp_path_factory.mktemp("finetune") / "pretrain"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = vjepa_hf.VJEPAConfig(**sizes, num_frames=4, pred_hidden_size=16, pred_num_hidden_layers=1)
    with torch.random.fork_rng(devices=[]):
        vjepa_hf.VJEPAForPreTraining(config).save_pretrained(folder)
    vjepa_hf.VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def class_folders(toy_videos, tmp_path_factory):
    """Two folders of classes; one of the training videos is broken."""
    root = tmp_path_factory.mktemp("classes")
    for split in ("train", "test"):
        for number, path in enumerate(sorted((toy_videos / split).glob("*.mp4"))[:8]):
            folder = root / split / ("left", "right")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    (root / "train" / "left" / "broken.mp4").write_bytes(b"no video")
    return root


def options(pretrained, class_folders, output, **changes):
    values = {"model": pretrained, "train_videos": class_folders / "train", "test_videos": class_folders / "test"}
    values |= {"output_dir": output, "per_device_train_batch_size": 4, "num_train_epochs": 2, "seed": 0} | changes
    return [word for name, value in values.items() for word in (f"--{name}", *str(value).split())]


@pytest.mark.slow
def test_a_run_with_adapters_works_in_the_pipeline(run_example, pretrained, class_folders, tmp_path):
    changes = {"method": "lora", "lora_rank": 4, "eval_strategy": "epoch", "validation_videos": class_folders / "test"}
    changes |= {"load_best_model_at_end": "true", "metric_for_best_model": "top_1_accuracy"}
    words = options(pretrained, class_folders, tmp_path / "run", **changes)
    completed = run_example("accelerate", "launch", "examples/finetune.py", *words)
    assert "broken.mp4" in completed.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test_num_samples"] == result["validation_num_samples"] == 8
    assert [path.endswith("left/broken.mp4") for path in result["unreadable"]["train"]] == [True]
    assert result["unreadable"]["test"] == [] and result["test_num_unreadable"] == 0
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
    video = str(next((class_folders / "test").rglob("*.mp4")))
    answers = pipeline("video-classification", model=str(tmp_path / "run"))(video, top_k=2)
    assert {answer["label"] for answer in answers} == {"left", "right"}


@pytest.fixture
def finetune():
    """The `main` of the example in this process, which is faster than a new one."""
    import finetune

    def run(words):
        with torch.random.fork_rng(devices=[]):
            finetune.main([*words, "--disable_tqdm", "true"])

    return run


@pytest.mark.invariant
@pytest.mark.slow
def test_two_processes_with_half_the_batch_give_the_same_model(
    run_example, finetune, pretrained, class_folders, tmp_path
):
    (class_folders / "train" / "left" / "broken.mp4").rename(tmp_path / "broken.mp4")
    shared = {"dataloader_num_workers": 0, "save_strategy": "no", "learning_rate": 1e-3}
    try:
        finetune(options(pretrained, class_folders, tmp_path / "1", per_device_train_batch_size=4, **shared))
        words = options(pretrained, class_folders, tmp_path / "2", per_device_train_batch_size=2, **shared)
        run_example("accelerate", "launch", "--multi_gpu", "--num_processes", "2", "examples/finetune.py", *words)
    finally:
        (tmp_path / "broken.mp4").rename(class_folders / "train" / "left" / "broken.mp4")
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("1", "2"))
    assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-4) and two["test_num_samples"] == 8
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "2"))
    assert max((second[name] - tensor).abs().max() for name, tensor in first.items()) < 1e-4


def test_every_option_of_the_recipe_works_and_a_run_resumes_bit_exact(finetune, pretrained, class_folders, tmp_path):
    recipe = {"layer_decay": 0.75, "drop_path_rate": 0.2, "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "num_clips": 2}
    recipe |= {"label_smoothing_factor": 0.1, "class_balance": "sampler", "dataloader_num_workers": 0}
    recipe |= {"rand_augment_magnitude": 7, "erase_probability": 0.25, "per_device_train_batch_size": 8}
    finetune(options(pretrained, class_folders, tmp_path, **recipe))
    straight = json.loads((tmp_path / "result.json").read_text())
    weights = vjepa_hf.VJEPAForVideoClassification.from_pretrained(tmp_path).state_dict()
    shutil.rmtree(tmp_path / "checkpoint-4")
    finetune(options(pretrained, class_folders, tmp_path, resume="true", **recipe))
    resumed = json.loads((tmp_path / "result.json").read_text())
    again = vjepa_hf.VJEPAForVideoClassification.from_pretrained(tmp_path)
    assert resumed["test_loss"] == straight["test_loss"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())
    assert again.config.id2label == {0: "left", 1: "right"}
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "result.json").stat().st_mode


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"method": "lora", "layer_decay": 0.5}, "layer_decay has no effect with method=lora"),
        ({"method": "frozen", "drop_path_rate": 0.1}, "drop_path_rate has no effect with method=frozen"),
        ({"label": "action"}, "train_videos has no column 'action' with labels, only video, label"),
        ({"resume": ""}, "has no checkpoint; omit resume to start a new run"),
        (
            {"method": "lora", "push_to_hub": "true", "hub_strategy": "every_save"},
            "method=lora uploads the merged model, at the end: use hub_strategy=end",
        ),
        ({"validation_video": "x"}, "unknown option 'validation_video'; did you mean 'validation_videos'"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"mixup_alpha": -1}, "mixup_alpha must not be negative"),
        ({"report_to": "tensorbord"}, "report_to: 'tensorbord' is not a tracker"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    pretrained, class_folders, tmp_path, wrong, message, monkeypatch, capsys
):
    import finetune

    monkeypatch.setattr(sys, "argv", ["finetune.py", *options(pretrained, class_folders, tmp_path / "run", **wrong)])
    with torch.random.fork_rng(devices=[]), pytest.raises(SystemExit) as stopped:
        finetune.main()
    *_, line = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.startswith("finetune.py: ") and message in line, line
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_model_is_refused_and_not_changed(pretrained, class_folders, monkeypatch, capsys):
    import finetune

    before = {path.name: path.read_bytes() for path in pretrained.iterdir()}
    monkeypatch.setattr(sys, "argv", ["finetune.py", *options(pretrained, class_folders, pretrained)])
    with torch.random.fork_rng(devices=[]), pytest.raises(SystemExit) as stopped:
        finetune.main()
    assert stopped.value.code == 2 and "already contains a model or a run" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in pretrained.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron-LM is not supported"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2", "but the run accumulates 1"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "mixed_precision fp8 is not supported"),
    ],
)
def test_what_a_launcher_asks_for_in_vain_is_refused(
    pretrained, class_folders, tmp_path, name, value, words, monkeypatch, capsys
):
    import finetune

    monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["finetune.py", *options(pretrained, class_folders, tmp_path / "run")])
    with torch.random.fork_rng(devices=[]), pytest.raises(SystemExit) as stopped:
        finetune.main()
    assert stopped.value.code == 2 and words in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_file_may_have_options_of_the_trainer(finetune, pretrained, class_folders, tmp_path):
    lines = [f"model: {pretrained}", f"train_videos: {class_folders / 'train'}", "max_steps: 1", "learning_rate: 1e-3"]
    lines += ["per_device_train_batch_size: 2", "save_strategy: 'no'", "dataloader_num_workers: 0", "method: frozen"]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    finetune(["--config", str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "run"), "--seed", "7"])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["method"], result["seed"], result["classes"]) == ("frozen", 7, 2)
