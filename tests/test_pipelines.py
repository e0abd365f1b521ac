"""`pipeline("video-classification")` on files, with only the packages of pip."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from video_files import read_all, write_video
from vjepa_hf import VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.model.video_io import VideoDecodeError

LABELS = {0: "left", 1: "right", 2: "still"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A video that is longer than a clip of 4 frames at step 4, and one that is shorter."""
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / "long one.mp4", num_frames=40), write_video(folder / "short.mp4", num_frames=5)]


@pytest.fixture
def folder(tiny_config, tmp_path):
    """A saved classifier: weights, configuration and processor."""
    torch.manual_seed(0)
    tiny_config.id2label = LABELS
    tiny_config.label2id = {label: index for index, label in LABELS.items()}
    VJEPAForVideoClassification(tiny_config).save_pretrained(tmp_path)
    VJEPAVideoProcessor(crop_size=32, num_frames=4, patch_size=8).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def classify(folder):
    return pipeline("video-classification", model=str(folder))


def test_a_path_gives_labels_with_probabilities(classify, videos):
    answer = classify(str(videos[0]))
    assert {row["label"] for row in answer} == set(LABELS.values())
    assert sum(row["score"] for row in answer) == pytest.approx(1)
    assert answer == sorted(answer, key=lambda row: -row["score"])


def test_a_url_gives_the_answer_of_the_path(classify, videos):
    assert classify(videos[0].as_uri()) == classify(str(videos[0]))


def test_a_list_gives_one_answer_per_video(classify, videos):
    paths = [str(path) for path in videos]
    assert classify(paths) == [classify(path) for path in paths]


def test_a_video_shorter_than_a_clip_is_classified(classify, videos):
    assert len(classify(str(videos[1]))) == 3
    assert len(classify(str(videos[1]), num_frames=8)) == 3


def test_top_k_may_exceed_the_number_of_labels(classify, videos):
    assert len(classify(str(videos[0]), top_k=99)) == 3
    assert len(classify(str(videos[0]), top_k=1)) == 1


def test_the_answer_equals_that_of_the_model_on_the_middle_of_the_video(classify, folder, videos):
    processor = VJEPAVideoProcessor.from_pretrained(folder)
    model = VJEPAForVideoClassification.from_pretrained(folder).eval()
    inputs = processor(videos[0], return_metadata=True)
    assert inputs.pop("video_metadata")[0].frames_indices.tolist() == [13, 17, 21, 25]
    with torch.no_grad():
        probabilities = model(**inputs).logits[0].softmax(-1)
    for row in classify(str(videos[0])):
        assert row["score"] == pytest.approx(probabilities[model.config.label2id[row["label"]]].item(), abs=1e-6)


def test_several_clips_are_averaged(folder, videos):
    VJEPAVideoProcessor(crop_size=32, num_frames=4, patch_size=8, num_clips=3).save_pretrained(folder)
    processor = VJEPAVideoProcessor.from_pretrained(folder)
    model = VJEPAForVideoClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(processor(videos[0])["pixel_values_videos"][0]).logits.softmax(-1).mean(0)
    for row in pipeline("video-classification", model=str(folder))(str(videos[0])):
        assert row["score"] == pytest.approx(expected[model.config.label2id[row["label"]]].item(), abs=1e-5)


def test_clips_and_crops_are_arguments_of_the_processor(folder, videos):
    processor = VJEPAVideoProcessor.from_pretrained(folder, num_clips=2, num_crops=3)
    model = VJEPAForVideoClassification.from_pretrained(folder).eval()
    views = processor(videos[0])["pixel_values_videos"][0]
    assert len(views) == 6
    with torch.no_grad():
        expected = model(views).logits.softmax(-1).mean(0)
    classify = pipeline("video-classification", model=str(folder), video_processor=processor)
    for row in classify(str(videos[0])):
        assert row["score"] == pytest.approx(expected[model.config.label2id[row["label"]]].item(), abs=1e-5)


def test_a_probe_that_attends_across_clips_answers_and_names_what_it_lacks(folder, videos):
    model = VJEPAForVideoClassification.from_pretrained(folder, pooler_num_clips=2)
    processor = VJEPAVideoProcessor.from_pretrained(folder, num_clips=2, num_crops=3)
    answers = pipeline("video-classification", model=model, video_processor=processor)(str(videos[0]))
    assert sum(row["score"] for row in answers) == pytest.approx(1)
    processor.num_clips, processor.num_crops = 3, 1
    with pytest.raises(ValueError, match="3 clips of a video, not a multiple of pooler_num_clips=2"):
        pipeline("video-classification", model=model, video_processor=processor)(str(videos[0]))


