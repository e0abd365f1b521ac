"""What fine-tuning is made of, through the `Trainer` as users have it.

pytest tests/training/test_finetuning.py
"""

import copy
import re

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2
from torchvision.tv_tensors import Video
from transformers import Trainer, TrainingArguments

from vjepa_hf import VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.data.labelled import UNREADABLE, LabelledClip, TrainingVideos
from vjepa_hf.data.transforms import RandomResizedCropFlip
from vjepa_hf.model.modeling_vjepa import soft_cross_entropy
from vjepa_hf.training.finetuning import (
    LORA_MODULES_TO_SAVE,
    LORA_TARGET_MODULES,
    ClassificationCollator,
    EpochCallback,
    balanced_weights,
    cutmix_box,
    layer_wise_groups,
)


@pytest.fixture
def classifier(tiny_classifier):
    tiny_classifier.config.problem_type = "single_label_classification"
    return tiny_classifier


@pytest.fixture(scope="module")
def processor():
    return VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2)


@pytest.fixture(scope="module")
def paths(toy_videos) -> list[str]:
    return [str(path) for path in sorted((toy_videos / "train").glob("*.mp4"))]


def training_videos(paths, processor, seed=0, **options) -> TrainingVideos:
    labels = np.arange(len(paths)) % 3
    return TrainingVideos(paths, labels, processor, RandomResizedCropFlip((32, 32)), seed, **options)


