"""Failures are named once, counted by cause and bounded, and a resumed log continues to count.

pytest tests/data/test_input_log.py
"""

import pickle

import pytest

from vjepa_hf.data.input_log import InputLog, failure_kind
from vjepa_hf.data.stream import ShardState
from vjepa_hf.data.videos import VideoFailure


def batch_of(failures: list[VideoFailure], num_clips: int) -> dict:
    return {"failures": failures, "clip_keys": [(0, 0, 0)] * num_clips}


def test_each_failure_is_named_once_and_counted_by_its_cause():
    log = InputLog(max_failed_share=0.5)
    first = VideoFailure("a.mp4", "ValueError: it has only 31 frames")
    second = VideoFailure("b.mp4", "ValueError: it has only 7 frames")
    log.update(batch_of([first, first, second], 20))
    assert log.gather() == [first, second]
    log.update(batch_of([first], 20))
    assert log.gather() == []
    assert log.metrics() == {"failed_videos": 4, "failed_videos/ValueError: it has only N frames": 4}


def test_too_many_failures_stop_the_run_with_their_causes():
    log = InputLog(max_failed_share=0.1)
    log.update(batch_of([VideoFailure("a.mp4", "no frames")] * 14, 116))
    with pytest.raises(ValueError, match="14 of 130 videos.*max_failed_share=0.1: 14 x no frames.*a.mp4 .14 x."):
        log.gather()


def test_the_fraction_is_not_checked_after_the_first_video():
    log = InputLog(max_failed_share=0.0)
    log.update(batch_of([VideoFailure("a", "b")], 1))
    log.gather()


def test_a_log_resumes_from_its_state():
    log, other = InputLog(0.5), InputLog(0.5)
    failure = VideoFailure("a.mp4", "no frames")
    log.update(batch_of([failure], 30))
    log.gather()
    other.load_state_dict(pickle.loads(pickle.dumps(log.state_dict())))
    for either in (log, other):
        either.update(batch_of([failure], 30))
        assert either.gather() == []
    assert log.state_dict() == other.state_dict()
    assert other.metrics()["failed_videos"] == 2 and other.num_loaded == 60


def test_positions_of_streams_are_restored_by_name():
    log = InputLog(0.5)
    log.update(batch_of([], 1) | {"shard_states": {0: ShardState(num_shards=2, epoch=1, used=3)}})
    log.gather()
    state = pickle.loads(pickle.dumps(log.state_dict()))
    fields = dict(reversed(state["shard_states"][0].items()))
    other = InputLog(0.5)
    other.load_state_dict(state | {"shard_states": {0: fields}})
    assert other.shard_states == log.shard_states == {0: ShardState(num_shards=2, epoch=1, used=3)}


@pytest.mark.parametrize("name", ["num_lanes", "num_shards"])
def test_positions_of_streams_of_earlier_versions_load(name):
    log = InputLog(0.5)
    state = log.state_dict()
    del state["shard_states"]
    fields = {name: 2, "epoch": 1, "block": 0, "used": 3, "position": None}
    log.load_state_dict(state | {"lane_states": {0: fields}})
    assert log.shard_states == {0: ShardState(num_shards=2, epoch=1, used=3)}


def test_the_kind_of_a_failure_does_not_depend_on_the_file():
    causes = [
        f"InvalidDataError: [Errno 1094995529] Invalid data found when processing input: '/x/{n}.mp4'" for n in "ab"
    ]
    assert {failure_kind(cause) for cause in causes} == {"InvalidDataError: Invalid data found when processing input"}
