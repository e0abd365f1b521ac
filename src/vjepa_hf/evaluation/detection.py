"""What happens in boxes: the files of AVA (Gu et al., 2018), clips around key frames, and detections.

AVA's files are tables without a header. Boxes are x1, y1, x2, y2 in units of the frame's width and height.

    annotations  video, second, x1, y1, x2, y2, action id, person id     one row for each action of a box
    boxes        video, second, x1, y1, x2, y2, (nothing), score         what a detector of people found
    results      video, second, x1, y1, x2, y2, action id, score         what a model says
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
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch.nn.utils.rnn import pad_sequence

from ..data.sources import VIDEO_SUFFIXES
from ..data.videos import VideoFailure, open_video
from ..model.frame_sampling import centered_clip, resolve_frame_step
from ..model.video_io import VideoDecodeError
from ..model.video_processing_vjepa import VJEPAVideoProcessor

Moment = tuple[str, float]  # name of a video, second


@dataclass(frozen=True)
class KeyFrame:
    """The boxes of one moment of a video.

    Attributes:
        video: its name in the tables.
        second: when, as the tables count.
        boxes: float32 `(R, 4)` as x1, y1, x2, y2 between 0 and 1.
        labels: float32 `(R, L)`, 1 for each action of a box; L is 0 for boxes of a detector.
        scores: float32 `(R,)`, how sure a detector is of a box; 1 where people have drawn it.
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
    """Names of the actions by their ids, in the order of the ids.

    Args:
        path: .pbtxt with `name` and `id` (or `label_id`) of each action, or .csv with an id and a name in each row.
            AVA is evaluated on the 60 actions of `ava_action_list_v2.2_for_activitynet_2019.pbtxt`.

    Raises:
        ValueError: the file holds no action, or one id twice.
    """
    text = Path(path).read_text()
    if Path(path).suffix == ".csv":
        rows = [row for row in csv.reader(text.splitlines()) if row]
        actions = [(int(row[0]), row[1]) for row in rows if row[0].strip().isdigit()]
    else:
        blocks = re.findall(r"\{(.*?)\}", text, re.DOTALL)
        numbers = [re.search(r"\b(?:label_)?id:\s*(\d+)", block) for block in blocks]
        names = [re.search(r"\bname:\s*([\"'])(.*?)\1", block) for block in blocks]
        actions = [(int(number[1]), name[2]) for number, name in zip(numbers, names, strict=True) if number and name]
    if not actions or len(dict(actions)) < len(actions):
        raise ValueError(f"{path} must name each action once, found {len(actions)} with {len(dict(actions))} ids")
    return dict(sorted(actions))


def read_excluded(path: str | Path) -> set[Moment]:
    """Read the key frames to exclude, from a file with the columns video and second."""
    return {(row[0], float(row[1])) for _, row in _rows(path, 2)}


def read_annotations(path: str | Path, actions: Collection[int], excluded: Collection[Moment] = ()) -> list[KeyFrame]:
    """Key frames of a file of annotations, in its order; a box that has several rows is one box with several actions.

    Args:
        path: of the .csv.
        actions: ids that count, in the order of the classes; others are not a class, and a box that has no other
            stays as one without an action. So does a box whose action is left empty.
        excluded: key frames to exclude.

    Raises:
        ValueError: a row is not of this form, or its box is not within [0, 1]; the message has file and line.
    """
    classes = {action: place for place, action in enumerate(actions)}
    # {key frame: {(person, box): classes}}; a person has one box in a key frame, but the column may be missing.
    moments: dict[Moment, dict[tuple, list[int]]] = {}
    for number, row in _rows(path, 7, 8):
        moment, box, action = _parse(path, number, row)
        if moment in excluded:
            continue
        box_classes = moments.setdefault(moment, {}).setdefault((*row[7:], *box), [])
        if action in classes:
            box_classes.append(classes[action])
    frames = []
    for (video, second), people in moments.items():
        boxes = np.array([key[-4:] for key in people], dtype=np.float32)
        labels = np.zeros((len(people), len(classes)), dtype=np.float32)
        for labelled, found in zip(labels, people.values(), strict=True):
            labelled[found] = 1
        frames.append(KeyFrame(video, second, boxes, labels, np.ones(len(boxes), dtype=np.float32)))
    return frames


