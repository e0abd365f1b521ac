"""Frame numbers of clips."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vjepa_hf.model import frame_sampling
from vjepa_hf.model.frame_sampling import (
    centered_clip,
    clip_span,
    frame_offsets,
    frames_at_constant_rate,
    has_constant_rate,
    place_clips,
    random_clips,
    regular_clips,
    resolve_frame_step,
)


def test_offsets_are_multiples_of_the_step():
    assert frame_offsets(5, 4).tolist() == [0, 4, 8, 12, 16]
    assert clip_span(5, 4) == 17


def test_rounding_errors_of_fractional_steps_do_not_add_up():
    assert frame_offsets(5, 2.5).tolist() == [0, 3, 5, 8, 10]
    assert frame_offsets(4, 0.5).tolist() == [0, 1, 1, 2]


def test_fps_gives_clips_of_equal_duration_at_any_frame_rate():
    spans = [(clip_span(16, resolve_frame_step(4, 8, fps)) - 1) / fps for fps in (8, 24, 30, 60)]
    assert np.allclose(spans, 15 * 0.125, atol=1 / 24)


@pytest.mark.parametrize(
    "fps, step, indices",
    [
        (24, 3.0, [0, 3, 6, 9]),
        (25, 3.125, [0, 3, 6, 9]),
        (30, 3.75, [0, 4, 8, 11]),
        (60, 7.5, [0, 8, 15, 23]),
        (6, 0.75, [0, 1, 2, 2]),  # slower than the clip: frames repeat
    ],
)
def test_fps_selects_the_nearest_frames(fps, step, indices):
    assert resolve_frame_step(4, 8, fps) == step
    assert frame_offsets(4, step).tolist() == indices


def test_random_clips_with_fps_stay_inside_the_video():
    clips = random_clips(100, 16, resolve_frame_step(4, 8, 29.97), np.random.default_rng(0), num_clips=500)
    assert clips.min() == 0 and clips.max() == 99
    assert set(np.diff(clips).ravel().tolist()) == {3, 4}


def test_a_single_regular_clip_is_the_middle_of_the_video():
    assert regular_clips(20, 4, 2).tolist() == [[6, 8, 10, 12]]


def test_several_regular_clips_reach_from_the_first_to_the_last_frame():
    assert regular_clips(20, 4, 2, num_clips=3).tolist() == [[0, 2, 4, 6], [6, 8, 10, 12], [13, 15, 17, 19]]


def test_a_clip_as_long_as_the_video_is_not_short():
    assert regular_clips(7, 4, 2, num_clips=2, short_video="error").tolist() == [[0, 2, 4, 6]] * 2


@pytest.mark.parametrize(
    "short_video, indices", [("repeat_last", [0, 2, 4, 4, 4]), ("wrap", [0, 2, 4, 1, 3])], ids=["repeat_last", "wrap"]
)
def test_short_videos_follow_their_policy(short_video, indices):
    generator = np.random.default_rng(0)
    assert regular_clips(5, 5, 2, num_clips=2, short_video=short_video).tolist() == [indices] * 2
    assert random_clips(5, 5, 2, generator, num_clips=2, short_video=short_video).tolist() == [indices] * 2


def test_a_video_of_one_frame_gives_a_still_clip():
    for short_video in ("repeat_last", "wrap"):
        assert regular_clips(1, 4, 4, short_video=short_video).tolist() == [[0, 0, 0, 0]]


def test_random_clips_reach_every_start_and_no_other_frame():
    clips = random_clips(20, 4, 2, np.random.default_rng(0), num_clips=2000)
    assert set(clips[:, 0].tolist()) == set(range(14))
    assert clips.max() == 19
    assert (np.diff(clips, axis=1) == 2).all()


def test_random_clips_are_a_function_of_the_generator():
    def draw(seed):
        return random_clips(500, 16, 4, np.random.default_rng(seed), num_clips=3).tolist()

    assert draw(1) == draw(1) != draw(2)


def test_random_clips_are_these_for_this_seed():
    clips = random_clips(100, 4, 4, np.random.default_rng(0), num_clips=3)
    assert clips.tolist() == [[74, 78, 82, 86], [56, 60, 64, 68], [44, 48, 52, 56]]


def test_clips_may_start_anywhere():
    assert place_clips(np.array([3, 9]), 12, 3, 2).tolist() == [[3, 5, 7], [9, 11, 11]]


def test_frames_of_a_clip_are_exactly_a_step_apart_and_those_of_the_reference_are_not(shared):
    rows = json.loads((shared / "fixtures/data/frame_indices.json").read_text())["random_clip_sampling_false"]
    (recorded,) = [
        row
        for row in rows
        if (row["length"], row["frame_step"], row["num_clips"]) == (300, 4, 1) and not row["allow_clip_overlap"]
    ]
    assert set(np.diff(recorded["clips"][0])) == {4, 5}
    assert set(np.diff(regular_clips(300, 16, 4)[0])) == {4}


def test_without_fps_the_frame_rate_is_not_needed():
    for video_fps in (30, None, float("nan")):
        assert resolve_frame_step(4, None, video_fps) == 4


@pytest.mark.parametrize("video_fps", [None, float("nan"), 0, -1, float("inf")])
def test_fps_without_a_frame_rate_is_an_error(video_fps):
    with pytest.raises(ValueError, match="fps=5 needs the frame rate of the video, which is not known"):
        resolve_frame_step(4, 5, video_fps)


IMPOSSIBLE = {
    "total_frames=0 must": lambda: regular_clips(0, 16, 4),
    "total_frames=-1": lambda: random_clips(-1, 16, 4, np.random.default_rng(0)),
    "num_frames=0": lambda: regular_clips(10, 0, 4),
    "frame_step=0": lambda: regular_clips(10, 4, 0),
    "frame_step=-1": lambda: regular_clips(10, 4, -1),
    "frame_step=nan": lambda: frame_offsets(4, float("nan")),
    "frame_step=inf": lambda: clip_span(4, float("inf")),
    "num_clips=0": lambda: regular_clips(10, 4, 4, num_clips=0),
    "short_video='loop' must be one of": lambda: regular_clips(10, 4, 4, short_video="loop"),
    "12 frames .* num_frames=4 .* frame_step=4 spans 13": lambda: regular_clips(12, 4, 4, short_video="error"),
    r"starts=\[-1\] must lie in the video, 0 to 9": lambda: place_clips([-1], 10, 4, 2),
    r"starts=\[3, 10\]": lambda: place_clips([3, 10], 10, 4, 2),
    "center=10 must lie in the video, 0 to 9": lambda: centered_clip(10, 10, 4, 2),
    "fps=0 must be a positive number": lambda: resolve_frame_step(4, 0, 30),
    "fps=inf must": lambda: resolve_frame_step(4, float("inf"), 30),
    "fps=8 needs the frame rate of the video": lambda: resolve_frame_step(4, 8, 0),
}


def test_a_clip_around_a_frame_has_it_in_the_middle_and_repeats_the_ends_of_the_video():
    assert centered_clip(10, 20, num_frames=4, frame_step=2).tolist() == [[6, 8, 10, 12]]
    assert centered_clip(10, 20, num_frames=5, frame_step=2).tolist() == [[6, 8, 10, 12, 14]]
    assert centered_clip(1, 4, num_frames=6, frame_step=1).tolist() == [[0, 0, 0, 1, 2, 3]]
    assert centered_clip(3, 4, num_frames=4, frame_step=2.5).tolist() == [[0, 1, 3, 3]]
    assert centered_clip(0, 1, num_frames=2, frame_step=4).tolist() == [[0, 0]]


@pytest.mark.parametrize("message", IMPOSSIBLE)
def test_impossible_requests_name_the_value(message):
    with pytest.raises(ValueError, match=message):
        IMPOSSIBLE[message]()


def test_every_raise_statement_has_such_a_request():
    tree = ast.parse(Path(frame_sampling.__file__).read_text())
    lines = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.Raise)}
    reached = set()
    for call in IMPOSSIBLE.values():
        with pytest.raises(ValueError) as error:
            call()
        reached.add(error.traceback[-1].lineno + 1)
    assert len(lines) >= 6
    assert lines == reached


# --- properties of any video and any clip --------------------------------------------------------------------------

TOTALS = st.integers(1, 2000)
CLIPS = {
    "num_frames": st.integers(1, 32),
    "frame_step": st.one_of(st.integers(1, 16), st.floats(0.1, 16)),
    "num_clips": st.integers(1, 8),
}


def clips_of_every_rule(total_frames, num_frames, frame_step, num_clips, short_video, seed=0):
    clips = (total_frames, num_frames, frame_step)
    yield regular_clips(*clips, num_clips, short_video)
    yield random_clips(*clips, np.random.default_rng(seed), num_clips, short_video)


@given(TOTALS, st.fixed_dictionaries(CLIPS), st.sampled_from(["repeat_last", "wrap"]), st.integers(0, 2**31))
def test_any_clip_lies_in_its_video(total_frames, clip, short_video, seed):
    span = clip_span(clip["num_frames"], clip["frame_step"])
    offsets = frame_offsets(clip["num_frames"], clip["frame_step"])
    for indices in clips_of_every_rule(total_frames, **clip, short_video=short_video, seed=seed):
        assert indices.shape == (clip["num_clips"], clip["num_frames"]) and indices.dtype == np.int64
        assert indices.min() >= 0 and indices.max() < total_frames
        if span <= total_frames:  # then no policy changes anything
            assert (indices - indices[:, :1] == offsets).all()
        elif short_video == "repeat_last":
            assert (np.diff(indices) >= 0).all() and (indices == np.minimum(offsets, total_frames - 1)).all()
        else:
            assert (indices == offsets % total_frames).all()


@given(TOTALS, st.fixed_dictionaries(CLIPS))
def test_any_video_that_is_too_short_is_an_error_with_the_policy_error(total_frames, clip):
    if clip_span(clip["num_frames"], clip["frame_step"]) <= total_frames:
        assert len(list(clips_of_every_rule(total_frames, **clip, short_video="error"))) == 2
        return
    with pytest.raises(ValueError, match=f"the video has {total_frames} frames"):
        next(clips_of_every_rule(total_frames, **clip, short_video="error"))


@given(TOTALS, st.fixed_dictionaries(CLIPS))
def test_regular_clips_reach_from_end_to_end_at_even_distances(total_frames, clip):
    indices = regular_clips(total_frames, **clip)
    last_start = max(0, total_frames - clip_span(clip["num_frames"], clip["frame_step"]))
    starts = indices[:, 0]
    assert (np.diff(starts) >= 0).all() and np.ptp(np.diff(starts)) <= 1 if len(starts) > 1 else True
    assert (starts[0], starts[-1]) == ((0, last_start) if len(starts) > 1 else (last_start // 2,) * 2)


@given(st.integers(1, 64), st.floats(1, 100), st.floats(1, 240))
def test_fps_is_never_more_than_half_a_frame_off(num_frames, fps, video_fps):
    offsets = frame_offsets(num_frames, resolve_frame_step(4, fps, video_fps))
    assert np.abs(offsets - np.arange(num_frames) * video_fps / fps).max() <= 0.5 + 1e-6


def test_a_rate_is_constant_if_no_frame_is_half_an_interval_from_its_time():
    assert has_constant_rate([7]) and has_constant_rate([0, 0]) and has_constant_rate([0, 33, 67, 100])
    assert has_constant_rate([0, 10, 24, 30]) and not has_constant_rate([0, 10, 26, 30])


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=40, unique=True).map(sorted))
def test_frames_at_a_constant_rate_are_the_nearest_in_time_and_ascend(times):
    numbers = np.arange(len(times))
    frames = frames_at_constant_rate(numbers, times)
    wanted = np.linspace(times[0], times[-1], len(times))
    distances = np.abs(np.array(times) - wanted[:, None])
    assert np.allclose(distances[numbers, frames], distances.min(axis=1))
    assert (np.diff(frames) >= 0).all() and frames[0] == 0 and frames[-1] == len(times) - 1
    if has_constant_rate(times) and not np.isclose(np.sort(distances)[:, 0], np.sort(distances)[:, 1]).any():
        assert np.array_equal(frames, numbers)
