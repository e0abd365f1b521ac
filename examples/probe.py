"""Judge a pretrained encoder: train an attentive probe on its frozen features, and test it.

    accelerate launch examples/probe.py output/pretrain --label motion --labels-per-class 8

judges the run of examples/pretrain.py on the toy set, and with `--random-init` an untrained encoder. On your own
videos (lists with a column of paths and one of labels, or folders with one sub-folder a class):

    accelerate launch examples/probe.py output/mine train.csv test.csv --label action --output output/probe

The folder it writes loads in `pipeline("video-classification")`; `python` and `torchrun` start it as well. What says
"repeat" may be given several times: learning rates and weight decays make a sweep that one pass over the features
trains, label shares make a low-shot table. docs/probing.md has the protocols of the paper, command by command.
"""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from accelerate import Accelerator

from vjepa_hf import VJEPAConfig, VJEPAForVideoClassification, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.data.clips import load_videos
from vjepa_hf.data.sources import load_images
from vjepa_hf.evaluation.features import AugmentedClips, LiveFeatures, RegularClips, augmentation, extract_features
from vjepa_hf.evaluation.labels import draw_labels, encode_labels
from vjepa_hf.evaluation.probes import HeadSettings, fit_probe, head_of, predict, score, summarize, write_confusion

TOY = Path("output/toy_videos")