def noise_clips(labels, seed=0) -> list[LabelledClip]:
    pixels = torch.randn(len(labels), 4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return [LabelledClip(clip, label, (0, row)) for row, (clip, label) in enumerate(zip(pixels, labels, strict=True))]


# --- loss ---


def test_model_loss_with_shares_is_its_loss_with_classes(classifier, tiny_clip):
    classes = torch.tensor([2, 0])
    hard = classifier(tiny_clip, labels=classes).loss
    soft = classifier(tiny_clip, labels=torch.eye(3)[classes]).loss
    torch.testing.assert_close(soft, hard)
    views = torch.stack([tiny_clip, tiny_clip.flip(1)], dim=1)
    torch.testing.assert_close(
        classifier(views, labels=torch.eye(3)[classes]).loss, classifier(views, labels=classes).loss
    )


def test_soft_loss_weighs_rows_by_their_sum_and_passes_rows_of_zeros():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    classes, weights = torch.tensor([0, 1, 2, 1]), torch.tensor([1.0, 2.0, 5.0])
    rows = torch.eye(3)[classes] * weights[classes][:, None]
    torch.testing.assert_close(soft_cross_entropy(logits, rows), cross_entropy(logits, classes, weight=weights))
    rows[2] = 0
    classes[2] = UNREADABLE
    torch.testing.assert_close(soft_cross_entropy(logits, rows), cross_entropy(logits, classes, weight=weights))
    assert soft_cross_entropy(logits, torch.zeros(4, 3)) == 0


# --- batches ---


def test_collator_smooths_labels_as_torch_does():
    classes = [0, 2, 1]
    labels = ClassificationCollator(3, label_smoothing=0.3)(noise_clips(classes))["labels"]
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    expected = cross_entropy(logits, torch.tensor(classes), label_smoothing=0.3)
    torch.testing.assert_close(soft_cross_entropy(logits, labels), expected)


def test_collator_weighs_training_clips_and_leaves_evaluation_alone():
    weights = balanced_weights(np.array([0, 0, 0, 1]), 2)
    assert weights == pytest.approx((2 / 3, 2.0)) and np.mean(np.take(weights, [0, 0, 0, 1])) == pytest.approx(1)
    collate = ClassificationCollator(2, label_smoothing=0.5, class_weights=weights)
    clips = noise_clips([0, 1])
    assert collate(clips)["labels"].sum(dim=1).tolist() == pytest.approx(weights)
    judged = collate([LabelledClip(clip.pixels, clip.label) for clip in clips])
    torch.testing.assert_close(judged["labels"], torch.eye(2))
    torch.testing.assert_close(judged["pixel_values_videos"], torch.stack([clip.pixels for clip in clips]))
    with pytest.raises(ValueError, match="class 1 has no training video"):
        balanced_weights(np.array([0, 2]), 3)


def test_clips_are_mixed_as_torchvision_mixes_them_given_the_same_draws():
    clips = noise_clips([0, 1, 2])
    pixels, labels = Video(torch.stack([clip.pixels for clip in clips])), torch.eye(3)
    batch = ClassificationCollator(3, mixup_alpha=0.8)(clips)
    shares = batch["labels"].diagonal().tolist()
    assert len(set(shares)) == 3 and all(0 < share < 1 for share in shares)
    for place, share in enumerate(shares):
        params = {"lam": share, "labels": labels, "batch_size": 3}
        for name, inputs in (("pixel_values_videos", pixels), ("labels", labels)):
            expected = torch.as_tensor(v2.MixUp(num_classes=3).transform(inputs, params))
            torch.testing.assert_close(batch[name][place], expected[place])


def test_cutmix_puts_one_box_of_the_other_clip_into_all_frames():
    clips = noise_clips([0, 1, 2])
    pixels, labels = Video(torch.stack([clip.pixels for clip in clips])), torch.eye(3)
    batch = ClassificationCollator(3, cutmix_alpha=1.0)(clips)
    for place in range(3):
        changed = (batch["pixel_values_videos"][place] != pixels[place]).flatten(0, 1)
        assert (changed == changed[0]).all()
        (top, left), (bottom, right) = (f(changed[0].nonzero(), dim=0).tolist() for f in (torch.amin, torch.amax))
        box = (left, top, right + 1, bottom + 1)
        kept = 1 - (box[2] - box[0]) * (box[3] - box[1]) / 32**2
        params = {"box": box, "lam_adjusted": kept, "labels": labels, "batch_size": 3}
        for name, inputs in (("pixel_values_videos", pixels), ("labels", labels)):
            expected = torch.as_tensor(v2.CutMix(num_classes=3).transform(inputs, params))
            torch.testing.assert_close(batch[name][place], expected[place])


def test_cutmix_boxes_cover_the_share_they_should_where_no_border_cuts_them():
    boxes = [cutmix_box(100, 200, 0.75, np.random.default_rng(seed)) for seed in range(50)]
    assert max(box.height * box.width for box in boxes) == 100 * 200 // 4
    assert all(0 <= box.top and box.top + box.height <= 100 and box.left + box.width <= 200 for box in boxes)


def test_mixing_is_a_function_of_seed_epoch_and_sample():
    clips = noise_clips([0, 1, 2, 0])
    collate = ClassificationCollator(3, mixup_alpha=0.8, cutmix_alpha=1.0)
    once = collate(clips)
    np.random.default_rng().random(), torch.rand(1)  # other draws have no say
    torch.testing.assert_close(collate(clips), once, rtol=0, atol=0)
    for other in (noise_clips([0, 1, 2, 0]), clips):
        later = [LabelledClip(clip.pixels, clip.label, (1, row)) for row, clip in enumerate(other)]
        assert not torch.equal(collate(later)["labels"], once["labels"])
    assert not torch.equal(ClassificationCollator(3, 1, 0.8, 1.0)(clips)["labels"], once["labels"])


def test_an_unreadable_clip_is_neither_mixed_nor_learned_from():
    clips = noise_clips([0, UNREADABLE, 1])
    clips[1].pixels.zero_()
    batch = ClassificationCollator(2, mixup_alpha=0.8, label_smoothing=0.1)(clips)
    assert not batch["labels"][1].any() and not batch["pixel_values_videos"][1].any()
    torch.testing.assert_close(batch["labels"].sum(dim=1), torch.tensor([1.0, 0.0, 1.0]))
    others = ClassificationCollator(2, mixup_alpha=0.8, label_smoothing=0.1)([clips[0], clips[2]])
    torch.testing.assert_close(batch["pixel_values_videos"][[0, 2]], others["pixel_values_videos"])


@pytest.mark.parametrize(("field", "value"), [("mixup_alpha", -1.0), ("label_smoothing", 1.0)])
def test_wrong_mixing_is_a_clear_error(field, value):
    with pytest.raises(ValueError, match=f"{field} must .*{re.escape(str(value))}"):
        ClassificationCollator(3, **{field: value})


# --- parameters ---


def test_learning_rates_decay_from_the_head_down(classifier):
    groups = layer_wise_groups(classifier, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    where = {id(parameter): group for group in groups for parameter in group["params"]}
    parameters = dict(classifier.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(where) == len(parameters)
    expected = {
        "classifier.weight": (1.0, 0.1),
        "pooler.query_tokens": (1.0, 0.1),
        "vjepa.encoder.norm.weight": (1.0, 0.0),
        "vjepa.encoder.layers.1.mlp.fc1.weight": (0.5, 0.1),
        "vjepa.encoder.layers.1.mlp.fc1.bias": (0.5, 0.0),
        "vjepa.encoder.layers.0.attention.qkv.weight": (0.25, 0.1),
        "vjepa.encoder.embeddings.projection.weight": (0.125, 0.1),
    }
    found = {name: where[id(parameters[name])] for name in expected}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in found.items()} == expected
    classifier.vjepa.requires_grad_(False)
    assert {group["lr"] for group in layer_wise_groups(classifier, 1.0, 0.1, 0.5)} == {1.0}
    with pytest.raises(ValueError, match="layer_decay must lie in"):
        layer_wise_groups(classifier, 1.0, 0.1, 1.5)


def with_adapters(classifier) -> PeftModel:
    config = LoraConfig(r=2, target_modules=LORA_TARGET_MODULES, modules_to_save=LORA_MODULES_TO_SAVE)
    return get_peft_model(copy.deepcopy(classifier), config)


def test_adapters_sit_in_every_matrix_of_the_encoder_and_nowhere_else(classifier):
    model = with_adapters(classifier)
    adapted = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert adapted == {
        f"base_model.model.vjepa.encoder.layers.{layer}.{matrix}"
        for layer in range(classifier.config.num_hidden_layers)
        for matrix in ("attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2")
    }
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[2] for name in learning} == {"vjepa", *LORA_MODULES_TO_SAVE}
    assert all("lora_" in name for name in learning if ".vjepa." in name)


# --- the Trainer ---


def train(model, videos, output, resume=None, collate=None, **options):
    defaults = {"per_device_train_batch_size": 4, "max_steps": 4, "seed": 0, "logging_steps": 1, "save_strategy": "no"}
    arguments = TrainingArguments(
        str(output),
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        lr_scheduler_type="constant",
        **(defaults | options),
    )
    groups = layer_wise_groups(model, 1e-3, 0.05, layer_decay=1.0)
    trainer = Trainer(
        model,
        arguments,
        data_collator=collate or ClassificationCollator(3),
        train_dataset=videos,
        callbacks=[EpochCallback(videos)],
        optimizers=(torch.optim.AdamW(groups), None),
    )
    with torch.random.fork_rng(devices=[]):
        trainer.train(resume_from_checkpoint=resume)
    return trainer


def largest_difference(first, second) -> float:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.invariant
@pytest.mark.parametrize("flag", [False, True], ids=["as it is", "with the guess of the Trainer"])
def test_accumulated_gradients_are_those_of_the_whole_batch(classifier, paths, processor, tmp_path, monkeypatch, flag):
    monkeypatch.setattr(VJEPAForVideoClassification, "accepts_loss_kwargs", flag)
    norms = []
    for batch in (4, 2):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 4 // batch, "max_steps": 1}
        log = train(copy.deepcopy(classifier), training_videos(paths[:4], processor), tmp_path, **options).state
        norms.append(log.log_history[0]["grad_norm"])
    assert (norms[1] == pytest.approx(norms[0], rel=1e-4)) is not flag


@pytest.mark.invariant
def test_a_resumed_trainer_equals_the_straight_one_bit_by_bit(classifier, paths, processor, tmp_path):
    classifier.config.drop_path_rate = 0.5
    collate = ClassificationCollator(3, mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1)
    models = []
    for resume in (None, str(tmp_path / "checkpoint-3")):  # six videos in batches of 4: in the middle of an epoch
        model = VJEPAForVideoClassification(copy.deepcopy(classifier.config))
        model.load_state_dict(classifier.state_dict())
        options = {"save_strategy": "steps", "save_steps": 3}
        videos = training_videos(paths[:6], processor, balanced=True)
        train(model, videos, tmp_path, resume, collate, **options)
        models.append(model)
    assert largest_difference(*models) == 0
    assert largest_difference(models[0], classifier) > 0


def test_a_frozen_encoder_stays_as_it_is_while_the_head_learns(classifier, paths, processor, tmp_path):
    model = copy.deepcopy(classifier)
    model.vjepa.requires_grad_(False)
    train(model, training_videos(paths[:4], processor), tmp_path, max_steps=2)
    assert largest_difference(model.vjepa, classifier.vjepa) == 0
    assert largest_difference(model.pooler, classifier.pooler) > 0


def test_adapters_learn_are_saved_loaded_and_merged(classifier, paths, processor, tiny_clip, tmp_path):
    model = with_adapters(classifier)
    trainer = train(model, training_videos(paths[:4], processor), tmp_path, max_steps=3)
    trainer.save_model(str(tmp_path / "adapter"))
    model.eval()
    logits = model(pixel_values_videos=tiny_clip).logits
    assert not torch.allclose(logits, classifier(tiny_clip).logits, atol=1e-4)
    loaded = PeftModel.from_pretrained(copy.deepcopy(classifier), tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(pixel_values_videos=tiny_clip).logits, logits)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(merged(tiny_clip).logits, logits, rtol=1e-4, atol=1e-5)
    assert set(merged.state_dict()) == set(classifier.state_dict())
    assert largest_difference(merged.vjepa.encoder.norm, classifier.vjepa.encoder.norm) == 0
    merged.save_pretrained(tmp_path / "merged")
    again = VJEPAForVideoClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(again(tiny_clip).logits, merged(tiny_clip).logits)
