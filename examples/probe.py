"""Train an attentive probe on the frozen features of a pretrained encoder, and test it.

    accelerate launch examples/probe.py --label motion --labels_per_class 8

evaluates the run of examples/pretrain.py on the toy set, and with `--random_init` an untrained encoder. On your own
videos (lists with a column of paths and one of labels, or folders with one sub-folder per class):

    accelerate launch examples/probe.py --model output/mine --train_videos train.csv --test_videos test.csv \
        --label action --output_dir output/probe

The folder it writes loads in `pipeline("video-classification")`. Several values of `--learning_rate` and
`--weight_decay` make a sweep that one pass over the features trains, several values of `--label_fraction` a low-shot
table. `--config FILE.yaml` holds any of the options; `python` and `torchrun` start the script as well.
docs/probing.md lists the protocols of the paper, command by command.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset

from vjepa_hf import VJEPAConfig, VJEPAForVideoClassification, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.data.sources import load_images, load_videos
from vjepa_hf.evaluation.features import extract_features
from vjepa_hf.evaluation.labels import LabelDraw, draw_labels, read_labels
from vjepa_hf.evaluation.live_features import LiveFeatures
from vjepa_hf.evaluation.probes import (
    Features,
    HeadSettings,
    TrainedHead,
    fit_probe,
    head_of,
    predict,
    score,
    summarize,
    write_confusion,
)
from vjepa_hf.evaluation.views import AugmentedClips, Clips, RegularClips, augmentation
from vjepa_hf.training.arguments import mistakes_exit, option, parse


@dataclass
class ProbeArguments:
    """Train and test attentive probes on frozen features, or test a classifier."""

    model: str = option("folder or Hub name of a pretrained model", "output/pretrain")
    train_videos: str = option("source of the training videos", "output/toy_videos/train.csv")
    test_videos: str = option("source of the test videos", "output/toy_videos/test.csv")
    validation_videos: str | None = option("source to choose a head on; None: part of the training videos", None)
    label: str = option("column with the labels; `label` for folders of classes", "label")
    evaluate_only: bool = option("test the classifier in `model` and train nothing", False)
    random_init: bool = option("use the configuration but not the weights of `model`: the baseline", False)
    labels_per_class: int | None = option("training videos per class; None: all", None)
    label_fraction: list[float] = option("fractions of the training videos of each class", [1.0])
    splits: int = option("draws of few labels, each with its own probe", 1)
    images: bool = option("the sources are folders of images; an image is a still clip", False)
    num_frames: int | None = option("frames per clip; 2 is enough for images, and faster; None: as the model", None)
    num_clips: int | None = option("clips per test video; None: as the model", None)
    num_crops: int | None = option("crops per test clip; None: as the model", None)
    attend_across_clips: bool = option("the probe attends to all clips of a video at once", False)
    num_pooler_layers: int = option("layers of the probe: 1 as in the paper, 4 as in V-JEPA 2", 1)
    augment: Literal["none", "crop", "flip", "auto"] = option("augmentation of the training clips", "none")
    augmented_views: int = option("augmentations of a training video whose features are kept", 1)
    features_dir: str | None = option("folder that keeps features for the next probe; None: they are deleted", None)
    live_features: bool = option("keep no features: decode again, and augment anew, in every epoch", False)
    epochs: int = option("passes over the training features", 50)
    batch_size: int = option("videos per step", 32)
    learning_rate: list[float] = option("initial learning rates; several make a sweep", [1e-3])
    weight_decay: list[float] = option("weight decays of AdamW; several make a sweep", [0.01])
    num_workers: int = option("processes that decode", 1)
    seed: int = option("seed of the draws of labels, the initial head, and a random encoder", 0)
    output_dir: str = option("folder of the classifier and its result", "output/probe")

    def __post_init__(self) -> None:
        if self.attend_across_clips and self.num_clips is None:
            raise ValueError("attend_across_clips needs num_clips, the number of clips to attend to")
        if self.evaluate_only and self.random_init:
            raise ValueError(
                "evaluate_only tests the weights of model, so random_init has no effect: omit one of them"
            )

    @property
    def views(self) -> dict[str, int]:
        """The settings of the processor that were given."""
        views = {"num_frames": self.num_frames, "num_clips": self.num_clips, "num_crops": self.num_crops}
        return {name: value for name, value in views.items() if value is not None}


def main(command_line: Sequence[str] | None = None) -> None:
    # 1. Arguments.
    args = parse(ProbeArguments, command_line)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    torch.manual_seed(args.seed)

    # 2. Load: the videos with their labels, and the frozen encoder with the head that is trained or tested.
    with mistakes_exit():
        tables = load_tables(args)
        labels, names = load_labels(args, tables)
        draws = draw(args, labels)
        classifier = load_classifier(args, names).to(accelerator.device)
        classifier.resize_position_embeddings(args.num_frames)
        processor = VJEPAVideoProcessor.from_pretrained(args.model, **args.views)

    # 3. Clips: regular ones for testing, for training one view, which may be augmented.
    clips = {split: make_clips(args, split, classifier.config, processor) for split in tables}

    # 4. Features: all processes make them, one trains on them. An unreadable video is skipped, not replaced.
    features = extract(args, accelerator, classifier.vjepa, clips, tables)
    if not accelerator.is_main_process:
        return

    # 5. Train: all heads of a sweep side by side; the best one is chosen on validation videos, never on test videos.
    probes = [train(args, classifier, features, labels, labels_drawn) for labels_drawn in draws]

    # 6. Test: all probes in one pass over the test features.
    heads = [probe.head for probe in probes] or [head_of(classifier).eval()]
    with mistakes_exit():
        rows, logits = predict(classifier, heads, features["test"], np.arange(len(tables["test"])))
    records = [score(head_logits, labels["test"][rows], names) for head_logits in logits]
    for record, labels_drawn, probe in zip(records, draws, probes, strict=False):
        record |= {"labels": labels_drawn.labels, "seed": labels_drawn.seed, "train_videos": len(labels_drawn.rows)}
        record |= vars(probe.settings) | {"train_loss": probe.losses[-1]}
        record |= {"validation_accuracy": probe.validation_accuracy}

    # 7. Report: the metrics, the confusion matrix, and the classifier that saw the most labels.
    result = describe(args, processor, features["test"], records)
    output = Path(args.output_dir)
    best = int(np.argmax([len(labels_drawn.rows) for labels_drawn in draws])) if draws else 0
    write_confusion(output, logits[best], labels["test"][rows], names)
    (output / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    for failure in (failure for split in features.values() for failure in split.failures.values()):
        print(f"skipped {failure}")
    print(json.dumps({name: value for name, value in result.items() if name not in ("per_class", "probes")}))
    if probes:
        head_of(classifier).load_state_dict(heads[best].state_dict())
        classifier.save_pretrained(output)
        processor.save_pretrained(output)
        print(f'classify a video: pipeline("video-classification", model="{output}")("some.mp4")')
    shutil.rmtree(output / "features", ignore_errors=True)


# --- load ----------------------------------------------------------------------------------------------------------


def load_tables(args: ProbeArguments) -> dict[str, Dataset]:
    """Return split -> table of videos."""
    sources: dict[str, str | None] = {"test": args.test_videos}
    if not args.evaluate_only:
        sources |= {"train": args.train_videos, "validation": args.validation_videos}
    load = load_images if args.images else load_videos
    return {split: load(source) for split, source in sources.items() if source is not None}


def load_labels(args: ProbeArguments, tables: dict[str, Dataset]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return split -> class indices, and the class names: those of the training videos, or of the classifier."""
    if args.evaluate_only:
        names = list(VJEPAConfig.from_pretrained(args.model).id2label.values())
    else:
        _, names = read_labels(tables["train"], args.label, "train_videos")
    labels = {split: read_labels(table, args.label, f"{split}_videos", names)[0] for split, table in tables.items()}
    return labels, names


