"""Train and test action detection in boxes of key frames, on AVA or on a data set in AVA's file format.

    accelerate launch examples/detect_actions.py --image_size 72

trains an attentive pooler and a classifier on the frozen encoder of examples/pretrain.py. It uses a toy set, which it
writes if it is missing. On AVA:

    accelerate launch examples/detect_actions.py --model MODEL \
        --train_videos AVA/videos --train_annotations ava_train_v2.2.csv \
        --test_videos AVA/videos --test_annotations ava_val_v2.2.csv \
        --test_boxes ava_val_detections.csv --min_score 0.8 --excluded ava_val_excluded_timestamps_v2.2.csv \
        --actions ava_action_list_v2.2_for_activitynet_2019.pbtxt

`--config FILE.yaml` has any of the options; `python` and `torchrun` start the script as well.
"""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

from vjepa_hf import VJEPAConfig, VJEPAForActionDetection, VJEPAVideoProcessor
from vjepa_hf.evaluation import detection
from vjepa_hf.files import whole_files
from vjepa_hf.model_card import Origin, accuracy_results, hyperparameters, read_origin, write_card
from vjepa_hf.training.arguments import HubArguments, mistakes_exit, option, parse
from vjepa_hf.training.hub import HubRepo, add_remote_code, open_repo
from vjepa_hf.training.launcher import make_accelerator
from vjepa_hf.training.output import claim_output_dir

TOY = "output/toy_actions"
NUM_DRAWN = 8  # key frames in the figure


@dataclass
class DetectionArguments:
    """Train and test action detection in boxes of key frames."""

    model: str = option("folder or Hub name of a pretrained model", "output/pretrain")
    train_videos: str = option("folder of videos, or of folders of frames, to train on", f"{TOY}/train")
    train_annotations: str = option("csv of annotated boxes to train on", f"{TOY}/train.csv")
    test_videos: str = option("folder of videos, or of folders of frames, to test on", f"{TOY}/test")
    test_annotations: str = option("csv of annotated boxes to test on", f"{TOY}/test.csv")
    test_boxes: str | None = option("csv of detected boxes to test on; None: the annotated boxes", None)
    min_score: float = option("skip detected boxes with a lower score", 0.0)
    actions: str = option("file with the names and ids of the actions", f"{TOY}/actions.pbtxt")
    excluded: str | None = option("csv of test key frames to exclude", None)
    first_second: float = option(
        "second of the first frame; 900 for AVA videos that are cut to the annotated part", 0.0
    )
    frame_rate: float | None = option("fps of videos that are folders of frames", None)
    fps: float | None = option("fps of a clip; None: as the model", None)
    image_size: int | None = option("side of a clip (px); None: as the model", None)
    roi_size: int = option("rows and columns of features per box", 3)
    random_init: bool = option("baseline: do not load the weights of model, only its configuration", False)
    fine_tune: bool = option("train the encoder too", False)
    epochs: int = option("passes over the training clips", 20)
    batch_size: int = option("clips per step and process", 16)
    learning_rate: float = option("peak learning rate", 3e-3)
    weight_decay: float = option("weight decay of AdamW", 0.05)
    num_workers: int = option("worker processes that decode, per process", 1)
    seed: int = option("seed of the order of the clips, the initial head and a random encoder", 0)
    output_dir: str = option("folder of the model and its results", "output/detect_actions")
    hub: HubArguments = field(default_factory=HubArguments)


