"""The toy set with boxes has AVA's file format, boxes on the shapes, and an inexact detector.

pytest tests/examples/test_make_toy_actions.py
"""

import inspect
import re

import numpy as np
import pytest

import make_toy_actions as toy
from house import REPO
from make_toy_videos import make_toy_videos
from vjepa_hf.data import decode_video, probe_video
from vjepa_hf.evaluation.detection import box_iou, find_videos, read_actions, read_annotations, read_boxes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy.make_toy_actions(tmp_path_factory.mktemp("actions"), num_train=12, num_test=6)


def test_the_files_have_the_format_of_ava(folder):
    actions = read_actions(folder / "actions.pbtxt")
    assert actions == toy.ACTIONS and len(actions) == 12
    for split, count in (("train", 12), ("test", 6)):
        videos, frames = find_videos(folder / split), read_annotations(folder / f"{split}.csv", actions)
        assert len(videos) == count and {frame.video for frame in frames} <= set(videos)
        assert all((frame.labels.sum(axis=1) == 2).all() for frame in frames)  # a heading and a form
        assert probe_video(videos["000000"]).duration == 2 * toy.KEY_SECOND


def test_same_seed_same_bytes_for_any_number_of_videos(folder, tmp_path):
    toy.make_toy_actions(tmp_path, num_train=2, num_test=1)
    for name in ("train/000001.mp4", "test/000000.mp4"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
    assert (folder / "train.csv").read_text().startswith((tmp_path / "train.csv").read_text())


def test_shapes_have_the_size_in_pixels_of_the_videos_of_pretraining():
    assert toy.SCALE * toy.SIZE == inspect.signature(make_toy_videos).parameters["size"].default


def test_the_commands_of_the_page_read_frames_of_their_own_size():
    page = (REPO / "docs" / "detection.md").read_text()
    assert set(re.findall(r"--image_size (\d+) --test_boxes output/toy_actions", page)) == {str(toy.SIZE)}


def test_shapes_are_only_in_their_boxes(folder):
    actions = read_actions(folder / "actions.pbtxt")
    for frame in read_annotations(folder / "train.csv", actions):
        image = decode_video(find_videos(folder / "train")[frame.video], [12])[0].float().mean(dim=0).numpy()
        inside = np.zeros(image.shape, dtype=bool)
        for x1, y1, x2, y2 in np.round(toy.SIZE * frame.boxes).astype(int):
            inside[y1:y2, x1:x2] = True
        assert image[inside].max() > image[~inside].max()


def test_boxes_of_a_key_frame_do_not_overlap_and_lie_in_the_frame():
    for index in range(8):
        _, quarters = toy.render_scene(np.random.default_rng(index))
        boxes = np.array([box for box, *_ in quarters if box is not None]).reshape(-1, 4)
        assert (boxes >= 0).all() and (boxes <= 1).all()
        assert (box_iou(boxes, boxes) - np.eye(len(boxes)) < 1e-9).all()


def test_the_detector_misses_shapes_and_has_false_alarms(folder):
    hits = missed = false_alarms = 0
    for index in range(40):
        generator = np.random.default_rng(index)
        _, quarters = toy.render_scene(generator)
        truths = np.array([box for box, *_ in quarters if box is not None]).reshape(-1, 4)
        boxes = np.array([box for box, _ in toy.detect(generator, quarters)]).reshape(-1, 4)
        overlaps = box_iou(truths, boxes) > 0.5
        hits += overlaps.any(axis=1).sum()
        missed += (~overlaps.any(axis=1)).sum()
        false_alarms += (~overlaps.any(axis=0)).sum()
    assert hits > 80 and missed > 1 and false_alarms > 1
    assert all((frame.scores < 1).all() for frame in read_boxes(folder / "test_boxes.csv"))