def read_boxes(path: str | Path, min_score: float = 0.0, excluded: Collection[Moment] = ()) -> list[KeyFrame]:
    """Key frames of a file of detected boxes, in its order.

    Args:
        path: of the .csv; without a column of scores every box has the score 1.
        min_score: boxes with a lower score are skipped; 0.8 is usual on AVA.
        excluded: key frames to exclude.

    Raises:
        ValueError: as in `read_annotations`, or a box without a score between 0 and 1.
    """
    moments: dict[Moment, list[tuple[float, ...]]] = {}
    for number, row in _rows(path, 6, 8):
        moment, box, _ = _parse(path, number, row)
        score = float(row[7]) if len(row) == 8 else 1.0
        if not 0 <= score <= 1:
            raise ValueError(f"{path}, line {number}: the score {score} must lie between 0 and 1")
        if moment not in excluded and score >= min_score:
            moments.setdefault(moment, []).append((*box, score))
    frames = []
    for (video, second), found in moments.items():
        table = np.array(found, dtype=np.float32)
        frames.append(KeyFrame(video, second, table[:, :4], np.zeros((len(table), 0), np.float32), table[:, 4]))
    return frames


def write_results(
    path: str | Path, moments: Sequence[Moment], detections: Sequence[dict[str, torch.Tensor]], actions: Sequence[int]
) -> None:
    """Write detections as AVA's evaluation reads them.

    Args:
        path: of the .csv.
        moments: video and second of each key frame.
        detections: of each key frame, from `to_detections`.
        actions: id of each class.
    """
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for (video, second), found in zip(moments, detections, strict=True):
            for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
                corners = [f"{number:.4f}" for number in box]
                writer.writerow([video, f"{second:04g}", *corners, actions[label], f"{score:.6f}"])


