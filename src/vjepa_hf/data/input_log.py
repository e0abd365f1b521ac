"""What the input of a run has been through: unreadable videos, and where streams stand."""

import re
from collections import Counter
from dataclasses import asdict
from typing import Any

from accelerate.utils import gather_object

from .stream import LaneState
from .videos import VideoFailure


class InputLog:
    """What the input of a run has been through: unreadable videos, and where streams stand.

    It is the same on all processes after `gather`, and `Accelerator.register_for_checkpointing` saves it.

    Args:
        max_failed_share: largest bearable share of failures among all videos tried.
        min_videos: videos tried before the share is judged, lest the first failure end the run.
    """

    def __init__(self, max_failed_share: float, min_videos: int = 100) -> None:
        self.max_failed_share = max_failed_share
        self.min_videos = min_videos
        self.num_loaded = 0
        self.videos: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self.lane_states: dict[int, LaneState] = {}
        self._restart()

    def _restart(self) -> None:
        self.new_failures: list[VideoFailure] = []
        self.new_clips = 0
        self.new_states: dict[int, LaneState] = {}

    def update(self, batch: dict[str, Any]) -> None:
        """Take in a batch of this process that training uses."""
        self.new_failures += batch["failures"]
        self.new_clips += len(batch["clip_keys"])
        self.new_states |= batch.get("lane_states", {})

    def gather(self) -> list[VideoFailure]:
        """Bring together what all processes took in; all call it. Returns each video that fails for the first time.

        Raises:
            ValueError: the share of failures is above `max_failed_share`; on all processes alike.
        """
        parts = gather_object([(self.new_failures, self.new_clips, self.new_states)])
        self._restart()
        failures = [failure for part in parts for failure in part[0]]
        first = {failure.video: failure for failure in reversed(failures) if failure.video not in self.videos}
        self.videos.update(failure.video for failure in failures)
        self.causes.update(failure_kind(failure.cause) for failure in failures)
        self.num_loaded += sum(part[1] for part in parts)
        for part in parts:
            self.lane_states |= part[2]
        # States of another number of lanes are from before a resume: with new ones their place no longer counts.
        if current := {state.num_lanes for part in parts for state in part[2].values()}:
            self.lane_states = {lane: state for lane, state in self.lane_states.items() if state.num_lanes in current}
        self._judge()
        return list(reversed(first.values()))

    def _judge(self) -> None:
        failed = self.causes.total()
        tried = failed + self.num_loaded
        if tried >= self.min_videos and failed > self.max_failed_share * tried:
            video, times = self.videos.most_common(1)[0]
            causes = ", ".join(f"{count} x {cause}" for cause, count in self.causes.most_common(3))
            raise ValueError(
                f"{failed} of {tried} videos could not be read, more than max_failed_share={self.max_failed_share}: "
                f"{causes}; above all {video} ({times} x). Find them with vjepa-hf check-data, or raise the share."
            )

    def figures(self) -> dict[str, int]:
        """Failures so far, in all and by cause, for the log."""
        by_cause = {f"failed_videos/{cause}": count for cause, count in sorted(self.causes.items())}
        return {"failed_videos": self.causes.total()} | by_cause

    def state_dict(self) -> dict[str, Any]:
        """What was gathered, in plain types."""
        return {
            "num_loaded": self.num_loaded,
            "videos": dict(self.videos),
            "causes": dict(self.causes),
            "lane_states": {lane: asdict(state) for lane, state in self.lane_states.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.num_loaded = state["num_loaded"]
        self.videos, self.causes = Counter(state["videos"]), Counter(state["causes"])
        self.lane_states = {lane: LaneState(**fields) for lane, fields in state["lane_states"].items()}
        self._restart()


def failure_kind(cause: str) -> str:
    """The cause of a failure without what is peculiar to one file: quoted names and numbers."""
    cause = re.sub(r"\[Errno -?\d+\] |:? *'[^']*'", "", cause)
    return re.sub(r"\d+", "N", cause).strip()