def draw(args: ProbeArguments, labels: dict[str, np.ndarray]) -> list[LabelDraw]:
    """Return the training rows of each probe."""
    if args.evaluate_only:
        return []
    return draw_labels(labels["train"], args.label_fraction, args.splits, args.seed, args.labels_per_class)


def load_classifier(args: ProbeArguments, names: list[str]) -> VJEPAForVideoClassification:
    """Return the classifier of a folder, or the encoder of a folder with a new pooler and classifier."""
    if args.evaluate_only:
        return VJEPAForVideoClassification.from_pretrained(args.model, dtype=torch.float32)
    config = VJEPAConfig.from_pretrained(
        args.model,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        num_pooler_layers=args.num_pooler_layers,
        pooler_num_clips=args.num_clips if args.attend_across_clips else 1,
    )
    classifier = VJEPAForVideoClassification(config)
    if not args.random_init:
        classifier.vjepa = VJEPAModel.from_pretrained(args.model, add_predictor=False, dtype=torch.float32)
    return classifier


# --- clips and features --------------------------------------------------------------------------------------------


def make_clips(args: ProbeArguments, split: str, config: VJEPAConfig, processor: VJEPAVideoProcessor) -> Clips:
    """Return the clips of a split: all views of the processor for testing, one view for training."""
    if split != "train":
        return RegularClips(processor)
    size = processor.crop_size["height"], processor.crop_size["width"]
    transform = augmentation(args.augment, size)
    if transform is not None:
        views = tuple(range(args.augmented_views))
        return AugmentedClips(processor, transform, args.seed, views, config.pooler_num_clips)
    one_view = args.views | {"num_clips": config.pooler_num_clips, "num_crops": 1}
    return RegularClips(VJEPAVideoProcessor.from_pretrained(args.model, **one_view))


