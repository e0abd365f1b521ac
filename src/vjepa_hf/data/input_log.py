"""Counts of unreadable videos, and the positions of streams, over all processes of a run."""

import re
from collections import Counter
from dataclasses import asdict
from typing import Any

from accelerate.utils import gather_object

from .stream import ShardState
from .videos import VideoFailure

MIN_VIDEOS = 100


class InputLog:
    """Log of the input of a run: unreadable videos, and the positions of streams.

    After `gather` it is the same on all processes. `Accelerator.register_for_checkpointing` saves it.

    Args:
        max_failed_share: largest allowed fraction of failures, checked once `MIN_VIDEOS` videos were tried.
    """

    def __init__(self, max_failed_share: float) -> None:
        self.max_failed_share = max_failed_share
        self.num_loaded = 0
        self.videos: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self.shard_states: dict[int, ShardState] = {}
        self._reset()

    def _reset(self) -> None:
        self.new_failures: list[VideoFailure] = []
        self.new_clips = 0
        self.new_states: dict[int, ShardState] = {}

    def update(self, batch: dict[str, Any]) -> None:
        """Add a batch that training uses on this process."""
        self.new_failures += batch["failures"]
        self.new_clips += len(batch["clip_keys"])
        self.new_states |= batch.get("shard_states", {})

    def gather(self) -> list[VideoFailure]:
        """Add the updates of all processes, which all have to call it; return each video that fails the first time.

        Raises:
            ValueError: the fraction of failures is above `max_failed_share`, on every process.
        """
        updates = gather_object([(self.new_failures, self.new_clips, self.new_states)])
        self._reset()
        failures = [failure for new_failures, _, _ in updates for failure in new_failures]
        first = {failure.video: failure for failure in reversed(failures) if failure.video not in self.videos}
        self.videos.update(failure.video for failure in failures)
        self.causes.update(failure_kind(failure.cause) for failure in failures)
        self.num_loaded += sum(new_clips for _, new_clips, _ in updates)
        for _, _, new_states in updates:
            self.shard_states |= new_states
        # States of another number of shards are from before a resume and no longer count.
        if current := {state.num_shards for _, _, states in updates for state in states.values()}:
            self.shard_states = {i: state for i, state in self.shard_states.items() if state.num_shards in current}
        self._check()
        return list(reversed(first.values()))

    def _check(self) -> None:
        failed = self.causes.total()
        tried = failed + self.num_loaded
        if tried >= MIN_VIDEOS and failed > self.max_failed_share * tried:
            video, times = self.videos.most_common(1)[0]
            causes = ", ".join(f"{count} x {cause}" for cause, count in self.causes.most_common(3))
            raise ValueError(
                f"{failed} of {tried} videos could not be read, more than max_failed_share={self.max_failed_share}: "
                f"{causes}; most often {video} ({times} x). List them with vjepa-hf check-data and remove them, or "
                "raise max_failed_share."
            )

    def metrics(self) -> dict[str, int]:
        """Return the number of failures so far, in total and by cause, for the log."""
        by_cause = {f"failed_videos/{cause}": count for cause, count in sorted(self.causes.items())}
        return {"failed_videos": self.causes.total()} | by_cause

    def state_dict(self) -> dict[str, Any]:
        """Return the gathered state in plain types."""
        return {
            "num_loaded": self.num_loaded,
            "videos": dict(self.videos),
            "causes": dict(self.causes),
            "shard_states": {index: asdict(state) for index, state in self.shard_states.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; the states of shards may have the names of earlier versions."""
        self.num_loaded = state["num_loaded"]
        self.videos, self.causes = Counter(state["videos"]), Counter(state["causes"])
        states = state["shard_states"] if "shard_states" in state else state["lane_states"]
        self.shard_states = {index: _shard_state(fields) for index, fields in states.items()}
        self._reset()


def _shard_state(fields: dict[str, Any]) -> ShardState:
    fields = dict(fields)
    if "num_lanes" in fields:
        fields["num_shards"] = fields.pop("num_lanes")
    return ShardState(**fields)


def failure_kind(cause: str) -> str:
    """Return the cause of a failure without quoted names and numbers, which differ from file to file."""
    cause = re.sub(r"\[Errno -?\d+\] |:? *'[^']*'", "", cause)
    return re.sub(r"\d+", "N", cause).strip()
