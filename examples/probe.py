"""Train an attentive probe on the frozen features of a pretrained encoder, and test it.

    accelerate launch examples/probe.py --label motion --labels_per_class 8

evaluates the run of examples/pretrain.py on the toy set, and with `--random_init` an untrained encoder. On your own
videos (lists with a column of paths and one of labels, or folders with one sub-folder per class):

    accelerate launch examples/probe.py --model output/mine --train_videos train.csv --test_videos test.csv \
        --label action --output_dir output/probe

The output folder loads in `pipeline("video-classification")`. Several values of `--learning_rate` and `--weight_decay`
are a sweep in one pass over the features, several values of `--label_fraction` a low-shot table. docs/probing.md has
the commands of the paper's protocols.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from vjepa_hf import VJEPAConfig, VJEPAForVideoClassification, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.data.sources import load_images, load_videos
from vjepa_hf.evaluation import probes
from vjepa_hf.evaluation.features import extract_features
from vjepa_hf.evaluation.labels import draw_labels, read_labels
from vjepa_hf.evaluation.live_features import LiveFeatures
from vjepa_hf.evaluation.views import AugmentedClips, Clips, RegularClips, augmentation
from vjepa_hf.files import named_damage, whole_files
from vjepa_hf.model.names import printable
from vjepa_hf.model_card import accuracy_results, hyperparameters, read_origin, write_card
from vjepa_hf.training.arguments import HubArguments, mistakes_exit, option, parse
from vjepa_hf.training.hub import add_remote_code, open_repo
from vjepa_hf.training.launcher import make_accelerator

SAVED = "saved_classifier"  # key of result.json, by which a later call knows the folder of a probe


@dataclass
class ProbeArguments:
    """Train and test attentive probes on frozen features, or test a classifier."""

    model: str = option("folder or Hub name of a pretrained model", "output/pretrain")
    train_videos: str = option("source of the training videos", "output/toy_videos/train.csv")
    test_videos: str = option("source of the test videos", "output/toy_videos/test.csv")
    validation_videos: str | None = option("source for model selection; None: part of the training videos", None)
    label: str = option("column with the labels; `label` for folders of classes", "label")
    evaluate_only: bool = option("test the classifier in `model`, without training", False)
    random_init: bool = option("baseline: do not load the weights of `model`, only its configuration", False)
    labels_per_class: int | None = option("training videos per class; None: all", None)
    label_fraction: list[float] = option("fractions of the training videos of each class", [1.0])
    splits: int = option("draws of the labels, each with its own probe", 1)
    images: bool = option("the sources are folders of images; an image is a still clip", False)
    num_frames: int | None = option("frames per clip (2 is enough for images, and faster); None: as the model", None)
    num_clips: int | None = option("clips per test video; None: as the model", None)
    num_crops: int | None = option("crops per test clip; None: as the model", None)
    attend_across_clips: bool = option("one probe pass over all clips of a video, instead of one per clip", False)
    num_pooler_layers: int = option("layers of the probe: 1 as in the paper, 4 as in V-JEPA 2", 1)
    pooler_layers: list[int] = option(
        "encoder layers, from 0, that the probe reads together (default: as the model)", []
    )
    augment: Literal["none", "crop", "flip", "auto"] = option("augmentation of the training clips", "none")
    augmented_views: int = option("cached augmentations per training video", 1)
    features_dir: str | None = option("folder that caches features for later probes; None: delete them", None)
    live_features: bool = option("do not cache features: decode, augment and encode in every epoch", False)
    epochs: int | None = option("passes over the training features (None: 50)", None)
    min_steps: int | None = option(
        "lower bound of the optimizer steps: a few videos get more epochs (None: 300, or 0 with epochs)", None
    )
    batch_size: int = option("videos per step", 32)
    learning_rate: list[float] = option("initial learning rate; several values are a sweep", [1e-3])
    weight_decay: list[float] = option("weight decay of AdamW; several values are a sweep", [0.01])
    num_workers: int = option("worker processes that decode", 1)
    seed: int = option("seed of the label draws, the initial head and a random encoder", 0)
    output_dir: str = option("folder of the classifier and its result", "output/probe")
    hub: HubArguments = field(default_factory=HubArguments)

    def __post_init__(self) -> None:
        for name in ("model", "train_videos", "test_videos", "validation_videos", "features_dir", "output_dir"):
            if path := getattr(self, name):
                setattr(self, name, os.path.expanduser(path))
        if self.min_steps is None:
            self.min_steps = 300 if self.epochs is None else 0
        if self.epochs is None:
            self.epochs = 50
        if self.attend_across_clips and self.num_clips is None:
            raise ValueError("attend_across_clips needs num_clips, the number of clips to attend to")
        if self.evaluate_only and self.random_init:
            raise ValueError("evaluate_only tests the weights of model, so random_init has no effect: omit one")
        if self.evaluate_only and (self.hub.push_to_hub or self.hub.hub_remote_code):
            raise ValueError("evaluate_only writes no model, so the options of the Hub have no effect: omit them")

    def load_processor(self, **views: int | None) -> VJEPAVideoProcessor:
        """Load the processor of the model with the given frames, clips and crops."""
        views = {"num_frames": self.num_frames, "num_clips": self.num_clips, "num_crops": self.num_crops} | views
        views = {name: value for name, value in views.items() if value is not None}
        with named_damage(self.model):
            return VJEPAVideoProcessor.from_pretrained(self.model, **views)


def main(command_line: Sequence[str] | None = None) -> None:
    # 1. Arguments.
    args = parse(ProbeArguments, command_line)
    with mistakes_exit():
        accelerator = make_accelerator()
    torch.manual_seed(args.seed)
    output = Path(args.output_dir)

    with ExitStack() as stack:  # keeps the features until the test
        with mistakes_exit():
            folder = stack.enter_context(features_folder(args, accelerator))

            # 2. Load: videos with labels, and the frozen encoder with a new head, or the classifier to test.
            tables = load_tables(args)
            origin = read_origin(None if args.random_init else args.model)
            repo = open_repo(accelerator, args.hub, output)
            classifier = load_classifier(args, tables).to(accelerator.device)
            names = list(classifier.config.id2label.values())
            labels = {
                split: read_labels(table, args.label, f"{split}_videos", names)[0] for split, table in tables.items()
            }
            draws = []  # the training rows of each probe
            if not args.evaluate_only:
                draws = draw_labels(
                    labels["train"], args.label_fraction, args.splits, args.seed, args.labels_per_class
                )

            # 3. Clips: all views of the processor, but one view of a training video, which may be augmented.
            processor = args.load_processor()
            clips: dict[str, Clips] = {split: RegularClips(processor) for split in tables}
            if "train" in clips:
                clips["train"] = training_clips(args, processor, classifier.config.pooler_num_clips)

            # 4. Features: all processes extract them, one trains on them. Unreadable videos are skipped, not replaced.
            features = extract(args, accelerator, classifier, clips, tables, folder)
        if not accelerator.is_main_process:
            return

        # 5. Train: a head for each setting of the sweep; the best one is selected on validation videos.
        settings = [
            probes.HeadSettings(learning_rate, weight_decay)
            for learning_rate, weight_decay in product(args.learning_rate, args.weight_decay)
        ]
        validation = (features["validation"], labels["validation"]) if "validation" in features else None
        trained = []
        for draw in draws:
            ranked = probes.fit_probe(
                classifier,
                settings,
                features["train"],
                labels["train"],
                rows=np.intersect1d(draw.rows, features["train"].readable),
                seed=draw.seed,
                epochs=args.epochs,
                batch_size=args.batch_size,
                min_steps=args.min_steps,
                validation=validation,
            )
            trained.append(ranked[0])

        # 6. Test: all probes in one pass over the test features.
        heads = [probe.head for probe in trained] or [probes.head_of(classifier).eval()]
        rows, logits = probes.predict(classifier, heads, features["test"], np.arange(len(tables["test"])))
    test_labels = labels["test"][rows]
    records = [probes.score(head_logits, test_labels, names) for head_logits in logits]
    for record, draw, probe in zip(records, draws, trained, strict=False):
        record |= {"labels": draw.labels, "seed": draw.seed, "train_videos": len(draw.rows)}
        record |= vars(probe.settings) | {"train_loss": probe.losses[-1]}
        record |= {"validation_accuracy": probe.validation_accuracy}

    # 7. Report: the metrics, the confusion matrix, and the classifier with the most labels.
    result: dict[str, Any] = {"label": args.label, "random_init": args.random_init}
    result |= {"num_clips": processor.num_clips, "num_crops": processor.num_crops}
    result |= {"test_videos": len(tables["test"]), "unreadable_test_videos": len(features["test"].failures)}
    if trained or (output / "config.json").exists():
        result[SAVED] = True
    result |= records[0] if len(records) == 1 else {"summary": probes.summarize(records), "probes": records}
    for failure in (failure for split in features.values() for failure in split.failures.values()):
        print(f"skipped {printable(str(failure))}")
    print(json.dumps({name: value for name, value in result.items() if name not in ("per_class", "probes")}))
    best = int(np.argmax([len(draw.rows) for draw in draws])) if draws else 0
    with whole_files(output) as unfinished:
        (unfinished / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        probes.write_confusion(unfinished, logits[best], test_labels, names)
        if trained:
            probes.head_of(classifier).load_state_dict(heads[best].state_dict())
            classifier.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
            if args.hub.hub_remote_code:
                add_remote_code(unfinished)
    if trained:
        about = f"A video classifier with {len(names)} classes: an attentive probe on the frozen features of a V-JEPA "
        about += "encoder with random weights, a baseline." if args.random_init else "encoder."
        write_card(
            output,
            "VJEPAForVideoClassification",
            about,
            origin,
            {
                "Data": f"{records[best]['train_videos']:,} training videos with labels, {len(tables['test']):,} test "
                f"videos, of which {len(features['test'].failures):,} cannot be read.",
                "Hyperparameters": hyperparameters(asdict(args) | vars(trained[best].settings) | {"hub": None}),
            },
            accuracy_results(records[best], args.test_videos),
            repo and repo.name,
            args.hub.hub_remote_code,
        )
        if repo is not None:
            repo.upload("probe")
        print(f'classify a video: pipeline("video-classification", model="{output}")("some.mp4")')


@contextmanager
def features_folder(args: ProbeArguments, accelerator: Accelerator) -> Iterator[Path]:
    """Make the folders of the output and of the features; yield the latter, which is removed if it was not named.

    Raises:
        OSError: a folder cannot be made or written.
        ValueError: the output folder holds a model that is not one of this script.
    """
    with ExitStack() as stack:
        folder = None
        if accelerator.is_main_process:
            output = Path(args.output_dir)
            if holds_another_model(output):
                raise ValueError(f"output_dir {str(output)!r} holds another model or a run; choose a new folder")
            output.mkdir(parents=True, exist_ok=True)
            # Made in any case: it shows that the output can be written.
            private = TemporaryDirectory(prefix="features_", dir=output, ignore_cleanup_errors=True)
            folder = stack.enter_context(private)
            if args.features_dir:
                folder = args.features_dir
                Path(folder).mkdir(parents=True, exist_ok=True)
                TemporaryFile(dir=folder).close()
        (folder,) = broadcast_object_list([folder])
        yield Path(folder)


def holds_another_model(folder: Path) -> bool:
    """Return whether a folder holds the files of a model, or a run, that this script did not write."""
    patterns = ("config.json", "*.safetensors*", "*.bin", "arguments.yaml", "checkpoint*")
    if not any(found for pattern in patterns for found in folder.glob(pattern)):
        return False
    try:
        return not json.loads((folder / "result.json").read_text())[SAVED]
    except (OSError, ValueError, LookupError, TypeError):
        return True


def load_tables(args: ProbeArguments) -> dict[str, Dataset]:
    """Return split -> table of videos."""
    sources = {"train": args.train_videos, "validation": args.validation_videos, "test": args.test_videos}
    splits = ["test"] if args.evaluate_only else [split for split, source in sources.items() if source]
    load = load_images if args.images else load_videos
    return {split: load(sources[split]) for split in splits}


def load_classifier(args: ProbeArguments, tables: dict[str, Dataset]) -> VJEPAForVideoClassification:
    """Return the classifier to test, or the encoder with a new head for the classes of the training videos."""
    if args.evaluate_only:
        with named_damage(args.model):
            classifier = VJEPAForVideoClassification.from_pretrained(args.model, dtype=torch.float32)
        classifier.resize_position_embeddings(args.num_frames)
        return classifier
    _, names = read_labels(tables["train"], args.label, "train_videos")
    with named_damage(args.model):
        config = VJEPAConfig.from_pretrained(
            args.model,
            id2label=dict(enumerate(names)),
            label2id={name: index for index, name in enumerate(names)},
            num_pooler_layers=args.num_pooler_layers,
            pooler_num_clips=args.num_clips if args.attend_across_clips else 1,
            **({"pooler_layers": args.pooler_layers} if args.pooler_layers else {}),
        )
        classifier = VJEPAForVideoClassification(config)
        if not args.random_init:
            classifier.vjepa = VJEPAModel.from_pretrained(args.model, add_predictor=False, dtype=torch.float32)
    classifier.resize_position_embeddings(num_frames=args.num_frames)
    return classifier


def training_clips(args: ProbeArguments, processor: VJEPAVideoProcessor, num_clips: int) -> Clips:
    """Return one view of `num_clips` clips per training video, or several augmented ones."""
    transform = augmentation(args.augment, (processor.crop_size["height"], processor.crop_size["width"]))
    if transform is None:
        return RegularClips(args.load_processor(num_clips=num_clips, num_crops=1))
    return AugmentedClips(processor, transform, args.seed, tuple(range(args.augmented_views)), num_clips)


def extract(
    args: ProbeArguments,
    accelerator: Accelerator,
    classifier: VJEPAForVideoClassification,
    clips: dict[str, Clips],
    tables: dict[str, Dataset],
    folder: Path,
) -> dict[str, probes.Features]:
    """Return split -> features of the layers that the classifier reads, cached or computed in every pass."""
    features: dict[str, probes.Features] = {}
    for split, table in tables.items():
        options = {
            "model": classifier.vjepa,
            "processor": clips[split],
            "videos": table["video"],
            "num_workers": args.num_workers,
            "layers": classifier.config.pooler_layers,
        }
        if args.live_features:
            features[split] = LiveFeatures(accelerator, **options)
        else:
            features[split] = extract_features(accelerator, path=folder / split, **options)
        if not len(features[split].readable):
            failure = features[split].failures[0]
            raise ValueError(f"none of the {len(table)} {split}_videos can be read; the first: {failure}")
    return features


if __name__ == "__main__":
    main()
