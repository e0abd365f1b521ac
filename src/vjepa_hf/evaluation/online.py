"""How good are the features of a run so far: two accuracies on a small labelled set, while pretraining goes on.

Both look at one vector a video, the mean of the tokens of the target encoder. The nearest neighbours vote
(arXiv:1805.01978, section 3.4), and a linear probe is solved for in closed form. So there is nothing to train, to
save or to resume. No random number is drawn and no weight is touched: a run is the same with and without.
A trained attentive probe (examples/probe.py) tells more, and costs more.
"""

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.nn.functional import normalize, one_hot

from ..data.clips import load_videos
from ..data.labelled import UNREADABLE, LabelledClip, LabelledVideos
from ..model.modeling_vjepa import VJEPAModel
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from ..training.arguments import EvaluationArguments
from ..training.run_guard import leave_stop_signals_to_the_run
from .labels import encode_labels

NEIGHBORS = 20
TEMPERATURE = 0.07  # of the weights of the neighbours' votes, as published
RIDGE = 1.0  # penalty of the linear probe, for each feature of unit variance


def make_judge(
    accelerator: Accelerator, evaluation: EvaluationArguments, processor: VJEPAVideoProcessor, num_workers: int
) -> "OnlineEvaluation | None":
    """The judge that a run asks for, or None."""
    if evaluation.eval_train_videos is None:
        return None
    train, test = load_videos(evaluation.eval_train_videos), load_videos(evaluation.eval_test_videos)
    return OnlineEvaluation(accelerator, train, test, evaluation.eval_label, processor, num_workers=num_workers)


class OnlineEvaluation:
    """Judges the encoder of a run on a labelled set, which all processes share out.

    Args:
        accelerator: of the run.
        train: videos that classes are learned from, a table with the columns `video` and `label`.
        test: videos that are judged, likewise.
        label: name of the column with the labels.
        processor: turns a video into one clip of the size the encoder takes.
        batch_size: clips of one forward pass.
        num_workers: processes that decode, for each process.

    Raises:
        ValueError: a table without that column, or a label of `test` that `train` does not have.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        train: datasets.Dataset,
        test: datasets.Dataset,
        label: str,
        processor: VJEPAVideoProcessor,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        for name, table in (("eval_train_videos", train), ("eval_test_videos", test)):
            if label not in table.column_names:
                raise ValueError(
                    f"{name} has no column {label!r}, only {', '.join(table.column_names)}; set eval_label"
                )
        train_labels, names = encode_labels(train[label])
        test_labels, _ = encode_labels(test[label], names)
        self.accelerator, self.num_labels = accelerator, len(names)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.train = LabelledVideos(train["video"], train_labels, processor)
        self.test = LabelledVideos(test["video"], test_labels, processor)

    def figures(self, encoder: VJEPAModel) -> dict[str, float]:
        """`knn_accuracy`, `linear_accuracy`, and in how many videos: all processes call it and get the same.

        Args:
            encoder: on its device, in evaluation mode.
        """
        train, train_labels = self._features(encoder, self.train)
        test, test_labels = self._features(encoder, self.test)
        failed = len(self.train) + len(self.test) - len(train) - len(test)
        guesses = {
            "knn_accuracy": nearest_neighbors(train, train_labels, test, self.num_labels),
            "linear_accuracy": linear_probe(train, train_labels, test, self.num_labels),
        }
        accuracies = {name: (guess == test_labels).double().mean().item() for name, guess in guesses.items()}
        return accuracies | {"eval_videos": len(test), "failed_eval_videos": failed}

    @torch.no_grad()
    def _features(self, encoder: VJEPAModel, videos: LabelledVideos) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean tokens `(n, D)` in float64 and classes `(n,)` of the readable videos, in their order."""
        accelerator = self.accelerator
        # Equally many for all processes, for some do first rows twice: a sharded encoder is called by all together.
        padded = -(-len(videos) // accelerator.num_processes) * accelerator.num_processes
        rows = [row % len(videos) for row in range(accelerator.process_index, padded, accelerator.num_processes)]
        loader = torch.utils.data.DataLoader(
            torch.utils.data.Subset(videos, rows),
            self.batch_size,
            num_workers=self.num_workers,
            collate_fn=_stack,
            worker_init_fn=leave_stop_signals_to_the_run,
            generator=torch.Generator(),  # a loader draws a seed even if it needs none: not from that of the run
        )
        found: list[tuple[torch.Tensor, int]] = []
        for pixels, labels in loader:
            with accelerator.autocast():
                tokens = encoder(pixels.to(accelerator.device)).last_hidden_state
            found += zip(tokens.cpu().double().mean(dim=1), labels, strict=True)
        numbered = dict(gather_object(list(zip(rows, found, strict=True))))
        readable = [video for _, video in sorted(numbered.items()) if video[1] != UNREADABLE]
        if not readable:
            raise ValueError("not one video of eval_train_videos or of eval_test_videos can be read")
        return torch.stack([features for features, _ in readable]), torch.tensor([label for _, label in readable])


def _stack(samples: list[LabelledClip]) -> tuple[torch.Tensor, list[int]]:
    return torch.stack([sample.pixels for sample in samples]), [sample.label for sample in samples]


def nearest_neighbors(
    train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, num_labels: int, neighbors: int = NEIGHBORS
) -> torch.Tensor:
    """Class `(m,)` of each of `test` `(m, D)`, by the votes of its nearest in `train` `(n, D)` with `labels` `(n,)`.

    A vote weighs the exponential of the cosine over `TEMPERATURE`.
    """
    cosines = normalize(test, dim=1) @ normalize(train, dim=1).T
    nearest, places = cosines.topk(min(neighbors, len(train)), dim=1)
    votes = torch.zeros(len(test), num_labels, dtype=test.dtype)
    return votes.scatter_add(1, labels[places], (nearest / TEMPERATURE).exp()).argmax(dim=1)


def linear_probe(
    train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, num_labels: int, ridge: float = RIDGE
) -> torch.Tensor:
    """Class `(m,)` of each of `test` `(m, D)`, by ridge regression from standardized features to the classes."""
    mean, deviation = train.mean(dim=0), train.std(dim=0, correction=0).clamp_min(torch.finfo(train.dtype).eps)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes = one_hot(labels, num_labels).to(train.dtype)
    shares = classes.mean(dim=0)
    # Solved among the videos, of which there are few, and not among the features.
    kernel = train @ train.T + ridge * train.shape[1] * torch.eye(len(train), dtype=train.dtype)
    return (test @ train.T @ torch.linalg.solve(kernel, classes - shares) + shares).argmax(dim=1)