def extract(
    args: ProbeArguments,
    accelerator: Accelerator,
    encoder: VJEPAModel,
    clips: dict[str, Clips],
    tables: dict[str, Dataset],
) -> dict[str, Features]:
    """Return split -> features, kept in a folder or computed in every pass."""
    temporary = Path(args.output_dir) / "features"
    if accelerator.is_main_process:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
    accelerator.wait_for_everyone()
    folder = Path(args.features_dir) if args.features_dir else temporary
    features: dict[str, Features] = {}
    with mistakes_exit():
        for split, table in tables.items():
            videos, workers = table["video"], args.num_workers
            if args.live_features:
                features[split] = LiveFeatures(accelerator, encoder, clips[split], videos, num_workers=workers)
            else:
                features[split] = extract_features(
                    accelerator, encoder, clips[split], videos, folder / split, num_workers=workers
                )
    return features


# --- train and report ----------------------------------------------------------------------------------------------


def train(
    args: ProbeArguments,
    classifier: VJEPAForVideoClassification,
    features: dict[str, Features],
    labels: dict[str, np.ndarray],
    labels_drawn: LabelDraw,
) -> TrainedHead:
    """Train a head for every learning rate and weight decay on the drawn labels, and return the best one."""
    validation = (features["validation"], labels["validation"]) if "validation" in features else None
    with mistakes_exit():
        return fit_probe(
            classifier,
            [HeadSettings(rate, decay) for rate, decay in product(args.learning_rate, args.weight_decay)],
            features["train"],
            labels["train"],
            rows=np.intersect1d(labels_drawn.rows, features["train"].readable),
            seed=labels_drawn.seed,
            epochs=args.epochs,
            batch_size=args.batch_size,
            validation=validation,
        )[0]


def describe(
    args: ProbeArguments, processor: VJEPAVideoProcessor, test: Features, records: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what was tested with the metrics of one probe, or with a summary and the metrics of each of several."""
    setting: dict[str, Any] = {"label": args.label, "random_init": args.random_init}
    setting |= {"num_clips": processor.num_clips, "num_crops": processor.num_crops}
    setting |= {"test_videos": len(test.readable) + len(test.failures), "unreadable_test_videos": len(test.failures)}
    return setting | (records[0] if len(records) == 1 else {"summary": summarize(records), "probes": records})


if __name__ == "__main__":
    main()
