"""The card of a run has what was counted and measured, and is uploaded when the strategy says so.

pytest tests/training/test_sharing.py
"""

import json

import pytest
from huggingface_hub import ModelCard

from hub_recorder import HubRecorder
from tiny_run import tiny_arguments
from vjepa_hf.training.checkpoints import Progress
from vjepa_hf.training.diagnostics import ALARMS
from vjepa_hf.training.setup import model_config
from vjepa_hf.training.sharing import Sharing

HEALTHY = {"target_std": 0.9, "context_std": 0.9, "target_dead": 0.0, "target_rank_share": 0.5, "loss_ratio": 0.5}
HEALTHY |= {"copy_ratio": 0.75, "encoder_distance": 0.125}


@pytest.fixture
def share(accelerator, tmp_path, monkeypatch):
    """Saves a run of 10 steps after steps 4 and 10 and at its end; returns the card and the calls of the Hub."""
    recorder = HubRecorder(tmp_path / "hf_home", monkeypatch.setattr)

    def save(*more: str, health=HEALTHY, stopped: bool = False) -> tuple[ModelCard, list[dict]]:
        folder = tmp_path / "run"
        checkpoint = folder / "checkpoints" / "step_00000004"
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.json").touch()
        rows = [{"step": 2, "loss": 0.5, "skipped_steps": 1, "failed_videos": 2}, {"step": 4, **health}]
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        args = tiny_arguments("--videos", "secret/list.csv", "--output_dir", str(folder), *more)
        sharing = Sharing(accelerator, args, model_config(args))
        for step in (4,) if stopped else (4, 10):
            progress = Progress(step, step * 24, {"num_videos": 1234})
            sharing.save(progress)
        sharing.save(progress, at_end=True)
        return ModelCard.load(folder / "README.md"), recorder.recorded()

    return save


def uploads(calls: list[dict]) -> list[tuple[str, bool]]:
    return [(call["message"], call["background"]) for call in calls if "upload" in call]


def test_the_card_has_data_as_counted_hyperparameters_and_health(share):
    card, calls = share("--learning_rate", "0.00123")
    assert calls == []  # without push_to_hub
    assert "1,234 videos from `list.csv`; 240 clips" in card.text and "secret" not in card.content
    assert "| `learning_rate` | `0.00123` |" in card.text and "| `masks[1]` | `{'type': 'multi_block'" in card.text
    assert (
        "No alarm" in card.text
        and "| `copy_ratio` | `0.75` |" in card.text
        and "| `skipped_steps` | `1` |" in card.text
    )
    assert "curves.png" not in card.text  # there is no picture
    assert card.data.pipeline_tag == "feature-extraction" and card.data.library_name == "vjepa_hf"


@pytest.mark.parametrize("used", [False, True])
def test_the_card_lists_options_of_images_and_context_tokens_only_if_the_run_has_them(share, used):
    words = "--images photos --image_passes 1 --gradient_accumulation_steps 2 --model.image_tokenizer true"
    words += " --model.pred_context_head true"
    card, _ = share(*(words.split() if used else ()))
    for name in ("image_passes", "image_masks[0]", "context_loss_weight"):
        assert (f"| `{name}` |" in card.text) == used


def test_an_alarm_at_the_end_is_in_the_card(share):
    alarm = ALARMS[0]
    card, _ = share(health=HEALTHY | {alarm.metric: alarm.low / 2})
    assert f"WARNING {alarm.name}" in card.text and "No alarm" not in card.text


@pytest.mark.parametrize(
    "strategy, expected, if_stopped",
    [
        ("end", [("step 10", False)], []),
        (
            "every_save",
            [("step 4", True), ("step 10", True), ("step 10", False)],
            [("step 4", True), ("step 4", False)],
        ),
    ],
)
@pytest.mark.parametrize("stopped", [False, True])
def test_the_strategy_says_when_to_upload(share, strategy, expected, if_stopped, stopped):
    card, calls = share("--push_to_hub", "--hub_strategy", strategy, stopped=stopped)
    assert uploads(calls) == (if_stopped if stopped else expected)
    assert calls[0] == {"create": "me/run", "private": None}
    assert 'model_id = "me/run"' in card.text
    if strategy == "every_save":
        assert "curves.png" in calls[1]["files"] and "README.md" in calls[1]["files"]


def test_checkpoints_are_uploaded_on_request(share):
    _, calls = share("--push_to_hub", "--hub_strategy", "checkpoint")
    assert all("checkpoints/step_00000004/manifest.json" in call["files"] for call in calls if "upload" in call)


def test_the_license_of_the_initial_weights_stays_when_the_run_resumes_without_them(share, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    card, _ = share("--init_from", str(tmp_path / "weights"))
    assert card.data.license == "cc-by-nc-4.0"
    (tmp_path / "weights" / "README.md").unlink()
    (tmp_path / "run" / "checkpoints" / "step_00000004").rename(tmp_path / "moved")
    card, _ = share("--init_from", str(tmp_path / "weights"), "--resume")
    assert card.data.license == "cc-by-nc-4.0"
