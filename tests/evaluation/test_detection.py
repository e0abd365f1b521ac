"""AVA's files are read as published, clips lie around their key frames, and unreadable videos are reported.

pytest tests/evaluation/test_detection.py
"""

import numpy as np
import pytest
import torch
from PIL import Image

from video_files import write_video
from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.data.videos import VideoFailure, decode_video, probe_video
from vjepa_hf.evaluation import detection
from vjepa_hf.evaluation.detection import (
    KeyFrame,
    KeyFrameClips,
    collate_key_frames,
    find_videos,
    plot_detections,
    read_actions,
    read_annotations,
    read_boxes,
    read_excluded,
    to_detections,
    to_truth,
    whole_frame_processor,
    write_results,
)

ANNOTATIONS = """\
-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1
-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,9,1
-5KQ66BBWC4,0902,0.332,0.194,0.481,0.891,12,0
-5KQ66BBWC4,0903,0.1,0.2,0.3,0.4,9,1
other,0902,0.1,0.2,0.3,0.4,,
"""
ACTIONS = (9, 12)


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(ANNOTATIONS)
    return path


@pytest.fixture
def processor():
    return VJEPAVideoProcessor(size={"height": 16, "width": 24}, num_frames=4, frame_step=2)


def key_frame(video, second, boxes=1):
    return KeyFrame(
        video,
        second,
        np.tile(np.array([[0.1, 0.2, 0.5, 0.6]], np.float32), (boxes, 1)),
        np.ones((boxes, 2), np.float32),
        np.ones(boxes, np.float32),
    )


# --- the files of AVA ---


def test_actions_are_named_in_either_form_of_pbtxt_and_in_csv(tmp_path):
    items = tmp_path / "items.pbtxt"
    items.write_text('item {\n  name: "stand"\n  id: 12\n}\nitem {\n  name: "read (e.g. a book)"\n  id: 9\n}\n')
    labels = tmp_path / "labels.pbtxt"
    labels.write_text(
        'label {\n  name: "stand"\n  label_id: 12\n  label_type: PERSON_MOVEMENT\n}\n'
        "label { name: 'read (e.g. a book)' label_id: 9 label_type: OBJECT_MANIPULATION }"
    )
    table = tmp_path / "table.csv"
    table.write_text('label_id,label_name\n12,stand\n9,"read (e.g. a book)"\n')
    for path in (items, labels, table):
        assert list(read_actions(path).items()) == [(9, "read (e.g. a book)"), (12, "stand")], path


@pytest.mark.parametrize("text", ["", 'item { name: "a" id: 1 }\nitem { name: "b" id: 1 }'])
def test_a_list_of_actions_without_any_or_with_one_id_twice_is_an_error(tmp_path, text):
    path = tmp_path / "actions.pbtxt"
    path.write_text(text)
    with pytest.raises(ValueError, match="must name each action once"):
        read_actions(path)


def test_rows_of_one_box_become_one_box_with_several_actions(annotations):
    frames = read_annotations(annotations, ACTIONS)
    assert [frame.moment for frame in frames] == [("-5KQ66BBWC4", 902), ("-5KQ66BBWC4", 903), ("other", 902)]
    np.testing.assert_allclose(frames[0].boxes, [[0.077, 0.151, 0.283, 0.811], [0.332, 0.194, 0.481, 0.891]])
    assert frames[0].labels.tolist() == [[1, 0], [0, 1]]  # 80 is not a class here
    assert frames[2].labels.tolist() == [[0, 0]]  # a box without an action
    assert read_annotations(annotations, (9, 12, 80))[0].labels.tolist() == [[1, 0, 1], [0, 1, 0]]


