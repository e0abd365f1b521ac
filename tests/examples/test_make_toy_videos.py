"""The toy set is real H.264, a function of its seed, and has correct labels and boxes around the shapes."""

import csv

import av
import numpy as np
import pytest

import make_toy_videos as toy


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def frames_of(path):
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy.make_toy_videos(tmp_path_factory.mktemp("toy"), num_train=6, num_test=4, num_frames=12, size=32)


def test_every_listed_video_is_h264_of_the_requested_size(folder):
    names = [row["video"] for split in ("train", "test") for row in read(folder / f"{split}.csv")]
    assert len(names) == len(set(names)) == 10
    for name in names:
        assert frames_of(folder / name).shape == (12, 32, 32, 3)


def test_same_seed_same_bytes_another_seed_other_videos(folder, tmp_path):
    again = toy.make_toy_videos(tmp_path / "again", num_train=6, num_test=4, num_frames=12, size=32)
    other = toy.make_toy_videos(tmp_path / "other", num_train=6, num_test=4, num_frames=12, size=32, seed=1)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(names) == 13
    for name in names:
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name
    assert (folder / "train/000000.mp4").read_bytes() != (other / "train/000000.mp4").read_bytes()


def test_a_video_does_not_depend_on_the_number_of_videos(folder, tmp_path):
    fewer = toy.make_toy_videos(tmp_path, num_train=3, num_test=1, num_frames=12, size=32)
    for row in read(fewer / "train.csv") + read(fewer / "test.csv"):
        assert (fewer / row["video"]).read_bytes() == (folder / row["video"]).read_bytes()
    assert read(fewer / "train.csv") == read(folder / "train.csv")[:3]


def test_train_and_test_share_no_video(folder):
    assert (folder / "train/000000.mp4").read_bytes() != (folder / "test/000000.mp4").read_bytes()


def test_labels_are_balanced_and_independent_of_each_other():
    pairs = toy.balanced_labels(np.random.default_rng(0), 3 * 64)
    assert {pair: pairs.count(pair) for pair in pairs} == {(a, m): 3 for a in toy.APPEARANCES for m in toy.MOTIONS}


@pytest.mark.parametrize("motion", toy.MOTIONS)
def test_every_box_moves_in_the_direction_of_the_motion_label(motion):
    _, boxes = toy.render_video(np.random.default_rng(3), "checked disk", motion, num_frames=48, size=64)
    whole = ((boxes[..., :2] > 0) & (boxes[..., 2:] < 64)).all(axis=-1)  # not cropped by the border
    steps = np.diff((boxes[..., :2] + boxes[..., 2:]) / 2, axis=0)[whole[1:] & whole[:-1]]
    assert len(steps) > toy.FLOCK
    heading = 2 * np.pi * toy.MOTIONS.index(motion) / len(toy.MOTIONS)
    assert (steps @ [np.cos(heading), np.sin(heading)] > 0.8 * np.linalg.norm(steps, axis=1)).all()


def test_boxes_contain_the_shapes_and_the_texture_changes_nothing_else():
    striped, boxes = toy.render_video(np.random.default_rng(1), "striped square", "east", num_frames=4, size=64)
    checked, _ = toy.render_video(np.random.default_rng(1), "checked square", "east", num_frames=4, size=64)
    assert boxes.shape == (4, toy.FLOCK, 4) and (boxes[..., 2:] > boxes[..., :2]).all()
    for frame in range(4):
        differs = (striped[frame] != checked[frame]).any(axis=-1)
        held = np.zeros_like(differs)
        for x0, y0, x1, y1 in boxes[frame]:
            assert differs[y0:y1, x0:x1].sum() > 20
            held[y0:y1, x0:x1] = True
        if (boxes[frame] > 0).all() and (boxes[frame] < 64).all():
            assert not differs[~held].any()


def test_the_position_of_a_shape_does_not_reveal_its_direction():
    centers = [
        toy.centers_on_torus(np.random.default_rng(index), heading=0.0, speed=0.09, num_frames=16)
        for index in range(500)
    ]
    histogram, _ = np.histogram(np.array(centers)[:, 0, -1], bins=5, range=(0, 1))  # x after moving east
    assert histogram.min() > 70


def test_brightness_does_not_identify_a_video():
    means = [
        toy.render_video(np.random.default_rng(index), "striped disk", motion, num_frames=2, size=32)[0].mean()
        for index, motion in enumerate(toy.MOTIONS * 4)
    ]
    assert np.std(means) < 10  # gray levels of 255: single pixels differ by 36


@pytest.mark.parametrize("size", [33, 14])
def test_a_size_that_cannot_be_encoded_is_an_error(tmp_path, size):
    with pytest.raises(ValueError, match=f"size={size}"):
        toy.make_toy_videos(tmp_path, num_train=1, num_test=1, size=size)
    assert not (tmp_path / "train.csv").exists()
