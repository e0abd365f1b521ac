"""Action detection: the files of AVA (Gu et al., 2018), clips around key frames, and frame mAP.

AVA's files are tables without a header. Boxes are x1, y1, x2, y2 in units of the frame's width and height.

    annotations  video, second, x1, y1, x2, y2, action id, person id     one row per action of a box
    boxes        video, second, x1, y1, x2, y2, (empty), score           boxes of a person detector
    results      video, second, x1, y1, x2, y2, action id, score         detections of a model
    excluded     video, second                                           key frames to exclude
"""

import csv
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
import torchvision
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch.nn.utils.rnn import pad_sequence

from ..data.sources import VIDEO_SUFFIXES
from ..data.videos import VideoFailure
from ..files import whole_file
from ..model.frame_sampling import centered_clip, resolve_frame_step
from ..model.video_inputs import open_video
from ..model.video_io import VideoDecodeError
from ..model.video_processing_vjepa import VJEPAVideoProcessor

Moment = tuple[str, float]  # name of a video, second


@dataclass(frozen=True)
class KeyFrame:
    """One moment of a video with its boxes.

    Attributes:
        video: name of the video in the tables.
        second: time of the key frame in the tables.
        boxes: float32 `(R, 4)`, x1, y1, x2, y2 between 0 and 1.
        labels: float32 `(R, L)`, 1 for each action of a box; L is 0 for boxes of a detector.
        scores: float32 `(R,)`, confidence of the detector; 1 for annotated boxes.
    """

    video: str
    second: float
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    @property
    def moment(self) -> Moment:
        """Video and second, which identify the key frame."""
        return self.video, self.second


# --- the files of AVA ----------------------------------------------------------------------------------------------


def read_actions(path: str | Path) -> dict[int, str]:
    """Read the names of the actions, action id -> name, sorted by id.

    Args:
        path: .pbtxt with `name` and `id` (or `label_id`) of each action, or .csv with an id and a name in each row.
            AVA is evaluated on the 60 actions of `ava_action_list_v2.2_for_activitynet_2019.pbtxt`.

    Raises:
        ValueError: the file has no action, or an id twice.
    """
    text = Path(path).read_text()
    if Path(path).suffix == ".csv":
        rows = [row for row in csv.reader(text.splitlines()) if row]
        actions = [(int(row[0]), row[1]) for row in rows if row[0].strip().isdigit()]
    else:
        blocks = re.findall(r"\{(.*?)\}", text, re.DOTALL)
        ids = [re.search(r"\b(?:label_)?id:\s*(\d+)", block) for block in blocks]
        names = [re.search(r"\bname:\s*([\"'])(.*?)\1", block) for block in blocks]
        actions = [(int(id[1]), name[2]) for id, name in zip(ids, names, strict=True) if id and name]
    if not actions or len(dict(actions)) < len(actions):
        raise ValueError(f"{path} must name each action once, but has {len(actions)} with {len(dict(actions))} ids")
    return dict(sorted(actions))


def read_excluded(path: str | Path) -> set[Moment]:
    """Read the key frames to exclude, from a file with the columns video and second."""
    return {(row[0], float(row[1])) for _, row in _rows(path, 2)}


def read_annotations(path: str | Path, actions: Collection[int], excluded: Collection[Moment] = ()) -> list[KeyFrame]:
    """Read the key frames of an annotation file, in its order.

    Args:
        path: .csv file; the rows of one box become one box with several actions.
        actions: ids of the classes, in their order. A box that has only other actions, or none, has no label.
        excluded: key frames to exclude.

    Raises:
        ValueError: a row has another form, or a box is not within [0, 1]; the message names file and line.
    """
    classes = {action: index for index, action in enumerate(actions)}
    # Key frame -> (person, box) -> classes. A person has one box per key frame, but the column may be missing.
    key_frames: dict[Moment, dict[tuple, list[int]]] = {}
    for moment, box, action, person in _box_rows(path, 7, 8):
        if moment not in excluded:
            box_classes = key_frames.setdefault(moment, {}).setdefault((*person, *box), [])
            box_classes += [classes[action]] if action in classes else []
    result = []
    for (video, second), people in key_frames.items():
        boxes = np.array([key[-4:] for key in people], dtype=np.float32)
        labels = np.zeros((len(people), len(classes)), dtype=np.float32)
        for box_labels, box_classes in zip(labels, people.values(), strict=True):
            box_labels[box_classes] = 1
        result.append(KeyFrame(video, second, boxes, labels, np.ones(len(boxes), dtype=np.float32)))
    return result