def test_two_people_in_one_box_stay_two(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("v,1,0.1,0.1,0.2,0.2,9,0\nv,1,0.1,0.1,0.2,0.2,12,1\n")
    assert read_annotations(path, ACTIONS)[0].labels.tolist() == [[1, 0], [0, 1]]


def test_excluded_key_frames_are_skipped(annotations, tmp_path):
    path = tmp_path / "excluded.csv"
    path.write_text("-5KQ66BBWC4,0902\nother,0903\n")
    excluded = read_excluded(path)
    assert excluded == {("-5KQ66BBWC4", 902.0), ("other", 903.0)}
    assert [f.moment for f in read_annotations(annotations, ACTIONS, excluded)] == [
        ("-5KQ66BBWC4", 903),
        ("other", 902),
    ]


def test_boxes_of_a_detector_are_chosen_by_score(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("v,0902,0.1,0.2,0.3,0.4,,0.95\nv,0902,0.5,0.5,0.6,0.6,,0.3\nw,1,0.1,0.2,0.3,0.4,,0.2\n")
    (frame,) = read_boxes(path, min_score=0.8)
    assert frame.moment == ("v", 902) and frame.scores.tolist() == [pytest.approx(0.95)]
    assert len(read_boxes(path)) == 2 and len(read_boxes(path, excluded={("v", 902.0)})) == 1
    path.write_text("v,0902,0.1,0.2,0.3,0.4\n")
    assert read_boxes(path)[0].scores.tolist() == [1.0]


@pytest.mark.parametrize(
    "row, message",
    [
        ("v,902,0.1,0.2,0.3", "line 2: expected 7 or 8 columns, but it has 5"),
        ("v,902,10,20,30,40,9,1", "line 2: the box 10,20,30,40 .* divide pixels"),
        ("v,902,0.3,0.2,0.1,0.4,9,1", "line 2: the box"),
        ("v,902,0.1,0.2,0.3,high,9,1", "line 2: could not convert .* 'high'"),
        ("v,902,0.1,0.2,0.3,0.4,walk,1", "line 2: .*'walk'"),
    ],
)
def test_a_wrong_row_is_an_error_with_file_and_line(tmp_path, row, message):
    path = tmp_path / "wrong.csv"
    path.write_text(f"v,901,0.1,0.2,0.3,0.4,9,1\n{row}\n")
    with pytest.raises(ValueError, match=f"wrong.csv, {message}"):
        read_annotations(path, ACTIONS)


def test_a_score_that_is_not_a_probability_is_an_error(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("v,902,0.1,0.2,0.3,0.4,,7\n")
    with pytest.raises(ValueError, match="boxes.csv: the score 7.0 of .*'v', 902"):
        read_boxes(path)


def test_results_are_written_in_the_format_of_ava(tmp_path):
    boxes = torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 2)
    detections = {"boxes": boxes, "labels": [1, 0], "scores": torch.tensor([0.5, 1e-9])}
    moments = [("v", 902.0), ("w", 1.5)]
    write_results(tmp_path / "r.csv", moments, [detections, dict.fromkeys(detections, [])], ACTIONS)
    assert (tmp_path / "r.csv").read_text().splitlines() == [
        "v,0902,0.1000,0.2000,0.3000,0.4000,12,0.500000",
        "v,0902,0.1000,0.2000,0.3000,0.4000,9,0.000000",
    ]


# --- clips ---


def test_a_clip_lies_around_its_key_frame(toy_video_path, processor):
    fps = probe_video(toy_video_path).fps
    clips = KeyFrameClips([key_frame("v", 902 + 8 / fps)], {"v": str(toy_video_path)}, processor, first_second=902)
    assert torch.equal(clips.decode(clips.key_frames[0]), decode_video(toy_video_path, [4, 6, 8, 10]))
    item = clips[0]
    assert item["pixel_values_videos"].shape == (4, 3, 16, 24) and item["failure"] is None
    assert item["boxes"].shape == (1, 4) and item["labels"].shape == (1, 2)


def test_a_clip_has_the_requested_fps_at_any_frame_rate_of_the_video(toy_video_path, processor):
    processor = whole_frame_processor(processor, image_size=32, fps=3)
    clips = KeyFrameClips([key_frame("v", 1.0)], {"v": str(toy_video_path)}, processor)
    assert probe_video(toy_video_path).fps == 12
    assert torch.equal(clips.decode(clips.key_frames[0]), decode_video(toy_video_path, [4, 8, 12, 15]))
    assert clips[0]["pixel_values_videos"].shape == (4, 3, 32, 32)


@pytest.mark.parametrize("fps", [None, 5])
def test_a_clip_lies_around_its_second_if_the_frame_rate_varies(tmp_path, processor, fps):
    times = [200 * number for number in range(10)] + [2000 + 20 * number for number in range(101)]
    path = write_video(tmp_path / "varies.mp4", num_frames=111, times=times)
    processor = whole_frame_processor(processor, image_size=32, fps=fps)
    clips = KeyFrameClips([key_frame("v", 3.0)], {"v": str(path)}, processor)
    middle = clips.decode(clips.key_frames[0])[2]
    near = [times.index(milliseconds) for milliseconds in (2980, 3000, 3020)]
    assert any(torch.equal(middle, frame) for frame in decode_video(path, near))


def test_the_whole_frame_is_resized_and_not_cropped():
    cropping = VJEPAVideoProcessor(crop_size=16, num_frames=2, frame_step=3)
    frames = torch.zeros(2, 3, 40, 80, dtype=torch.uint8)
    frames[..., :, :20] = 255  # the left quarter, which a crop would remove
    pixels = whole_frame_processor(cropping)(frames, return_tensors="pt")["pixel_values_videos"][0]
    bright = pixels[0, 0, 8] > 0
    assert pixels.shape[-2:] == (16, 16) and bright.tolist() == [True] * 4 + [False] * 12
    assert not (cropping(frames, return_tensors="pt")["pixel_values_videos"] > 0).any()
    assert whole_frame_processor(cropping).frame_step == 3


def test_a_folder_of_frames_needs_a_frame_rate(tmp_path, processor):
    for number in range(1, 21):
        (tmp_path / "v").mkdir(exist_ok=True)
        Image.new("RGB", (24, 16), (10 * number, 0, 0)).save(tmp_path / "v" / f"v_{number:06}.png")
    videos = find_videos(tmp_path)
    assert list(videos) == ["v"]
    clips = KeyFrameClips([key_frame("v", 902.0)], videos, processor, first_second=900, frame_rate=5)
    assert clips.decode(clips.key_frames[0])[:, 0, 0, 0].tolist() == [70, 90, 110, 130]
    with pytest.raises(ValueError, match="give frame_rate"):
        KeyFrameClips([key_frame("v", 902.0)], videos, processor, first_second=900)[0]


def test_videos_are_found_by_the_name_without_suffix(tmp_path):
    for name in ("abc.mp4", "d.e.MKV", "notes.txt"):
        (tmp_path / name).touch()
    assert find_videos(tmp_path) == {"abc": str(tmp_path / "abc.mp4"), "d.e": str(tmp_path / "d.e.MKV")}


def test_unreadable_clips_are_named_and_have_no_boxes(tmp_path, toy_video_path, processor):
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    videos = {"good": str(toy_video_path), "broken": str(tmp_path / "broken.mp4")}
    frames = [key_frame("good", 0.5, 2), key_frame("broken", 1.0), key_frame("gone", 1.0), key_frame("good", 99.0)]
    batch = collate_key_frames([KeyFrameClips(frames, videos, processor)[index] for index in range(4)])
    assert batch["box_mask"].tolist() == [[True, True], [False, False], [False, False], [False, False]]
    assert batch["boxes"].shape == (4, 2, 4) and batch["labels"].shape == (4, 2, 2)
    assert batch["pixel_values_videos"].shape == (4, 4, 3, 16, 24)
    broken, gone, short = batch["failures"]
    assert broken.video == videos["broken"] and "cannot read the file: InvalidData" in broken.cause
    assert gone == VideoFailure("gone", "cannot read second 1: no video has this name")
    assert str(short).endswith("cannot read second 99: the video covers seconds 0 to 1.33333; check first_second")


def test_a_batch_may_have_no_boxes(toy_video_path, processor):
    clips = KeyFrameClips([key_frame("gone", 1.0), key_frame("v", 99.0)], {"v": str(toy_video_path)}, processor)
    batch = collate_key_frames([clips[0], clips[1]])
    assert batch["boxes"].shape == (2, 0, 4) and batch["box_mask"].shape == (2, 0)


def test_a_folder_with_none_of_the_videos_is_an_error(processor):
    with pytest.raises(ValueError, match="none of the 1 videos with key frames is among the 1 given videos; .* 'v'"):
        KeyFrameClips([key_frame("v", 1.0)], {"v.avi": "v.avi.mp4"}, processor)


# --- detections ---


def test_every_action_of_every_box_that_is_not_padding_is_a_detection():
    logits = torch.tensor([[[0.0, 2.0], [-2.0, 0.0]], [[1.0, 1.0], [9.0, 9.0]]])
    boxes = torch.arange(16.0).view(2, 2, 4)
    mask = torch.tensor([[True, True], [True, False]])
    first, second = to_detections(logits, boxes, mask)
    assert first["labels"].tolist() == [0, 1, 0, 1] and second["labels"].tolist() == [0, 1]
    assert first["boxes"].tolist() == boxes[0].repeat_interleave(2, 0).tolist()
    torch.testing.assert_close(first["scores"], logits[0].flatten().sigmoid())
    scored = to_detections(logits, boxes, mask, box_scores=torch.tensor([[0.5, 1.0], [0.1, 0.0]]))
    torch.testing.assert_close(scored[0]["scores"], torch.tensor([0.5, 0.5, 1.0, 1.0]) * first["scores"])


def test_truth_has_an_entry_for_every_action_of_a_box(annotations):
    truth = to_truth(read_annotations(annotations, (9, 12, 80))[0])
    assert truth["labels"].tolist() == [0, 2, 1]
    assert truth["boxes"].tolist()[0] == truth["boxes"].tolist()[1] != truth["boxes"].tolist()[2]


def test_key_frames_with_boxes_become_a_picture_that_shows_which_actions_are_correct(tmp_path, monkeypatch):
    texts = []
    draw_box = detection._draw_box
    monkeypatch.setattr(detection, "_draw_box", lambda *args: texts.append(args[-1]) or draw_box(*args))
    frames = [torch.full((3, 48, 64), 90, dtype=torch.uint8)] * 3
    box = [0.25, 0.25, 0.75, 0.75]
    detections = {"boxes": [box, box], "labels": [1, 0], "scores": [0.4, 0.9]}
    nothing = {"boxes": [], "labels": [], "scores": []}
    truths = [{"boxes": [box], "labels": [0]}, {"boxes": [box, box], "labels": [1, 0]}, nothing]
    predictions = [detections, nothing, detections]
    plot_detections(frames, predictions, truths, ["sit", "run"], tmp_path / "boxes.png", threshold=0.4)
    with Image.open(tmp_path / "boxes.png") as picture:
        assert picture.width > picture.height > 300
    correct, missed = [("sit 0.90", "lightgreen"), ("run 0.40", "tomato")], [("run", "white"), ("sit", "white")]
    assert [lines for lines in texts if lines] == [correct, missed, [(line, "tomato") for line, _ in correct]]