def main(
    model: Annotated[str, typer.Argument(help="folder or Hub name of a pretrained model")],
    train_videos: Annotated[Path, typer.Argument(help="to train the probe on")] = TOY / "train.csv",
    test_videos: Annotated[Path, typer.Argument(help="to test it on")] = TOY / "test.csv",
    val_videos: Annotated[Path | None, typer.Option(help="to choose heads by; default: part of the training")] = None,
    evaluate: Annotated[Path | None, typer.Option(help="test the classifier MODEL on these and train nothing")] = None,
    label: Annotated[str, typer.Option(help="column with the labels")] = "label",
    labels_per_class: Annotated[int | None, typer.Option(help="training videos of each class; all by default")] = None,
    label_share: Annotated[list[float], typer.Option(help="of the videos of each class; repeat")] = (1.0,),
    splits: Annotated[int, typer.Option(help="draws of the few labels, each with its probe")] = 1,
    images: Annotated[bool, typer.Option(help="folders hold images, each a still clip")] = False,
    num_frames: Annotated[int | None, typer.Option(help="frames of a clip; 2 is the fast way with images")] = None,
    random_init: Annotated[bool, typer.Option(help="take the configuration but no weights: the baseline")] = False,
    num_pooler_layers: Annotated[int, typer.Option(help="1 as in the paper, 4 as in V-JEPA 2")] = 1,
    num_clips: Annotated[int | None, typer.Option(help="clips of a test video")] = None,
    num_crops: Annotated[int | None, typer.Option(help="crops of a test clip")] = None,
    attend_across_clips: Annotated[bool, typer.Option(help="the probe sees all clips of a video at once")] = False,
    augment: Annotated[str, typer.Option(help="training clips: none, crop, flip or auto")] = "none",
    augmented_views: Annotated[int, typer.Option(help="augmentations of a training video that are kept")] = 1,
    features: Annotated[Path | None, typer.Option(help="keep features in this folder for the next probe")] = None,
    from_video: Annotated[bool, typer.Option(help="keep no features: new augmentations in every epoch")] = False,
    output: Annotated[Path, typer.Option(help="folder of the classifier")] = Path("output/probe"),
    epochs: Annotated[int, typer.Option(help="passes over the training features")] = 50,
    batch_size: Annotated[int, typer.Option(help="videos of one step")] = 32,
    learning_rate: Annotated[list[float], typer.Option(help="at the first step; repeat")] = (1e-3,),
    weight_decay: Annotated[list[float], typer.Option(help="of AdamW; repeat")] = (0.01,),
    num_workers: Annotated[int, typer.Option(help="processes that decode")] = 1,
    seed: Annotated[int, typer.Option(help="which labels are drawn, the probe's start, and a random encoder")] = 0,
) -> None:
    """Train and test an attentive probe on frozen features, or only test a classifier."""
    # 1. Data: the videos of each split, and which labels each probe may see.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    torch.manual_seed(seed)
    sources = {"test": evaluate} if evaluate else {"train": train_videos, "test": test_videos, "val": val_videos}
    load = load_images if images else load_videos
    videos = {split: load(source) for split, source in sources.items() if source}
    trained = VJEPAConfig.from_pretrained(model)
    names = list(trained.id2label.values()) if evaluate else encode_labels(videos["train"][label])[1]
    labels = {split: encode_labels(table[label], names)[0] for split, table in videos.items()}
    draws = [] if evaluate else draw_labels(labels["train"], label_share, splits, seed, labels_per_class)

    # 2. Model: the frozen encoder, and a pooler and classifier on top of it.
    if evaluate:
        classifier = VJEPAForVideoClassification.from_pretrained(model, dtype=torch.float32)
    else:
        head = {"num_pooler_layers": num_pooler_layers, "pooler_num_clips": num_clips if attend_across_clips else 1}
        classifier = new_classifier(model, names, random_init, **head)
    classifier.to(accelerator.device).resize_position_embeddings(num_frames)
    views = {"num_frames": num_frames, "num_clips": num_clips, "num_crops": num_crops}
    views = {name: value for name, value in views.items() if value is not None}
    processor = VJEPAVideoProcessor.from_pretrained(model, **views)

    # 3. Features: every view of a video goes through the encoder once; an unreadable video is never replaced.
    clips = dict.fromkeys(videos, RegularClips(processor))
    if not evaluate:
        one_view = {"num_clips": classifier.config.pooler_num_clips, "num_crops": 1}
        clips["train"] = RegularClips(VJEPAVideoProcessor.from_pretrained(model, **views | one_view))
        if transform := augmentation(augment, (processor.crop_size.height, processor.crop_size.width)):
            numbers = tuple(range(augmented_views))
            clips["train"] = AugmentedClips(processor, transform, seed, numbers, one_view["num_clips"])
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(output / "features", ignore_errors=True)
    accelerator.wait_for_everyone()
    found = {}
    for split, table in videos.items():
        inputs = accelerator, classifier.vjepa, clips[split], table["video"]
        if from_video:
            found[split] = LiveFeatures(*inputs, num_workers=num_workers)
        else:
            folder = (features or output / "features") / split
            found[split] = extract_features(*inputs, folder, num_workers=num_workers)
    if not accelerator.is_main_process:
        return

    # 4. Probes: all heads of the sweep train together; one is chosen without a look at the test videos.
    settings = [HeadSettings(*pair) for pair in product(learning_rate, weight_decay)]
    validation = (found["val"], labels["val"]) if "val" in found else None
    probes = []
    for draw in draws:
        rows = np.intersect1d(draw.rows, found["train"].readable)
        training = found["train"], labels["train"], rows, draw.seed, epochs, batch_size, validation
        probes.append(fit_probe(classifier, settings, *training)[0])

    # 5. Test: all probes in one pass over the test features.
    heads = [probe.head for probe in probes] or [head_of(classifier).eval()]
    rows, logits = predict(classifier, heads, found["test"], np.arange(len(videos["test"])))
    records = [score(each, labels["test"][rows], names) for each in logits]
    for record, probe, draw in zip(records, probes, draws, strict=False):
        record |= {"labels": draw.labels, "seed": draw.seed, "train_videos": len(draw.rows)}
        record |= vars(probe.settings) | {"train_loss": probe.losses[-1]}
        record |= {"validation_accuracy": probe.validation_accuracy}
    result = {"label": label, "random_init": random_init, "num_clips": processor.num_clips}
    result |= {"num_crops": processor.num_crops, "test_videos": len(videos["test"])}
    result |= {"unreadable_test_videos": len(found["test"].failures)}
    result |= records[0] if len(records) == 1 else {"summary": summarize(records), "probes": records}

    # 6. Save: the classifier that saw the most labels, and what it confuses.
    saved = int(np.argmax([len(draw.rows) for draw in draws])) if draws else 0
    write_confusion(output, logits[saved], labels["test"][rows], names)
    (output / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    shutil.rmtree(output / "features", ignore_errors=True)
    for cause in (cause for split in found.values() for cause in split.failures.values()):
        print(f"left out {cause}")
    print(json.dumps({name: value for name, value in result.items() if name not in ("per_class", "probes")}))
    if probes:
        head_of(classifier).load_state_dict(heads[saved].state_dict())
        classifier.save_pretrained(output)
        processor.save_pretrained(output)
        print(f'classify a video: pipeline("video-classification", model="{output}")("some.mp4")')


def new_classifier(model: str, names: list[str], random_init: bool, **head: int) -> VJEPAForVideoClassification:
    """An untrained pooler and classifier on the encoder of a folder, or with `random_init` on an untrained one."""
    classes = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    classifier = VJEPAForVideoClassification(VJEPAConfig.from_pretrained(model, **classes, **head))
    if not random_init:
        classifier.vjepa = VJEPAModel.from_pretrained(model, add_predictor=False, dtype=torch.float32)
    return classifier


if __name__ == "__main__":
    typer.run(main)
