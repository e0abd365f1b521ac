"""V-JEPA 2 of transformers goes on in pretraining, is probed, and comes back to transformers, by commands only.

pytest tests/examples/test_continue_vjepa2.py
"""

import json
import sys
import textwrap

import pytest
import torch
from transformers import VJEPA2Config, VJEPA2Model

from forked_runs import command_line
from vjepa_hf import VJEPAForVideoClassification, VJEPAModel
from vjepa_hf.training.log import read_log

pytestmark = pytest.mark.slow

MODEL = {
    "model.position_embedding_type": "rope",
    "model.num_attention_heads": "2",
    "model.pred_num_attention_heads": "1",
    "model.pred_num_mask_tokens": "10",
    "model.pred_mask_token_per_mask_type": "false",
    "learning_rate_schedule": "constant",
    "max_grad_norm": ".inf",
}
SIZES = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "crop_size": 32, "frames_per_clip": 4}
SIZES |= {"patch_size": 8, "pred_hidden_size": 16, "pred_num_attention_heads": 1, "pred_num_hidden_layers": 1}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A random V-JEPA 2 in transformers' format."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        VJEPA2Model(VJEPA2Config(**SIZES)).save_pretrained(tmp_path_factory.mktemp("vjepa2") / "theirs")
    return tmp_path_factory.getbasetemp() / "vjepa20" / "theirs"


@pytest.fixture(scope="module")
def converted(run_example, start):
    run_example("vjepa-hf", "convert", start, start.parent / "ours")
    return start.parent / "ours"


def pretrain(run_example, toy_videos, start, output, *more, launcher=("accelerate", "launch"), **changes):
    options = MODEL | {"videos": toy_videos / "train.csv", "output_dir": output, "init_from": start} | changes
    return run_example(*launcher, "examples/pretrain.py", *command_line(**options), *more)


def test_there_and_back_through_training_and_probe(run_example, toy_videos, lists, converted, tmp_path):
    result = pretrain(run_example, toy_videos, converted, tmp_path / "run")
    assert "loaded target_encoder" in result.stdout and "context_encoder is a copy of target_encoder" in result.stdout
    rates = [row["learning_rate"] for row in read_log(tmp_path / "run" / "log.jsonl") if "loss" in row]
    assert len(set(rates[2:])) == 1
    before, after = (VJEPAModel.from_pretrained(folder).eval() for folder in (converted, tmp_path / "run"))
    moved = after.predictor.mask_tokens - before.predictor.mask_tokens
    assert moved[0].any() and not moved[1:].any()

    options = ["--model", tmp_path / "run", "--train_videos", lists[0], "--test_videos", lists[1], "--label", "side"]
    options += ["--epochs", "1", "--output_dir", tmp_path / "probe"]
    run_example("python", "examples/probe.py", *options)
    for name in ("run", "probe"):
        run_example("vjepa-hf", "convert", "--to_transformers", tmp_path / name, tmp_path / f"{name}_theirs")
    program = f"""
        import sys
        sys.modules["vjepa_hf"] = None
        import torch
        from transformers import AutoModel, AutoModelForVideoClassification
        clip = torch.randn(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        model = AutoModel.from_pretrained({str(tmp_path / "run_theirs")!r}).eval()
        classifier = AutoModelForVideoClassification.from_pretrained({str(tmp_path / "probe_theirs")!r}).eval()
        with torch.no_grad():
            found = model(clip, skip_predictor=True).last_hidden_state, classifier(clip).logits
        torch.save((clip, *found, classifier.config.id2label), {str(tmp_path / "found.pt")!r})
    """
    run_example(sys.executable, "-c", textwrap.dedent(program))
    clip, features, logits, names = torch.load(tmp_path / "found.pt")
    probe = VJEPAForVideoClassification.from_pretrained(tmp_path / "probe").eval()
    assert names == probe.config.id2label and set(names.values()) == {"left", "right"}
    with torch.no_grad():
        assert torch.allclose(after(clip).last_hidden_state, features, atol=2e-5)
        # The epsilon of transformers' pooler is the encoder's, see docs/checkpoints.md.
        assert torch.allclose(probe(clip).logits, logits, atol=1e-3)
    assert json.loads((tmp_path / "run_theirs" / "config.json").read_text())["model_type"] == "vjepa2"


def test_ten_steps_that_stop_and_resume_equal_ten_steps(run_example, toy_videos, converted, tmp_path):
    options = {"max_steps": "10", "save_steps": "5"}
    for name in ("straight", "run"):
        pretrain(run_example, toy_videos, converted, tmp_path / name, launcher=("python",), **options)
    last = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))[-1]
    last.rename(last.with_name("gone"))  # as if the run had been killed after five steps
    pretrain(run_example, toy_videos, converted, tmp_path / "run", "--resume", launcher=("python",), **options)
    straight, resumed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "run"))
    assert straight == resumed
