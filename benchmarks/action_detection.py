"""Are frozen features good for telling what happens in boxes? Frame mAP beside that of an untrained encoder.

    python benchmarks/action_detection.py --output benchmarks/results/action_detection.md

The set is that of examples/make_toy_actions.py, made if it is missing: up to four shapes in a video, each with its own
heading, of which a single frame tells nothing, and form. The encoders are the pretrained ones of
benchmarks/toy_learning.py, which have never seen these videos, and the same ones before their first step. They stay
frozen; pooler and classifier of a VJEPAForActionDetection learn from the annotated boxes of a few training videos, and
are tested on the boxes of an inexact detector. Without training videos: the head as it starts. The features of the
boxes are computed once, and every head is trained for the same number of steps.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

from report import opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForActionDetection, VJEPAVideoProcessor
from vjepa_hf.evaluation import detection
from vjepa_hf.evaluation.detection import FrameMeanAveragePrecision
from vjepa_hf.model.modeling_vjepa import box_features

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
HERE = Path(__file__).parent
IMAGE_SIZE, ROI_SIZE = 48, 3
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 64, 1e-3, 0.05
NUM_MOTIONS = 8  # of the actions, the others are forms
KINDS = ("pretrained", "untrained")


class ToyActions:
    """Annotated training boxes and detected test boxes, with their clips in memory."""

    def __init__(self, folder: Path, processor: VJEPAVideoProcessor) -> None:
        self.actions = detection.read_actions(folder / "actions.pbtxt")
        self.truths = detection.read_annotations(folder / "test.csv", self.actions)
        train = detection.read_annotations(folder / "train.csv", self.actions)
        self.found = detection.read_boxes(folder / "test_boxes.csv")
        self.train, self.test = (
            self._batch(frames, folder / split, processor)
            for frames, split in ((train, "train"), (self.found, "test"))
        )

    @staticmethod
    def _batch(frames: list, folder: Path, processor: VJEPAVideoProcessor) -> dict:
        clips = detection.KeyFrameClips(frames, detection.find_videos(folder), processor)
        return detection.collate_key_frames([clips[place] for place in range(len(clips))])


@torch.inference_mode()
def features_of_boxes(detector: VJEPAForActionDetection, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, tokens, D) of all real boxes of a batch, and the clip of each of them (n,)."""
    clips, boxes = batch["box_mask"].nonzero()[:, 0], batch["boxes"][batch["box_mask"]]
    pixels = batch["pixel_values_videos"]
    tokens = torch.cat([detector.vjepa(part).last_hidden_state for part in pixels.split(32)])
    _, grid = detector.vjepa.tokenize(pixels[:1])
    return box_features(tokens, grid, boxes, clips, ROI_SIZE).clone(), clips


def train_head(head: torch.nn.Module, features: torch.Tensor, labels: torch.Tensor, steps: int, seed: int) -> None:
    """AdamW with a cosine on random batches of boxes."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(features), (BATCH_SIZE,), generator=generator)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(features[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def precisions(head: torch.nn.Module, features: torch.Tensor, data: ToyActions) -> np.ndarray:
    """Average precision of each action on the test set."""
    mask = data.test["box_mask"]
    logits = torch.zeros(*mask.shape, len(data.actions))
    logits[mask] = torch.cat([head(part) for part in features.split(256)])
    found = detection.to_detections(logits, data.test["boxes"], mask, data.test["scores"])
    found = dict(zip((frame.moment for frame in data.found), found, strict=True))
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "scores": torch.zeros(0)}
    truths = {frame.moment: detection.to_truth(frame) for frame in data.truths}
    moments = sorted({*found, *truths})
    metric = FrameMeanAveragePrecision(len(data.actions))
    result = metric.compute(
        predictions=[{name: v.tolist() for name, v in found.get(moment, nothing).items()} for moment in moments],
        references=[
            {name: v.tolist() for name, v in truths.get(moment, nothing).items() if name != "scores"}
            for moment in moments
        ],
    )
    return np.array(result["average_precision"])


def judge(folder: Path, kind: str, seed: int, data: ToyActions, counts: list[int], steps: int) -> list[np.ndarray]:
    """Average precision of each action for each number of training videos."""
    options = {"num_labels": len(data.actions), "roi_size": ROI_SIZE}
    torch.manual_seed(seed)
    detector = VJEPAForActionDetection(VJEPAConfig.from_pretrained(folder, **options))
    if kind == "pretrained":
        torch.manual_seed(seed)
        detector = VJEPAForActionDetection.from_pretrained(folder, **options)
    detector.eval()
    start = [{k: v.clone() for k, v in part.state_dict().items()} for part in (detector.pooler, detector.classifier)]
    head = torch.nn.Sequential(detector.pooler, detector.classifier)
    (features, clips), (test_features, _) = (features_of_boxes(detector, batch) for batch in (data.train, data.test))
    labels = data.train["labels"][data.train["box_mask"]]
    answers = []
    for count in counts:
        for part, state in zip(head, start, strict=True):
            part.load_state_dict(state)
        if count:
            train_head(head, features[clips < count], labels[clips < count], steps, seed)
        answers.append(precisions(head, test_features, data))
        print(kind, seed, count, f"{answers[-1].mean():.3f}", flush=True)
    return answers


def main() -> None:
    """Train and test heads on both encoders of each seed, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the pretraining runs")
    parser.add_argument("--runs", type=Path, default=Path("output/toy_learning"), help="folder of the runs")
    parser.add_argument("--data", type=Path, default=Path("output/toy_actions"), help="toy set with boxes")
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 50, 100, 400], help="training videos")
    parser.add_argument("--steps", type=int, default=500, help="of each head")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()

    torch.set_num_threads(1)
    if not (options.data / "train.csv").exists():
        subprocess.run([sys.executable, HERE.parent / "examples" / "make_toy_actions.py", options.data], check=True)
    folders = [options.runs / f"seed{seed}" for seed in options.seeds]
    processor = detection.whole_frame_processor(VJEPAVideoProcessor.from_pretrained(folders[0]), IMAGE_SIZE)
    data = ToyActions(options.data, processor)
    scores = np.array(
        [
            [judge(folder, kind, seed, data, options.counts, options.steps) for kind in KINDS]
            for folder, seed in zip(folders, options.seeds, strict=True)
        ]
    )  # (seeds, kinds, counts, actions)
    rows = []
    for place, count in enumerate(options.counts):
        cells = []
        for part in (slice(None), slice(NUM_MOTIONS), slice(NUM_MOTIONS, None)):
            over_actions = scores[:, :, place, part].mean(axis=-1)  # (seeds, kinds)
            means, spreads = over_actions.mean(axis=0), over_actions.std(axis=0)
            cells += [f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(means, spreads, strict=True)]
        rows.append([count, *cells])
    columns = [f"{name}, {kind}" for name in ("all", "heading", "form") for kind in KINDS]
    lines = opening("What happens in boxes of the toy set", __file__, __doc__)
    lines += [
        f"Frame mAP at an intersection over union of 0.5 on {len(data.truths)} test key frames with "
        f"boxes, mean and standard deviation over {len(options.seeds)} encoders; {options.steps} steps of "
        f"{BATCH_SIZE} boxes, {IMAGE_SIZE} x {IMAGE_SIZE} pixels where pretraining had 32 x 32.",
        "",
    ]
    publish(lines + table(["training videos", *columns], rows), options.output)


if __name__ == "__main__":
    main()