def test_an_image_is_classified_as_a_still_clip(classify, folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "image.png")
    model = VJEPAForVideoClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        still = VJEPAVideoProcessor.from_pretrained(folder)(np.stack([pixels] * 4))
        expected = model(**still).logits[0].softmax(-1)
    for source in (image, pixels, str(tmp_path / "image.png")):
        for row in classify(source):
            assert row["score"] == pytest.approx(expected[model.config.label2id[row["label"]]].item(), abs=1e-6)
    assert classify([[image], [image]])[1] == classify(image)


def test_arrays_are_classified_too(classify, videos):
    frames = VJEPAVideoProcessor(
        num_frames=4, do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False
    )(videos[0], return_tensors="np")["pixel_values_videos"][0]
    assert classify(frames) == classify(str(videos[0]))


def test_an_unreadable_file_is_named_and_not_skipped(classify, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(VideoDecodeError, match="broken.mp4"):
        classify(str(broken))


def test_real_clips_are_classified(classify, shared):
    paths = [*sorted((shared / "videos/actions").rglob("*.mp4"))[::200], *(shared / "videos/long").glob("*.mp4")]
    assert len(paths) >= 3
    answers = classify([str(path) for path in paths])
    assert len(answers) == len(paths) and all(len(answer) == 3 for answer in answers)


@pytest.mark.parametrize("batch_size", [2, 3])
def test_a_batch_gives_the_answers_of_one_by_one(classify, videos, tmp_path, batch_size):
    paths = [*map(str, videos), str(write_video(tmp_path / "other size.mp4", num_frames=9, height=80))]
    expected = [classify(path) for path in paths]
    for answers in (
        classify(paths, batch_size=batch_size),
        list(classify((path for path in paths), batch_size=batch_size)),
    ):
        for answer, one in zip(answers, expected, strict=True):
            assert [row["label"] for row in answer] == [row["label"] for row in one]
            assert [row["score"] for row in answer] == pytest.approx([row["score"] for row in one], abs=1e-5)


def test_every_sequence_of_videos_is_classified_one_by_one(classify, videos):
    paths = [str(path) for path in videos]
    table = datasets.Dataset.from_dict({"video": paths})
    for sequence in (tuple(paths), table["video"], np.array(paths)):
        assert classify(sequence) == classify(paths)
    assert list(classify(table.to_iterable_dataset()["video"])) == classify(paths)


def test_a_list_of_frames_is_one_video_and_an_array_of_videos_is_several(classify, videos):
    frames = read_all(videos[0])
    expected = classify(frames)
    images = [Image.fromarray(frame) for frame in frames]
    for one in (images, tuple(images), list(frames)):
        assert classify(one) == expected
    for several in ([images, images], np.stack([frames, frames]), (frames, images)):
        assert classify(several) == [expected, expected]
    assert classify([images, images], batch_size=2) == [expected, expected]


def test_no_video_is_an_error(classify):
    with pytest.raises(ValueError, match="nor a non-empty list of these"):
        classify([])


def test_views_of_several_videos_make_a_batch(folder, videos):
    processor = VJEPAVideoProcessor.from_pretrained(folder, num_clips=2, num_crops=3)
    classify = pipeline("video-classification", model=str(folder), video_processor=processor)
    paths = [str(path) for path in videos]
    for answer, path in zip(classify(paths, batch_size=2), paths, strict=True):
        assert [row["score"] for row in answer] == pytest.approx([row["score"] for row in classify(path)], abs=1e-5)


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1", "LABEL_2"], ["walk", "run", "jump"]])
def test_classes_without_names_are_warned_of(folder, monkeypatch, names):
    model = VJEPAForVideoClassification.from_pretrained(folder)
    model.config.id2label = dict(enumerate(names))
    warnings = []
    monkeypatch.setattr("vjepa_hf.pipelines.logger.warning_once", warnings.append)
    pipeline("video-classification", model=model, video_processor=VJEPAVideoProcessor.from_pretrained(folder))
    assert [("--class_names FILE" in text) for text in warnings] == [True] * (names[0] == "LABEL_0")


def test_a_saved_pipeline_loads_again_with_its_processor(classify, videos, tmp_path):
    classify.save_pretrained(tmp_path / "saved")
    again = pipeline("video-classification", model=str(tmp_path / "saved"))
    assert again.video_processor.to_dict() == classify.video_processor.to_dict()
    assert again(str(videos[0])) == classify(str(videos[0]))


def test_pipelines_of_other_models_are_left_as_they_are(tmp_path):
    from transformers import VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2VideoProcessor

    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "crop_size": 32,
        "frames_per_clip": 2,
    }
    predictor = {"pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
    model = VJEPA2ForVideoClassification(VJEPA2Config(**sizes, **predictor))
    other = pipeline("video-classification", model=model, video_processor=VJEPA2VideoProcessor(crop_size=32))
    assert other.feature_extractor is None