def _rows(path: str | Path, *lengths: int) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of a table; an error where a row has another number of cells."""
    with Path(path).open(newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if row and len(row) not in lengths:
                wanted = " or ".join(map(str, lengths))
                raise ValueError(f"{path}, line {number}: {len(row)} columns where {wanted} belong: {','.join(row)}")
            if row:
                yield number, [cell.strip() for cell in row]


def _parse(path: str | Path, number: int, row: list[str]) -> tuple[Moment, tuple[float, ...], int | None]:
    """Key frame, box and action of a row."""
    try:
        second, *box = map(float, row[1:6])
        action = int(row[6]) if row[6:] and row[6] else None
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error} in {','.join(row)}") from error
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise ValueError(
            f"{path}, line {number}: the box {','.join(row[2:6])} must be x1 < x2 and y1 < y2 between 0 and 1; divide "
            "pixels by the width and height of the frame"
        )
    return (row[0], second), (x1, y1, x2, y2), action


# --- clips ---------------------------------------------------------------------------------------------------------


def find_videos(folder: str | Path) -> dict[str, str]:
    """Path of every video of a folder by its name in AVA's tables: that of the file without its suffix, or of a folder
    of frames."""
    entries = sorted(Path(folder).iterdir())
    folders = {entry.name: str(entry) for entry in entries if entry.is_dir()}
    return folders | {entry.stem: str(entry) for entry in entries if entry.suffix.lower() in VIDEO_SUFFIXES}


def whole_frame_processor(
    processor: VJEPAVideoProcessor, image_size: int | tuple[int, int] | None = None, fps: float | None = None
) -> VJEPAVideoProcessor:
    """A processor that squeezes the whole frame into a clip, where another one crops: boxes stay what they are.

    Args:
        processor: says everything else.
        image_size: of the clips, pixels of a side or (height, width); None for the size that the processor crops to.
        fps: frames a second of a clip; None for the steps of the processor.
    """
    image_size = image_size or (processor.crop_size["height"], processor.crop_size["width"])
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    size = {"height": height, "width": width}
    settings = {name: value for name, value in processor.to_dict().items() if name != "video_processor_type"}
    return VJEPAVideoProcessor(**settings | {"size": size, "crop_size": size, "fps": fps or processor.fps})


class KeyFrameClips(torch.utils.data.Dataset):
    """Clips around key frames, with their boxes.

    Item i is a dict of `pixel_values_videos` (T, C, H, W), `boxes` (R, 4), `labels` (R, L), `scores` (R,), `index` and
    `failure`, a `VideoFailure` or None. The clip of a failure is black and has no boxes, so that training learns
    nothing from it and evaluation counts all its boxes as missed; nothing takes its place.

    Args:
        key_frames: of `read_annotations` or `read_boxes`.
        videos: path of each video by name; `find_videos`.
        processor: gives clips their size; its `num_frames` and `fps` (or `frame_step`) say which frames belong to one.
            It must not crop: boxes are in units of the whole frame. See `whole_frame_processor`.
        first_second: second of the first frame of every video; 900 for AVA's cut to their annotated part.
        frame_rate: frames a second of videos that do not tell, which are folders of frames.

    Raises:
        ValueError: there is none of the videos.
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
                f"none of the {len(names)} videos with key frames is among the {len(videos)} found; they are looked "
                f"up by file name without suffix, such as {min(names, default='')!r}"
            )
        self.key_frames, self.videos, self.processor = key_frames, videos, processor
        self.first_second, self.frame_rate = first_second, frame_rate

    def __len__(self) -> int:
        return len(self.key_frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key_frame, failure = self.key_frames[index], None
        try:
            frames = self.decode(key_frame)
            boxes, labels, scores = map(torch.from_numpy, (key_frame.boxes, key_frame.labels, key_frame.scores))
        except VideoDecodeError as error:
            failure = VideoFailure(error.file, f"cannot read {error.asked}: {error.cause}")
            frames = torch.zeros(self.processor.num_frames, 3, 2, 2, dtype=torch.uint8)
            boxes, scores = torch.zeros(0, 4), torch.zeros(0)
            labels = torch.zeros(0, key_frame.labels.shape[1])
        pixels = self.processor(frames, return_tensors="pt")["pixel_values_videos"][0]
        return {
            "pixel_values_videos": pixels,
            "boxes": boxes,
            "labels": labels,
            "scores": scores,
            "index": index,
            "failure": failure,
        }

    def decode(self, key_frame: KeyFrame) -> torch.Tensor:
        """The frames of a clip as they are in the file, uint8 `(T, C, height, width)`; number T // 2 is the key frame.

        Raises:
            VideoDecodeError: the video is missing, cannot be read, or does not reach the key frame.
        """
        if key_frame.video not in self.videos:
            raise VideoDecodeError(key_frame.video, f"second {key_frame.second:g}", "there is no video of this name")
        with open_video(self.videos[key_frame.video]) as video:
            info = video.info
            fps = self.frame_rate if math.isnan(info.fps) else info.fps
            if fps is None:
                raise ValueError(f"the frame rate of {video.name} is not known: pass frame_rate")
            center = round((key_frame.second - self.first_second) * fps)
            if not 0 <= center < info.num_frames:
                last = self.first_second + info.num_frames / fps
                cause = f"it has the seconds {self.first_second:g} to {last:g}; see first_second"
                raise VideoDecodeError(video.name, f"second {key_frame.second:g}", cause)
            step = resolve_frame_step(self.processor.frame_step, self.processor.fps, fps)
            return video.frames(centered_clip(center, info.num_frames, self.processor.num_frames, step)[0])


def collate_key_frames(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of clips from items of `KeyFrameClips`.

    Returns:
        `pixel_values_videos` (B, T, C, H, W); `boxes` (B, R, 4), `labels` (B, R, L) and `scores` (B, R), padded to the
        largest number of boxes R; `box_mask` (B, R), True for what is not padding; `index` (B,); `failures`, a list of
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
    threshold: float = 0.0,
) -> list[dict[str, torch.Tensor]]:
    """Turn logits into detections of each clip: `boxes` (n, 4), `labels` (n,) and `scores` (n,), per action of a box.

    Args:
        logits: of `VJEPAForActionDetection`, `(B, R, L)`.
        boxes: `(B, R, 4)`.
        box_mask: `(B, R)`, True for what is not padding; None for no padding.
        box_scores: `(B, R)`, how sure a detector is of the boxes. The score of an action is then the product of its
            probability and this: that there is somebody, and that it is what they do.
        threshold: detections with a lower score are skipped; average precision needs all of them.
    """
    scores = logits.float().sigmoid()
    scores = scores if box_scores is None else scores * box_scores.unsqueeze(-1)
    keep = scores >= threshold
    keep = keep if box_mask is None else keep & box_mask.unsqueeze(-1)
    found = []
    for clip_boxes, clip_scores, clip_keep in zip(boxes, scores, keep, strict=True):
        places, labels = clip_keep.nonzero(as_tuple=True)
        found.append({"boxes": clip_boxes[places], "labels": labels, "scores": clip_scores[clip_keep]})
    return found


def to_truth(key_frame: KeyFrame) -> dict[str, np.ndarray]:
    """Return the annotations of a key frame for `FrameMeanAveragePrecision`: `boxes` (n, 4) and `labels` (n,)."""
    places, labels = key_frame.labels.nonzero()
    return {"boxes": key_frame.boxes[places], "labels": labels}


class FrameMeanAveragePrecision(evaluate.Metric):
    """Mean over the actions of the average precision of their boxes: the frame mAP of AVA (Gu et al., 2018).

    A prediction is a key frame's detections `{"boxes": (n, 4), "scores": (n,), "labels": (n,)}` and a reference its
    ground truth `{"boxes": (m, 4), "labels": (m,)}`; boxes are x1, y1, x2, y2 in any one unit, labels are class
    indices. A frame without detections still needs its entry, with empty lists: what was missed there counts.

    As in the evaluation of AVA and of PASCAL VOC since 2010:

    - a detection belongs to the ground truth of its class that it overlaps most, and is right if their intersection
      over union reaches `iou_threshold` and no detection with a higher score has that ground truth already: a second
      box on the same person is wrong, even where a free person stands beside;
    - the average precision of a class is the area under its precision as a function of recall, where the precision at
      a recall is the highest at that recall or a greater one;
    - a class without ground truth has no average precision and does not enter the mean, whatever was detected.

    Detections with equal scores enter together, so the order of the entries has no influence.

    Returns:
        `mean_average_precision`, nan without any ground truth; `average_precision`, one a class, nan without ground
        truth; `num_samples`, the number of key frames.

    Raises:
        ValueError: a label that is not below `num_classes`, or lists of a frame that differ in length.
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
            boxes, labels, confidence = self._entries(prediction, "scores")
            truths, truth_labels, _ = self._entries(reference)
            np.add.at(num_truths, truth_labels, 1)
            for label in np.unique(labels):
                mine = labels == label
                scores[label].append(confidence[mine])
                hits[label].append(
                    match(boxes[mine], confidence[mine], truths[truth_labels == label], self.iou_threshold)
                )
        precisions = [
            average_precision(np.concatenate([np.zeros(0), *s]), np.concatenate([np.zeros(0, bool), *h]), int(n))
            for s, h, n in zip(scores, hits, num_truths, strict=True)
        ]
        mean = float(np.nanmean(precisions)) if num_truths.any() else float("nan")
        return {"mean_average_precision": mean, "average_precision": precisions, "num_samples": len(references)}

    def _entries(self, frame: dict[str, Any], *also: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return boxes (n, 4), labels (n,) and scores (n,) of a frame; the scores of ground truth are 1."""
        labels = np.asarray(frame["labels"], dtype=np.int64)
        boxes = np.asarray(frame["boxes"], dtype=np.float64).reshape(-1, 4)
        scores = np.asarray(frame["scores"], dtype=np.float64) if also else np.ones(len(labels))
        if not len(boxes) == len(labels) == len(scores):
            raise ValueError(f"a frame has {len(boxes)} boxes, {len(labels)} labels and {len(scores)} scores")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(f"labels={sorted(set(labels.tolist()))} must lie below num_classes={self.num_classes}.")
        return boxes, labels, scores


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union `(n, m)` of boxes `(n, 4)` and `(m, 4)`, each x1, y1, x2, y2."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas, other_areas = ((b[:, 2:] - b[:, :2]).prod(axis=-1) for b in (boxes, others))
    return shared / np.maximum(areas[:, None] + other_areas - shared, np.finfo(np.float64).tiny)


def match(boxes: np.ndarray, scores: np.ndarray, truths: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Return which detections `(n,)` of one class in one frame are correct; see `FrameMeanAveragePrecision`."""
    hits = np.zeros(len(boxes), dtype=bool)
    if not len(truths):
        return hits
    overlaps = box_iou(boxes, truths)
    taken = np.zeros(len(truths), dtype=bool)
    for place in np.argsort(-scores, kind="stable"):
        best = overlaps[place].argmax()
        hits[place] = overlaps[place, best] >= iou_threshold and not taken[best]
        taken[best] |= hits[place]
    return hits


def average_precision(scores: np.ndarray, hits: np.ndarray, num_truths: int) -> float:
    """Compute the area under the interpolated precision-recall curve of the detections `(n,)` of one class."""
    if num_truths == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], np.cumsum(hits[order])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])  # of each run of equal scores
    precision = right[last] / (last + 1)
    recall = right[last] / num_truths
    interpolated = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * interpolated).sum())


def plot_detections(
    frames: Sequence[torch.Tensor],
    detections: Sequence[dict[str, Any]],
    truths: Sequence[dict[str, Any]],
    names: Sequence[str],
    path: str | Path,
    titles: Sequence[str] | None = None,
    threshold: float = 0.3,
    num_columns: int = 4,
) -> None:
    """Draw key frames with their detections into one PNG.

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
        num_columns: key frames per row of the picture.
    """
    num_columns = min(num_columns, len(frames))
    num_rows = -(-len(frames) // num_columns)
    figure = Figure(figsize=(3.6 * num_columns, 3.9 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, (axis, frame) in enumerate(zip(axes.flat, frames, strict=False)):
        height, width = frame.shape[1:]
        # Boxes are in units of the frame, and so is the picture.
        axis.imshow(frame.permute(1, 2, 0).numpy(), extent=(0, 1, 1, 0), aspect=height / width)
        axis.set(xlim=(0, 1), ylim=(1, 0))
        _draw_boxes(axis, detections[number], truths[number], names, threshold)
        axis.set_title(titles[number] if titles is not None else "", fontsize=9)
    legend = "green: correct, red: wrong, dashed: annotated, white: not detected"
    figure.suptitle(f"detections with a score of at least {threshold:g}; {legend}", fontsize=9)
    figure.savefig(path, dpi=100)


def _draw_boxes(
    axis: Any, found: dict[str, Any], truth: dict[str, Any], names: Sequence[str], threshold: float
) -> None:
    """Draw the boxes of a key frame with their actions."""
    boxes, labels, scores = (np.asarray(found[name], dtype=float) for name in ("boxes", "labels", "scores"))
    shown = scores >= threshold
    boxes, labels, scores = boxes.reshape(-1, 4)[shown], labels[shown].astype(int), scores[shown]
    true_boxes, true_labels = np.asarray(truth["boxes"], dtype=float).reshape(-1, 4), np.asarray(truth["labels"])
    right = (box_iou(boxes, true_boxes) >= 0.5) & (labels[:, None] == true_labels[None])
    for box in np.unique(true_boxes, axis=0):
        _draw_box(axis, box, "white", linestyle=(0, (3, 3)))
        missed = [names[label] for label in true_labels[(true_boxes == box).all(axis=1) & ~right.any(axis=0)]]
        _write(axis, box[0], box[3], [(name, "white") for name in missed])
    for box in np.unique(boxes, axis=0):
        places = np.flatnonzero((boxes == box).all(axis=1))
        places = places[np.argsort(-scores[places], kind="stable")]
        _draw_box(axis, box, "gold")
        colors = ["lightgreen" if right[place].any() else "tomato" for place in places]
        lines = [f"{names[labels[place]]} {scores[place]:.2f}" for place in places]
        _write(axis, box[0], box[1], list(zip(lines, colors, strict=True)))


def _draw_box(axis: Any, box: np.ndarray, color: str, linestyle: Any = "-") -> None:
    x1, y1, x2, y2 = box
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.6)
    patch.set_linestyle(linestyle)
    axis.add_patch(patch)


def _write(axis: Any, x: float, y: float, lines: Sequence[tuple[str, str]]) -> None:
    """Write lines of text, each in its color, above a point but inside the picture."""
    line_height = 0.052
    top = max(y - line_height * len(lines), 0)
    for number, (text, color) in enumerate(lines):
        background = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 0.8}
        place = (x, top + line_height * (number + 0.5))
        axis.text(*place, text, color=color, fontsize=8, va="center", bbox=background, clip_on=True)
