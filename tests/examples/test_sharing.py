"""Convert, adapt, probe and fine-tune, push each to a recorder in place of the Hub, and resume from it.

The license of the first weights stays, the model-index equals result.json, and the code of the cards runs.

pytest tests/examples/test_sharing.py
"""

import json
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import finetune
import probe
from forked_runs import ForkedRuns
from hub_recorder import HubRecorder
from meta_files import pretraining_content
from programs import cpu_environment
from vjepa_hf import VJEPAConfig
from vjepa_hf.conversion.meta import convert
from vjepa_hf.training.log import read_log

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
SIZES |= {"num_frames": 4, "pred_hidden_size": 16, "pred_num_hidden_layers": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> ForkedRuns:
    return ForkedRuns(tmp_path_factory.mktemp("sharing"))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    torch.save(pretraining_content(VJEPAConfig(**SIZES)), folder / "x.pth.tar")
    convert(folder / "x.pth.tar", folder / "model", num_attention_heads=2)
    return folder / "model"


def results(card: ModelCard) -> dict:
    return {result.metric_name: (result.metric_value, result.metric_args) for result in card.data.eval_results}


def run_code(card: str, folder, home) -> str:
    """Run the code of a card in a fresh process, and return what it prints."""
    program = re.search("```python\n(.*?)```", card, re.DOTALL)[1]
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=cpu_environment(home), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_weights_of_meta_stay_noncommercial_from_conversion_to_adapters(runs, converted, lists, tmp_path, monkeypatch):
    hub = HubRecorder(tmp_path / "hf_home", monkeypatch.setattr)
    adapted, probed, tuned = (tmp_path / name for name in ("adapted", "probed", "tuned"))
    push = {"push_to_hub": "true", "hub_model_id": "me/adapted"}
    options = {"videos": lists[0], "init_from": converted, "output_dir": adapted} | push
    runs.finish(partial(HubRecorder, hub.home), **options)

    def words(**options) -> list[str]:
        shared = {"train_videos": lists[0], "test_videos": lists[1], "label": "side", "push_to_hub": "true"}
        return [word for name, value in (shared | options).items() for word in (f"--{name}", str(value))]

    with torch.random.fork_rng(devices=[]):
        # the name on the Hub, read through its cache
        probe.main(words(model="me/adapted", output_dir=probed, epochs=2, num_workers=0, hub_model_id="me/probed"))
        tuning = {"num_train_epochs": 1, "disable_tqdm": "true", "dataloader_num_workers": 0, "method": "lora"}
        finetune.main(words(model=adapted, output_dir=tuned, hub_model_id="me/tuned", **tuning))

    cards = {path.parent.name: ModelCard.load(path) for path in tmp_path.glob("*/README.md")}
    cards["adapter"] = ModelCard.load(tuned / "adapter" / "README.md")
    assert set(cards) == {"adapted", "probed", "tuned", "adapter"}
    for card in (*cards.values(), ModelCard.load(converted / "README.md")):
        assert card.data.license == "cc-by-nc-4.0" and "License" in card.text
    assert cards["probed"].data.base_model == ["me/adapted"] and cards["adapter"].data.library_name == "peft"
    uploaded = [call["upload"] for call in hub.recorded() if "upload" in call]
    assert uploaded == ["me/adapted", "me/probed", "me/tuned"]
    assert (hub.snapshot("me/adapted") / "curves.png").exists()
    assert (hub.snapshot("me/tuned") / "adapter" / "adapter_model.safetensors").exists()

    for folder, prefix in ((probed, ""), (tuned, "test_")):
        result = json.loads((folder / "result.json").read_text())
        settings = {"num_samples": result[f"{prefix}num_samples"], "interval_95": result[f"{prefix}top_1_interval"]}
        shown = results(cards[folder.name])
        assert shown["top-1 accuracy"] == (result[f"{prefix}top_1_accuracy"], settings)
        assert shown["mean class accuracy"][0] == result[f"{prefix}mean_class_accuracy"]
    assert "torch.Size([1, 32, 32])" in run_code(cards["adapted"].content, tmp_path, hub.home)
    assert re.search("left|right", run_code(cards["probed"].content, tmp_path, hub.home))


@pytest.mark.slow
def test_a_run_is_resumed_from_the_hub_and_equals_an_uninterrupted_one(runs, lists, tmp_path):
    record = partial(HubRecorder, tmp_path / "hf_home")
    options = {"videos": lists[0], "push_to_hub": "true", "hub_model_id": "me/it", "hub_strategy": "checkpoint"}
    runs.finish(record, output_dir=tmp_path / "whole", **options | {"hub_model_id": "me/whole"})
    runs.finish(record, output_dir=tmp_path / "first", **options | {"max_steps": "3", "schedule_scale": "2.5"})

    hub = HubRecorder(tmp_path / "hf_home", lambda *nothing: None)
    assert (hub.snapshot("me/it") / "arguments.yaml").exists()
    resumed = {"resume_from_hub": "me/it", "output_dir": tmp_path / "second"}
    resumed |= {"max_steps": "6", "schedule_scale": "1.25"}
    printed = runs.finish(record, videos=lists[0], **resumed)
    assert "resuming after step 3" in printed
    whole, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "second"))
    assert all(torch.equal(whole[name], value) for name, value in second.items())
    assert [row["step"] for row in read_log(tmp_path / "second" / "log.jsonl")][0] == 1
    assert "is not empty; use --resume" in runs.fail(record, videos=lists[0], **resumed)