def read_boxes(path: str | Path, min_score: float = 0.0, excluded: Collection[Moment] = ()) -> list[KeyFrame]:
    """Read the key frames of a file of detected boxes, in its order.

    Args:
        path: .csv file; without a column of scores every box has the score 1.
        min_score: boxes with a lower score are skipped; 0.8 is usual on AVA.
        excluded: key frames to exclude.

    Raises:
        ValueError: as in `read_annotations`, or a score is not between 0 and 1.
    """
    key_frames: dict[Moment, list[tuple[float, ...]]] = {}
    for moment, box, _, last in _box_rows(path, 6, 8):
        score = float(last[0]) if last else 1.0
        if not 0 <= score <= 1:
            raise ValueError(f"{path}: the score {score} of {moment} must lie between 0 and 1")
        if moment not in excluded and score >= min_score:
            key_frames.setdefault(moment, []).append((*box, score))
    result = []
    for (video, second), rows in key_frames.items():
        table = np.array(rows, dtype=np.float32)
        result.append(KeyFrame(video, second, table[:, :4], np.zeros((len(table), 0), np.float32), table[:, 4]))
    return result


def write_results(
    path: str | Path, moments: Sequence[Moment], detections: Sequence[dict[str, Any]], actions: Sequence[int]
) -> None:
    """Write detections in the format of AVA's evaluation.

    Args:
        path: .csv file to write.
        moments: video and second of each key frame.
        detections: detections of each key frame, as of `to_detections`.
        actions: id of each class.
    """
    with whole_file(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for (video, second), entries in zip(moments, detections, strict=True):
            for box, label, score in zip(entries["boxes"], entries["labels"], entries["scores"], strict=True):
                corners = [f"{number:.4f}" for number in box]
                writer.writerow([video, f"{second:04g}", *corners, actions[label], f"{score:.6f}"])


def _rows(path: str | Path, *lengths: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each line, for errors, and its cells, whose number must be one of `lengths`."""
    with Path(path).open(newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            line = f"{path}, line {number}"
            if row and len(row) not in lengths:
                allowed = " or ".join(map(str, lengths))
                raise ValueError(f"{line}: expected {allowed} columns, but it has {len(row)}: {','.join(row)}")
            if row:
                yield line, [cell.strip() for cell in row]


def _box_rows(path: str | Path, *lengths: int) -> Iterator[tuple[Moment, tuple[float, ...], int | None, list[str]]]:
    """Yield the key frame, the box, the action and the other cells of each row."""
    for line, row in _rows(path, *lengths):
        try:
            second, x1, y1, x2, y2 = map(float, row[1:6])
            action = int(row[6]) if row[6:] and row[6] else None
        except ValueError as error:
            raise ValueError(f"{line}: {error} in {','.join(row)}") from error
        if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
            raise ValueError(
                f"{line}: the box {','.join(row[2:6])} must be x1 < x2 and y1 < y2 between 0 and 1; divide pixels by "
                "the width and height of the frame"
            )
        yield (row[0], second), (x1, y1, x2, y2), action, row[7:]


# --- clips ---------------------------------------------------------------------------------------------------------


def find_videos(folder: str | Path) -> dict[str, str]:
    """List the videos in a folder: name in AVA's tables -> path. The name of a file is that without its suffix; a
    sub-folder is a video of numbered frames."""
    entries = sorted(Path(folder).iterdir())
    folders = {entry.name: str(entry) for entry in entries if entry.is_dir()}
    return folders | {entry.stem: str(entry) for entry in entries if entry.suffix.lower() in VIDEO_SUFFIXES}


def whole_frame_processor(
    processor: VJEPAVideoProcessor, image_size: int | None = None, fps: float | None = None
) -> VJEPAVideoProcessor:
    """Return a processor that resizes the whole frame to the size of a clip and never crops, so that boxes stay valid.

    Args:
        processor: all other settings.
        image_size: side of a clip in pixels; None: the crop size of the processor.
        fps: fps of a clip; None: that of the processor, or its frame step.
    """
    size = {"height": image_size, "width": image_size} if image_size else dict(processor.crop_size)
    settings = {name: value for name, value in processor.to_dict().items() if name != "video_processor_type"}
    return VJEPAVideoProcessor(**settings | {"size": size, "crop_size": size, "fps": fps or processor.fps})


class KeyFrameClips(torch.utils.data.Dataset):
    """Clips around key frames, with their boxes.

    Item i is a dict of `pixel_values_videos` (T, C, H, W), `boxes` (R, 4), `labels` (R, L), `scores` (R,), `index` and
    `failure`, a `VideoFailure` or None. The clip of a failure is black and has no boxes: training learns nothing from
    it, and evaluation counts all its boxes as missed. It is not replaced.

    Args:
        key_frames: key frames, as of `read_annotations` or `read_boxes`.
        videos: name -> path, as of `find_videos`.
        processor: defines the size and the frames of a clip (`num_frames`, `frame_step` or `fps`). It must not crop,
            because boxes are in units of the whole frame: see `whole_frame_processor`.
        first_second: second of the first frame of every video; 900 for AVA's videos cut to their annotated part.
        frame_rate: fps of videos whose frame rate is not known, which are folders of frames.

    Raises:
        ValueError: none of the videos exists.
    """

    def __init__(
        self,
        key_frames: Sequence[KeyFrame],
        videos: dict[str, str],
        processor: VJEPAVideoProcessor,
        first_second: float = 0.0,
        frame_rate: float | None = None,
    ) -> None:
        names = {key_frame.video for key_frame in key_frames}
        if not names & set(videos):
            raise ValueError(
                f"none of the {len(names)} videos with key frames is among the {len(videos)} given videos; name the "
                f"files like the videos in the tables, such as {min(names, default='')!r} with a suffix"
            )
        self.key_frames, self.videos, self.processor = key_frames, videos, processor
        self.first_second, self.frame_rate = first_second, frame_rate

    def __len__(self) -> int:
        return len(self.key_frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key_frame, failure = self.key_frames[index], None
        boxes, labels, scores = map(torch.from_numpy, (key_frame.boxes, key_frame.labels, key_frame.scores))
        try:
            frames = self.decode(key_frame)
        except VideoDecodeError as error:
            failure = VideoFailure(error.file, f"cannot read {error.part}: {error.cause}")
            frames = torch.zeros(self.processor.num_frames, 3, 2, 2, dtype=torch.uint8)
            boxes, labels, scores = boxes[:0], labels[:0], scores[:0]
        pixels = self.processor(frames, return_tensors="pt")["pixel_values_videos"][0]
        item = {"pixel_values_videos": pixels, "boxes": boxes, "labels": labels, "scores": scores}
        return item | {"index": index, "failure": failure}

    def decode(self, key_frame: KeyFrame) -> torch.Tensor:
        """Decode the frames of a clip, uint8 `(T, C, height, width)`; the key frame has index T // 2.

        Raises:
            VideoDecodeError: the video is missing, unreadable, or too short.
            ValueError: the frame rate of the video is not known.
        """
        if key_frame.video not in self.videos:
            raise VideoDecodeError(key_frame.video, f"second {key_frame.second:g}", "no video has this name")
        with open_video(self.videos[key_frame.video]) as video:
            info = video.info
            fps = self.frame_rate if math.isnan(info.fps) else info.fps
            if fps is None:
                raise ValueError(f"the frame rate of {video.name} is not known: give frame_rate")
            center = round((key_frame.second - self.first_second) * fps)
            if not 0 <= center < info.num_frames:
                last = self.first_second + info.num_frames / fps
                cause = f"the video covers seconds {self.first_second:g} to {last:g}; check first_second"
                raise VideoDecodeError(video.name, f"second {key_frame.second:g}", cause)
            step = resolve_frame_step(self.processor.frame_step, self.processor.fps, fps)
            # Seconds, and frames chosen by `fps`, become the frames that a file of varying frame rate shows then.
            if self.processor.fps is None:
                center = int(video.at_constant_rate(np.array(center)))
            (clip,) = centered_clip(center, info.num_frames, self.processor.num_frames, step)
            return video.frames(clip if self.processor.fps is None else video.at_constant_rate(clip))


def collate_key_frames(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collate items of `KeyFrameClips`.

    Returns:
        `pixel_values_videos` (B, T, C, H, W); `boxes` (B, R, 4), `labels` (B, R, L) and `scores` (B, R), padded to the
        largest number of boxes R; `box_mask` (B, R), False for padding; `index` (B,); `failures`, a list of
        `VideoFailure`.
    """
    counts = torch.tensor([len(item["boxes"]) for item in items])
    padded = ("boxes", "labels", "scores")
    batch: dict[str, Any] = {name: pad_sequence([item[name] for item in items], True) for name in padded}
    batch["box_mask"] = torch.arange(int(counts.max()))[None] < counts[:, None]
    batch["pixel_values_videos"] = torch.stack([item["pixel_values_videos"] for item in items])
    batch["index"] = torch.tensor([item["index"] for item in items])
    batch["failures"] = [item["failure"] for item in items if item["failure"] is not None]
    return batch


# --- detections ----------------------------------------------------------------------------------------------------


def to_detections(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    box_mask: torch.Tensor | None = None,
    box_scores: torch.Tensor | None = None,
) -> list[dict[str, torch.Tensor]]:
    """Return the detections of each clip, one per action of a box: `boxes` (n, 4), `labels` (n,) and `scores` (n,).

    Args:
        logits: logits of `VJEPAForActionDetection`, `(B, R, L)`.
        boxes: `(B, R, 4)`.
        box_mask: `(B, R)`, False for padding; None: no padding.
        box_scores: `(B, R)`, confidence of the detector; the score of an action is its probability times this.
    """
    probabilities = logits.float().sigmoid()
    scores = probabilities if box_scores is None else probabilities * box_scores.unsqueeze(-1)
    mask = torch.ones_like(scores, dtype=torch.bool) if box_mask is None else box_mask.unsqueeze(-1).expand_as(scores)
    detections = []
    for clip_boxes, clip_scores, clip_mask in zip(boxes, scores, mask, strict=True):
        indices, labels = clip_mask.nonzero(as_tuple=True)
        detections.append({"boxes": clip_boxes[indices], "labels": labels, "scores": clip_scores[clip_mask]})
    return detections


def to_truth(key_frame: KeyFrame) -> dict[str, np.ndarray]:
    """Return the annotations of a key frame for `FrameMeanAveragePrecision`: `boxes` (n, 4) and `labels` (n,)."""
    indices, labels = key_frame.labels.nonzero()
    return {"boxes": key_frame.boxes[indices], "labels": labels}


class FrameMeanAveragePrecision(evaluate.Metric):
    """Mean over the actions of the average precision of their boxes: the frame mAP of AVA (Gu et al., 2018).

    A prediction is the detections of a key frame, `{"boxes": (n, 4), "scores": (n,), "labels": (n,)}`; a reference is
    its ground truth, `{"boxes": (m, 4), "labels": (m,)}`. Boxes are x1, y1, x2, y2 in any unit, labels are class
    indices. A frame without detections needs an entry with empty lists, because its missed boxes count.

    As in the evaluation of AVA and of PASCAL VOC since 2010:

    - A detection is matched with the ground truth of its class that it overlaps most. It is correct if their
      intersection over union reaches `iou_threshold` and no detection with a higher score has the same match. A second
      box on the same person is wrong, even if the person next to it has none.
    - The average precision of a class is the area under the precision-recall curve, where the precision at a recall is
      the highest one at that recall or a greater one.
    - A class without ground truth is excluded from the mean, even if it is detected.

    Detections with equal scores enter together, so their order has no influence.

    Returns:
        `mean_average_precision`, nan without ground truth; `average_precision`, one value per class, nan for classes
        without ground truth; `num_samples`, the number of key frames.

    Raises:
        ValueError: a label is not below `num_classes`, or the lists of a frame differ in length.
    """

    def __init__(self, num_classes: int, iou_threshold: float = 0.5, **kwargs: Any) -> None:
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold={iou_threshold} must lie in (0, 1].")
        self.num_classes, self.iou_threshold = num_classes, iou_threshold
        super().__init__(config_name=type(self).__name__, keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        boxes = {
            "boxes": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
            "labels": datasets.List(datasets.Value("int64")),
        }
        scores = {"scores": datasets.List(datasets.Value("float64"))}
        features = datasets.Features({"predictions": boxes | scores, "references": boxes})
        return evaluate.MetricInfo(description=type(self).__doc__ or "", citation="", features=features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        scores: list[list[np.ndarray]] = [[] for _ in range(self.num_classes)]
        hits: list[list[np.ndarray]] = [[] for _ in range(self.num_classes)]
        num_truths = np.zeros(self.num_classes, dtype=np.int64)
        for prediction, reference in zip(predictions, references, strict=True):
            boxes, labels, confidence = self._entries(prediction)
            truths, truth_labels, _ = self._entries(reference)
            np.add.at(num_truths, truth_labels, 1)
            for label in np.unique(labels):
                own = labels == label
                scores[label].append(confidence[own])
                own_truths = truths[truth_labels == label]
                hits[label].append(match(boxes[own], confidence[own], own_truths, self.iou_threshold))
        precisions = [
            average_precision(np.concatenate([np.zeros(0), *s]), np.concatenate([np.zeros(0, bool), *h]), int(n))
            for s, h, n in zip(scores, hits, num_truths, strict=True)
        ]
        mean = float(np.nanmean(precisions)) if num_truths.any() else float("nan")
        return {"mean_average_precision": mean, "average_precision": precisions, "num_samples": len(references)}

    def _entries(self, frame: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return boxes (n, 4), labels (n,) and scores (n,) of a frame; the scores of ground truth are 1."""
        labels = np.asarray(frame["labels"], dtype=np.int64)
        boxes = np.asarray(frame["boxes"], dtype=np.float64).reshape(-1, 4)
        scores = np.asarray(frame.get("scores", np.ones(len(labels))), dtype=np.float64)
        if not len(boxes) == len(labels) == len(scores):
            raise ValueError(f"a frame has {len(boxes)} boxes, {len(labels)} labels and {len(scores)} scores")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(
                f"labels={sorted(set(labels.tolist()))} must be in [0, {self.num_classes - 1}] because "
                f"num_classes={self.num_classes}."
            )
        return boxes, labels, scores


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute the intersection over union `(n, m)` of boxes `(n, 4)` and `(m, 4)`, each x1, y1, x2, y2."""
    return torchvision.ops.box_iou(torch.tensor(boxes), torch.tensor(others)).numpy()


def match(boxes: np.ndarray, scores: np.ndarray, truths: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Return which detections `(n,)` of one class in one frame are correct; see `FrameMeanAveragePrecision`."""
    hits = np.zeros(len(boxes), dtype=bool)
    if not len(truths):
        return hits
    overlaps = box_iou(boxes, truths)
    matched = np.zeros(len(truths), dtype=bool)
    for index in np.argsort(-scores, kind="stable"):
        best = overlaps[index].argmax()
        hits[index] = overlaps[index, best] >= iou_threshold and not matched[best]
        matched[best] |= hits[index]
    return hits


def average_precision(scores: np.ndarray, hits: np.ndarray, num_truths: int) -> float:
    """Compute the area under the interpolated precision-recall curve of the detections `(n,)` of one class."""
    if num_truths == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    scores, num_hits = scores[order], np.cumsum(hits[order])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])  # of each run of equal scores
    precision = num_hits[last] / (last + 1)
    recall = num_hits[last] / num_truths
    interpolated = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * interpolated).sum())


# --- pictures ------------------------------------------------------------------------------------------------------


def plot_detections(
    frames: Sequence[torch.Tensor],
    detections: Sequence[dict[str, Any]],
    truths: Sequence[dict[str, Any]],
    names: Sequence[str],
    path: str | Path,
    titles: Sequence[str] | None = None,
    threshold: float = 0.3,
) -> None:
    """Draw key frames with their detections into one PNG, four per row.

    An action is green if an annotated box that overlaps its box has it, else red. Annotated boxes are dashed, with the
    actions that were not detected in white.

    Args:
        frames: image of each key frame, uint8 `(C, height, width)`.
        detections: detections of each key frame, as of `to_detections`.
        truths: annotations of each key frame, as of `to_truth`.
        names: names of the classes.
        path: PNG to write.
        titles: titles of the key frames.
        threshold: detections with a lower score are not drawn.
    """
    num_columns = min(4, len(frames))
    num_rows = -(-len(frames) // num_columns)
    figure = Figure(figsize=(3.6 * num_columns, 3.9 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    titles = titles or [""] * len(frames)
    for axis, frame, title, detected, truth in zip(axes, frames, titles, detections, truths, strict=False):
        height, width = frame.shape[1:]
        # Coordinates in the picture are in units of the frame, like the boxes.
        axis.imshow(frame.permute(1, 2, 0).numpy(), extent=(0, 1, 1, 0), aspect=height / width)
        axis.set(xlim=(0, 1), ylim=(1, 0))
        axis.set_title(title, fontsize=9)
        _draw_boxes(axis, detected, truth, names, threshold)
    legend = "green: correct, red: wrong, dashed: annotated, white: not detected"
    figure.suptitle(f"detections with a score of at least {threshold:g}; {legend}", fontsize=9)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=100, format="png")


def _draw_boxes(
    axis: Any, detections: dict[str, Any], truth: dict[str, Any], names: Sequence[str], threshold: float
) -> None:
    """Draw the boxes of a key frame with their actions, the highest scores first."""
    boxes, labels, scores = (np.asarray(detections[name], dtype=float) for name in ("boxes", "labels", "scores"))
    drawn = [index for index in np.argsort(-scores, kind="stable") if scores[index] >= threshold]
    boxes, labels, scores = boxes.reshape(-1, 4)[drawn], labels[drawn].astype(int), scores[drawn]
    true_boxes, true_labels = np.asarray(truth["boxes"], dtype=float).reshape(-1, 4), np.asarray(truth["labels"])
    correct = (box_iou(boxes, true_boxes) >= 0.5) & (labels[:, None] == true_labels[None])
    for box in np.unique(true_boxes, axis=0):
        missed = true_labels[(true_boxes == box).all(axis=1) & ~correct.any(axis=0)]
        _draw_box(axis, box, "white", (0, (3, 3)), box[3], [(names[label], "white") for label in missed])
    for box in np.unique(boxes, axis=0):
        lines = [
            (f"{names[labels[index]]} {scores[index]:.2f}", "lightgreen" if correct[index].any() else "tomato")
            for index in np.flatnonzero((boxes == box).all(axis=1))
        ]
        _draw_box(axis, box, "gold", "-", box[1], lines)


def _draw_box(
    axis: Any, box: np.ndarray, color: str, linestyle: Any, bottom: float, lines: Sequence[tuple[str, str]]
) -> None:
    """Draw a box, and lines of text, each in its color, above `bottom` but inside the picture."""
    x1, y1, x2, y2 = box
    style = {"edgecolor": color, "linestyle": linestyle, "linewidth": 1.6}
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))
    line_height = 0.052
    top = max(bottom - line_height * len(lines), 0)
    background = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 0.8}
    for number, (text, text_color) in enumerate(lines):
        y = top + line_height * (number + 0.5)
        axis.text(x1, y, text, color=text_color, fontsize=8, va="center", bbox=background, clip_on=True)
