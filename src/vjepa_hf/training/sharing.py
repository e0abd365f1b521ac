"""Sharing of a pretraining run: its model card and its code at every save, and uploads to the Hub.

The card has the data as counted, the hyperparameters, and the health at the end with the curves.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..model.configuration_vjepa import VJEPAConfig
from ..model_card import code, file_name, hyperparameters, read_origin, table, write_card
from ..visualization.curves import plot_curves
from .arguments import PretrainingArguments
from .checkpoints import Progress
from .diagnostics import ALARMS, alarms
from .hub import add_remote_code, open_repo
from .log import read_log

# Metrics of the log that the card shows, by the row that has them.
_PROGRESS = ("loss", "skipped_steps", "failed_videos")
_HEALTH = (*dict.fromkeys(alarm.metric for alarm in ALARMS), "copy_ratio", "encoder_distance")
_EVALUATION = ("knn_accuracy", "linear_accuracy", "eval_videos")


class Sharing:
    """Writer of the card of a run, and uploader of its folder. All processes call its methods.

    Args:
        accelerator: accelerator of the run.
        args: arguments of the run, before its folder is prepared.
        config: configuration of the model.

    Raises:
        ValueError: the repository cannot be created.
    """

    def __init__(self, accelerator: Accelerator, args: PretrainingArguments, config: VJEPAConfig) -> None:
        self.args, self.config, self.folder = args, config, Path(args.run.output_dir)
        self.is_main_process = accelerator.is_main_process
        self.repo = open_repo(accelerator, args.hub, self.folder)
        resumed = self.folder if args.run.resume else None
        self.origin = read_origin(args.optimization.init_from, resumed) if self.is_main_process else None

    def save(self, progress: Progress, at_end: bool = False) -> None:
        """Write the card, and upload the folder in the background if the strategy asks for it.

        Args:
            progress: progress of the run.
            at_end: wait for the upload; with the strategy `end`, there is one only if the run is complete.

        Raises:
            OSError: the folder cannot be written, or the upload at the end failed.
        """
        if self.origin is None:  # only the main process writes
            return
        strategy, is_last = self.args.hub.hub_strategy, progress.step >= self.args.optimization.max_steps
        uploads = self.repo is not None and (strategy != "end" or at_end and is_last)
        rows = read_log(self.folder / "log.jsonl")
        if self.args.hub.hub_remote_code:
            add_remote_code(self.folder)
        if uploads and not at_end:
            plot_curves(rows, self.folder / "curves.png", title=self.args.run.output_dir)
        write_card(
            self.folder,
            "VJEPAForPreTraining",
            self._introduction(progress),
            self.origin,
            self._sections(progress, rows),
            model_id=self.repo.name if self.repo else None,
            remote_code=self.args.hub.hub_remote_code,
        )
        if uploads and self.repo is not None:
            self.repo.upload(f"step {progress.step}", checkpoint=strategy == "checkpoint", wait=at_end)

    def _introduction(self, progress: Progress) -> str:
        config = self.config
        height, width = config.frame_size
        return (
            "A V-JEPA video encoder, pretrained without labels by predicting the features of hidden regions "
            f"([paper](https://arxiv.org/abs/2404.08471)). Width {config.hidden_size}, {config.num_hidden_layers} "
            f"layers; clips of {config.num_frames} frames, {height} x {width} pixels. Step {progress.step:,} of "
            f"{self.args.optimization.max_steps:,}.\n\n`VJEPAModel` is the target encoder; `VJEPAForPreTraining` also "
            "loads the context encoder and the predictor."
        )

    def _sections(self, progress: Progress, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
        args = self.args
        number = (progress.data or {}).get("num_videos")
        sources = [*(args.data.videos or ["toy videos"]), *args.data.images]
        names = ", ".join(code(file_name(source)) for source in sources)
        kind = "videos and images" if args.data.images else "videos"
        videos = f"A stream of {kind}" if number is None else f"{number:,} {kind}"
        drawn = f"{progress.clips:,} clips" + (f" and {progress.images:,} images" if args.data.images else "")
        values = asdict(args.optimization) | asdict(args.data) | asdict(args.masking)
        for name in ("masks", "image_masks"):
            values |= {f"{name}[{index}]": mask for index, mask in enumerate(values.pop(name))}
        values |= {"seed": args.run.seed, "mixed_precision": args.run.mixed_precision}
        parts = {"image_": bool(args.data.images), "context_loss_": self.config.pred_context_head}
        without = tuple(prefix for prefix, used in parts.items() if not used)
        values = {name: value for name, value in values.items() if not name.startswith(without)}
        sections = {
            "Data": f"{videos} from {names}; {drawn} drawn.",
            "Hyperparameters": hyperparameters(values),
            "Health": self._health(rows),
        }
        if evaluation := _last(rows, *_EVALUATION):
            sections["Evaluation during training"] = table(evaluation)
        return sections

    def _health(self, rows: Sequence[dict[str, Any]]) -> str:
        lines = ["Not measured yet."]
        if health := _last(rows, *_HEALTH):
            raised = alarms(health, health["step"] > self.args.optimization.effective_warmup_steps)
            lines = [f"- WARNING {alarm}" for alarm in raised] or ["No alarm at the end."]
        values = health | _last(rows, *_PROGRESS)
        if values:
            lines += ["", table({name: f"{value:.4g}" for name, value in values.items()})]
        if (self.folder / "curves.png").exists():
            lines += ["", "![curves of the run](curves.png)"]
        return "\n".join(lines)


def _last(rows: Sequence[dict[str, Any]], *names: str) -> dict[str, Any]:
    """Return the last values of metrics, with their step; empty if no row has all of them."""
    row = next((row for row in reversed(rows) if all(name in row for name in names)), None)
    return {} if row is None else {"step": row["step"]} | {name: row[name] for name in names}
