"""Judge a pretrained encoder: train an attentive probe on its frozen features with few labels, and test it.

    accelerate launch examples/probe.py output/pretrain --label motion

judges the run of examples/pretrain.py on the toy set, and with `--random-init` an untrained encoder. On your own
videos (lists with a column of paths and one of labels, or class folders):

    accelerate launch examples/probe.py output/mine train.csv test.csv --label action --output output/probe

The folder it writes loads in `pipeline("video-classification")`. `python` and `torchrun` start it as well.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from accelerate import Accelerator

from vjepa_hf import VJEPAConfig, VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.data import load_videos
from vjepa_hf.evaluation import encode_labels, extract_features, few_labels, probe_logits, train_probe
from vjepa_hf.metrics import MeanClassAccuracy, TopKAccuracy


def main(
    model: Annotated[str, typer.Argument(help="folder or Hub name of a pretrained model")],
    train_videos: Annotated[Path, typer.Argument(help="to train the probe on")] = Path("output/toy_videos/train.csv"),
    test_videos: Annotated[Path, typer.Argument(help="to test it on")] = Path("output/toy_videos/test.csv"),
    label: Annotated[str, typer.Option(help="column with the labels")] = "label",
    labels_per_class: Annotated[int | None, typer.Option(help="training videos of each class; all by default")] = None,
    random_init: Annotated[bool, typer.Option(help="take the configuration but no weights: the baseline")] = False,
    output: Annotated[Path, typer.Option(help="folder of the classifier")] = Path("output/probe"),
    epochs: Annotated[int, typer.Option(help="passes over the training features")] = 50,
    batch_size: Annotated[int, typer.Option(help="videos of one step")] = 32,
    learning_rate: Annotated[float, typer.Option(help="at the first step")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="of AdamW")] = 0.01,
    num_workers: Annotated[int, typer.Option(help="processes that decode")] = 1,
    seed: Annotated[int, typer.Option(help="which labels are drawn, the probe's start, and a random encoder")] = 0,
) -> None:
    """Train and test an attentive probe on frozen features."""
    # 1. Data: all test videos, and a few training videos of each class.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    train, test = load_videos(train_videos), load_videos(test_videos)
    train_labels, names = encode_labels(train[label])
    test_labels, _ = encode_labels(test[label], names)
    chosen = np.arange(len(train)) if labels_per_class is None else few_labels(train_labels, labels_per_class, seed)
    train, train_labels = train.select(chosen), train_labels[chosen]

    # 2. Model: the target encoder with a new pooler and classifier.
    torch.manual_seed(seed)
    classes = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    if random_init:
        classifier = VJEPAForVideoClassification(VJEPAConfig.from_pretrained(model, **classes))
    else:
        classifier = VJEPAForVideoClassification.from_pretrained(model, **classes)
    classifier.to(accelerator.device)
    processor = VJEPAVideoProcessor.from_pretrained(model)

    # 3. Features: every video goes through the encoder once; an unreadable one is counted and never replaced.
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    train_features, test_features = (
        extract_features(
            accelerator,
            classifier.vjepa,
            processor,
            videos["video"],
            output / f"{split}_features.npy",
            num_workers=num_workers,
        )
        for split, videos in (("train", train), ("test", test))
    )
    for cause in [*train_features.failures.values(), *test_features.failures.values()]:
        accelerator.print(f"left out {cause}")
    if not accelerator.is_main_process:
        return

    # 4. Probe: the encoder stays as it is.
    rows = train_features.readable
    history = train_probe(
        classifier,
        train_features.tokens[rows],
        train_labels[rows],
        np.random.default_rng(seed),
        epochs,
        batch_size,
        learning_rate,
        weight_decay,
    )

    # 5. Test.
    rows = test_features.readable
    logits = probe_logits(classifier, test_features.tokens[rows])
    result = {"label": label, "random_init": random_init, "seed": seed, "train_videos": len(train_features.readable)}
    result |= {"test_videos": len(test), "unreadable_test_videos": len(test_features.failures)}
    result |= {"train_loss": history[-1]}
    for metric in (TopKAccuracy(k=1), MeanClassAccuracy()):
        result |= metric.compute(predictions=logits, references=test_labels[rows])

    # 6. Save: a classifier that needs nothing else.
    classifier.save_pretrained(output)
    processor.save_pretrained(output)
    (output / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    for split in ("train", "test"):
        (output / f"{split}_features.npy").unlink()
    print(json.dumps(result))
    print(f'classify a video: pipeline("video-classification", model="{output}")("some.mp4")')


if __name__ == "__main__":
    typer.run(main)