def main(command_line: Sequence[str] | None = None) -> None:
    # 1. Arguments.
    args = parse(DetectionArguments, command_line)
    with mistakes_exit():
        accelerator = make_accelerator()
    torch.manual_seed(args.seed)
    with accelerator.main_process_first():
        if args.train_annotations == f"{TOY}/train.csv" and not Path(args.train_annotations).exists():
            make_toy_actions = Path(__file__).parent / "make_toy_actions.py"
            subprocess.run([sys.executable, make_toy_actions, "--output_dir", TOY], check=True)

    # 2. Data and model: boxes of key frames, a clip around each key frame, and the encoder with a new head.
    with mistakes_exit():
        actions = detection.read_actions(args.actions)
        names = list(actions.values())
        excluded = detection.read_excluded(args.excluded) if args.excluded else ()
        train_frames = detection.read_annotations(args.train_annotations, actions)
        annotated_frames = test_frames = detection.read_annotations(args.test_annotations, actions, excluded)
        if args.test_boxes:
            test_frames = detection.read_boxes(args.test_boxes, args.min_score, excluded)
        detector = load_detector(args, names)
        processor = VJEPAVideoProcessor.from_pretrained(args.model)
        processor = detection.whole_frame_processor(processor, args.image_size, args.fps)
        train_clips, test_clips = (
            detection.KeyFrameClips(
                frames, detection.find_videos(folder), processor, args.first_second, args.frame_rate
            )
            for frames, folder in ((train_frames, args.train_videos), (test_frames, args.test_videos))
        )
        claim_output_dir(accelerator, args.output_dir)
        origin = read_origin(None if args.random_init else args.model)
        repo = open_repo(accelerator, args.hub, args.output_dir)

    # 3. Loaders and optimizer.
    order = torch.Generator().manual_seed(args.seed)
    loading = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    loading |= {"collate_fn": detection.collate_key_frames}
    train_loader = DataLoader(train_clips, shuffle=True, generator=order, **loading)
    test_loader = DataLoader(test_clips, **loading)
    trainable = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=args.learning_rate, weight_decay=args.weight_decay)
    steps = args.epochs * len(train_loader)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    model, optimizer, schedule, train_loader, test_loader = accelerator.prepare(
        detector, optimizer, schedule, train_loader, test_loader
    )

    # 4. Train and test.
    train_loss, unreadable = train(accelerator, args, model, optimizer, schedule, train_loader)
    detections, unreadable_in_test = test(model, test_loader)
    unreadable = set(gather_object(sorted(unreadable | unreadable_in_test)))
    if not accelerator.is_main_process:
        return
    for failure in sorted(unreadable):
        print(f"skipped {failure}")

    # 5. Metrics. Annotated key frames without detections count too: their boxes were missed.
    annotated = {frame.moment: frame for frame in annotated_frames}
    detected = {test_frames[index].moment: entries for index, entries in detections.items()}
    moments = sorted({*annotated, *detected})
    nothing = {name: torch.empty(0) for name in ("boxes", "labels", "scores")}
    predictions = [detected.get(moment, nothing) for moment in moments]
    truths = [detection.to_truth(annotated[moment]) if moment in annotated else nothing for moment in moments]
    result = score(names, predictions, truths)
    result |= {"random_init": args.random_init, "fine_tune": args.fine_tune, "seed": args.seed}
    result |= {"train_loss": train_loss, "unreadable_clips": len(unreadable)}

    # 6. Save: the model, the metrics, the detections in AVA's format, and a figure.
    output = Path(args.output_dir)
    with whole_files(output) as unfinished:
        detector.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        if args.hub.hub_remote_code:
            add_remote_code(unfinished)
        (unfinished / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        detection.write_results(unfinished / "results.csv", moments, predictions, list(actions))
    drawn = [index for index, moment in enumerate(moments) if moment in annotated and len(predictions[index]["boxes"])]
    drawn = drawn[:NUM_DRAWN]
    if drawn:
        detection.plot_detections(
            [test_clips.decode(annotated[moments[index]])[processor.num_frames // 2] for index in drawn],
            [predictions[index] for index in drawn],
            [truths[index] for index in drawn],
            names,
            output / "detections.png",
            titles=[f"{moments[index][0]}, second {moments[index][1]:g}" for index in drawn],
        )
    write_detector_card(args, origin, result, len(train_frames), len(annotated), repo)
    if repo is not None:
        repo.upload("action detection")
    for name, precision in result["average_precision"].items():
        print("  -  " if precision is None else f"{precision:.3f}", name)
    print(f"frame mAP {result['mean_average_precision']:.3f}; results and a figure in {output}")


def load_detector(args: DetectionArguments, names: list[str]) -> VJEPAForActionDetection:
    """Return the encoder with a new pooler and classifier; the encoder is frozen unless it is fine-tuned."""
    settings = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    settings["roi_size"] = args.roi_size
    if args.random_init:
        detector = VJEPAForActionDetection(VJEPAConfig.from_pretrained(args.model, **settings))
    else:
        detector = VJEPAForActionDetection.from_pretrained(args.model, **settings)
    detector.vjepa.requires_grad_(args.fine_tune)
    return detector


def train(
    accelerator: Accelerator,
    args: DetectionArguments,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loader: DataLoader,
) -> tuple[float, set[str]]:
    """Train a detector; return the mean loss of the last epoch, and the unreadable clips of this process.

    An unreadable clip has no boxes, so it does not affect the loss.
    """
    unreadable: set[str] = set()
    for epoch in range(args.epochs):
        model.train()
        accelerator.unwrap_model(model).vjepa.train(args.fine_tune)
        losses = []
        for batch in loader:
            loss = model(batch["pixel_values_videos"], batch["boxes"], batch["box_mask"], batch["labels"]).loss
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            unreadable.update(map(str, batch["failures"]))
        train_loss = accelerator.gather(torch.stack(losses)).mean().item()
        accelerator.print(f"epoch {epoch + 1}/{args.epochs}: loss {train_loss:.4f}")
    return train_loss, unreadable


@torch.no_grad()
def test(model: torch.nn.Module, loader: DataLoader) -> tuple[dict[int, Any], set[str]]:
    """Return the detections in each key frame, by its index, and the unreadable clips of this process.

    Every action of every box is a detection, because the metric needs all of them.
    """
    model.eval()
    indexed, unreadable = [], set()
    for batch in loader:
        logits = model(batch["pixel_values_videos"], batch["boxes"], batch["box_mask"]).logits
        boxes = (batch[name].cpu() for name in ("boxes", "box_mask", "scores"))
        indexed += zip(batch["index"].tolist(), detection.to_detections(logits.cpu(), *boxes), strict=True)
        unreadable.update(map(str, batch["failures"]))
    return dict(gather_object(indexed)), unreadable


def score(
    names: Sequence[str], predictions: Sequence[dict[str, torch.Tensor]], truths: Sequence[dict[str, torch.Tensor]]
) -> dict[str, Any]:
    """Compute the frame mAP, and the average precision of each action: None for one that no annotated box has."""
    result = detection.FrameMeanAveragePrecision(len(names)).compute(
        predictions=[{name: values.tolist() for name, values in entry.items()} for entry in predictions],
        references=[{name: values.tolist() for name, values in entry.items()} for entry in truths],
    )
    precisions = [None if math.isnan(precision) else precision for precision in result["average_precision"]]
    return result | {"average_precision": dict(zip(names, precisions, strict=True))}


def write_detector_card(
    args: DetectionArguments,
    origin: Origin,
    result: dict[str, Any],
    num_train: int,
    num_test: int,
    repo: HubRepo | None,
) -> None:
    """Write the card of a detector, given the number of key frames in training and test."""
    about = f"A detector of {len(result['average_precision'])} actions in given boxes, on a V-JEPA encoder that was "
    about += "trained too" if args.fine_tune else "frozen"
    about += ", with random initial weights." if args.random_init else "."
    write_card(
        args.output_dir,
        "VJEPAForActionDetection",
        about,
        origin,
        {
            "Data": f"{num_train:,} training and {num_test:,} test key frames; {result['unreadable_clips']:,} clips "
            "cannot be read.",
            "Hyperparameters": hyperparameters(asdict(args) | {"hub": None}),
        },
        accuracy_results(result, args.test_annotations),
        repo and repo.name,
        args.hub.hub_remote_code,
        tags=["action-detection"],
    )


if __name__ == "__main__":
    main()
