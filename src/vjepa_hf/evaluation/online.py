"""Evaluation of the features of a pretraining run on a small labelled set, during the run.

Both metrics use one vector per video, the mean of the tokens of the target encoder: a vote of the nearest neighbors
(arXiv:1805.01978, section 3.4), and a linear probe in closed form. With several `pooler_layers` in the configuration,
the means of these layers are joined. The metrics have no training and no state, draw no random numbers and change no
weights, so a run is bit-exact with and without them. A trained attentive probe (examples/probe.py) is more
informative, and more expensive.
"""

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.nn.functional import normalize, one_hot

from ..data.labelled import UNREADABLE, LabelledClip, LabelledVideos
from ..data.sources import load_videos
from ..model.modeling_vjepa import VJEPAModel
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from ..training.arguments import EvaluationArguments
from ..training.run_guard import ignore_stop_signals
from .labels import read_labels

NEIGHBORS = 20
TEMPERATURE = 0.07  # of the neighbors' votes, as published
RIDGE = 1.0  # penalty of the linear probe, per feature of unit variance


def make_online_evaluation(
    accelerator: Accelerator, arguments: EvaluationArguments, processor: VJEPAVideoProcessor, num_workers: int
) -> "OnlineEvaluation | None":
    """Load the labelled set of a run's arguments; return None if they have none."""
    if arguments.eval_train_videos is None or arguments.eval_test_videos is None:
        return None
    train, test = load_videos(arguments.eval_train_videos), load_videos(arguments.eval_test_videos)
    return OnlineEvaluation(accelerator, train, test, arguments.eval_label, processor, num_workers=num_workers)


class OnlineEvaluation:
    """Evaluation of the encoder of a run on a labelled set, divided over the processes.

    Args:
        accelerator: accelerator of the run.
        train: training set of both classifiers, a table with the columns `video` and `label`.
        test: test set, with the same columns.
        label: name of the column with the labels.
        processor: turns a video into one clip of the size of the encoder.
        batch_size: clips per forward pass.
        num_workers: worker processes that decode, per process.

    Raises:
        ValueError: a table does not have the column `label`, or `test` has a label that `train` does not have.
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
        train_labels, names = read_labels(train, label, "eval_train_videos")
        test_labels, _ = read_labels(test, label, "eval_test_videos", names)
        self.accelerator, self.num_labels = accelerator, len(names)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.train = LabelledVideos(train["video"], train_labels, processor)
        self.test = LabelledVideos(test["video"], test_labels, processor)

    def metrics(self, encoder: VJEPAModel) -> dict[str, float]:
        """Compute the metrics. Call it on all processes; each gets the same result.

        Args:
            encoder: encoder on its device, in evaluation mode.

        Returns:
            `knn_accuracy` and `linear_accuracy`; `eval_videos`, the number of readable test videos; and
            `failed_eval_videos`, the number of unreadable videos of both sets.

        Raises:
            ValueError: no video of one of the sets can be read.
        """
        train, train_labels = self._features(encoder, self.train)
        test, test_labels = self._features(encoder, self.test)
        failed = len(self.train) + len(self.test) - len(train) - len(test)
        predictions = {
            "knn_accuracy": nearest_neighbors(train, train_labels, test, self.num_labels),
            "linear_accuracy": linear_probe(train, train_labels, test, self.num_labels),
        }
        accuracies = {name: (classes == test_labels).double().mean().item() for name, classes in predictions.items()}
        return accuracies | {"eval_videos": len(test), "failed_eval_videos": failed}

    @torch.no_grad()
    def _features(self, encoder: VJEPAModel, videos: LabelledVideos) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean tokens `(n, layers * D)` in float64 and classes `(n,)` of the readable videos, in order."""
        accelerator = self.accelerator
        # All processes get equally many rows, some rows twice: all of them must call a sharded encoder together.
        padded = -(-len(videos) // accelerator.num_processes) * accelerator.num_processes
        rows = [row % len(videos) for row in range(accelerator.process_index, padded, accelerator.num_processes)]
        loader = torch.utils.data.DataLoader(
            torch.utils.data.Subset(videos, rows),
            self.batch_size,
            num_workers=self.num_workers,
            collate_fn=_stack,
            worker_init_fn=ignore_stop_signals,
            generator=torch.Generator(),  # a loader draws a seed, by default from the global generator of the run
        )
        encoded: list[tuple[torch.Tensor, int]] = []
        for pixels, labels in loader:
            with accelerator.autocast():
                outputs = encoder(pixels.to(accelerator.device), output_layers=encoder.config.pooler_layers)
            means = [tokens.cpu().double().mean(dim=1) for tokens in outputs.probe_layers]
            encoded += zip(torch.cat(means, dim=1), labels, strict=True)
        by_row = dict(gather_object(list(zip(rows, encoded, strict=True))))
        readable = [by_row[row] for row in sorted(by_row) if by_row[row][1] != UNREADABLE]
        if not readable:
            raise ValueError("no video of eval_train_videos, or no video of eval_test_videos, can be read")
        features, classes = zip(*readable, strict=True)
        return torch.stack(features), torch.tensor(classes)


def _stack(samples: list[LabelledClip]) -> tuple[torch.Tensor, list[int]]:
    return torch.stack([sample.pixels for sample in samples]), [sample.label for sample in samples]


def nearest_neighbors(
    train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, num_labels: int, neighbors: int = NEIGHBORS
) -> torch.Tensor:
    """Classify features by the votes of their nearest neighbors, weighted by exp(cosine / `TEMPERATURE`).

    Args:
        train: features `(n, D)` of the training videos.
        labels: class indices `(n,)` of the training videos.
        test: features `(m, D)` of the test videos.
        num_labels: number of classes.
        neighbors: number of neighbors that vote.

    Returns:
        class indices `(m,)`.
    """
    cosines = normalize(test, dim=1) @ normalize(train, dim=1).T
    nearest, indices = cosines.topk(min(neighbors, len(train)), dim=1)
    votes = torch.zeros(len(test), num_labels, dtype=test.dtype)
    return votes.scatter_add(1, labels[indices], (nearest / TEMPERATURE).exp()).argmax(dim=1)


def linear_probe(
    train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, num_labels: int, ridge: float = RIDGE
) -> torch.Tensor:
    """Classify features by ridge regression from standardized features to one-hot classes.

    Arguments and result as in `nearest_neighbors`; `ridge` is the penalty per feature.
    """
    mean, deviation = train.mean(dim=0), train.std(dim=0, correction=0).clamp_min(torch.finfo(train.dtype).eps)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes = one_hot(labels, num_labels).to(train.dtype)
    frequencies = classes.mean(dim=0)
    # Dual form, because there are fewer videos than features.
    kernel = train @ train.T + ridge * train.shape[1] * torch.eye(len(train), dtype=train.dtype)
    return (test @ train.T @ torch.linalg.solve(kernel, classes - frequencies) + frequencies).argmax(dim=1)
