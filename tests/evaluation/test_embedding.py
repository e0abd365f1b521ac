"""A table of vectors does not depend on interruptions or processes, and SentenceTransformer returns the same vectors.

pytest tests/evaluation/test_embedding.py
"""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset

import vjepa_hf.evaluation.vector_table
from tiny_models import seeded
from vjepa_hf import VJEPAForVideoClassification, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.data import load_videos
from vjepa_hf.evaluation.embedding import VectorEncoder


@pytest.fixture
def model_folder(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(vjepa_hf.evaluation.vector_table, "PART_VIDEOS", 3)
    monkeypatch.setattr(vjepa_hf.evaluation.vector_table, "GROUP_PARTS", 2)


@pytest.fixture
def videos(toy_videos):
    return load_videos(toy_videos)["video"]


def read(path) -> Dataset:
    return Dataset.from_parquet(str(path), cache_dir=str(path.parent / "cache")).with_format("numpy")


@pytest.mark.parametrize("num_clips", [1, 3])
def test_a_vector_is_the_mean_of_the_features_and_clips_have_their_times(model_folder, videos, tmp_path, num_clips):
    for rows, file in (("video", tmp_path / "video.parquet"), ("clip", tmp_path / "clip.parquet")):
        VectorEncoder(model_folder, rows=rows, num_clips=num_clips).write_table(videos, file)
    by_video, by_clip = read(tmp_path / "video.parquet"), read(tmp_path / "clip.parquet")
    assert list(by_video["video"]) == list(videos)
    clips = VJEPAVideoProcessor.from_pretrained(model_folder)(videos[5], num_clips=num_clips)["pixel_values_videos"]
    with torch.no_grad():
        expected = VJEPAModel.from_pretrained(model_folder).get_video_features(clips)[0]
    np.testing.assert_allclose(by_video[5]["vector"], expected, atol=1e-5)
    of_video = by_clip[5 * num_clips : 6 * num_clips]
    np.testing.assert_allclose(of_video["vector"].mean(axis=0), expected, atol=1e-5)
    # 16 frames at 12 fps; a clip has frames 0, 2, 4, 6 after its start.
    np.testing.assert_allclose(of_video["end"] - of_video["start"], 6 / 12)
    assert (by_video[5]["start"], by_video[5]["end"]) == pytest.approx(
        (of_video["start"].min(), of_video["end"].max())
    )


@pytest.mark.parametrize("layers", [None, [0, 1]])
def test_the_vector_of_a_probe_is_what_its_classifier_reads(tiny_config, videos, tmp_path, model_folder, layers):
    tiny_config.num_labels, tiny_config.pooler_layers = 3, layers
    classifier = seeded(VJEPAForVideoClassification, tiny_config)
    torch.nn.init.normal_(classifier.pooler.query_tokens)
    classifier.save_pretrained(tmp_path / "probe")
    VJEPAVideoProcessor.from_pretrained(model_folder).save_pretrained(tmp_path / "probe")
    vector = VectorEncoder(tmp_path / "probe", "trained_pooler")(videos[0]).vectors[0]
    clip = VJEPAVideoProcessor.from_pretrained(tmp_path / "probe")(videos[0])
    with torch.no_grad():
        expected, logits = classifier(**clip).logits[0], classifier.classifier(torch.from_numpy(vector))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="no attentive pooler"):
        VectorEncoder(model_folder, "trained_pooler")


class Interrupted(Exception):
    pass


def test_a_resumed_table_equals_an_uninterrupted_one(model_folder, videos, small_parts, tmp_path, monkeypatch):
    encoder = VectorEncoder(model_folder, num_clips=2, batch_size=4)
    encoder.write_table(videos, tmp_path / "whole.parquet")
    write, written = vjepa_hf.evaluation.vector_table.TableParts.write, []

    def write_three(parts, part, results):
        if len(written) == 3:
            raise Interrupted
        write(parts, part, results)
        written.append(part)

    with monkeypatch.context() as context:
        context.setattr(vjepa_hf.evaluation.vector_table.TableParts, "write", write_three)
        with pytest.raises(Interrupted):
            encoder.write_table(videos, tmp_path / "resumed.parquet")
    parts = sorted((tmp_path / "resumed.parquet.parts").iterdir())
    times = [part.stat().st_mtime_ns for part in parts]
    damaged = parts[1].read_bytes()
    parts[1].write_bytes(damaged[:200] + bytes(20) + damaged[220:])
    monkeypatch.setattr(
        vjepa_hf.evaluation.vector_table.TableParts, "merge", lambda *_: (_ for _ in ()).throw(Interrupted)
    )
    with pytest.raises(Interrupted):
        encoder.write_table(videos, tmp_path / "resumed.parquet")
    after = [part.stat().st_mtime_ns for part in parts]
    assert (after[0], after[2]) == (times[0], times[2]) and after[1] > times[1]
    monkeypatch.undo()
    monkeypatch.setattr(vjepa_hf.evaluation.vector_table, "PART_VIDEOS", 3)
    encoder.write_table(videos, tmp_path / "resumed.parquet")
    assert pq.read_table(tmp_path / "resumed.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
    assert not (tmp_path / "resumed.parquet.parts").exists()


@pytest.mark.slow
def test_a_killed_command_resumes_on_two_processes_to_the_table_of_one(model_folder, toy_videos, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, file in enumerate(sorted(toy_videos.rglob("*.mp4")) * 7):  # three parts
        os.link(file, folder / f"{number:03}.mp4")
    options = ["embed", folder, "--model", model_folder, "--num_clips", "2", "--batch_size", "2", "-o"]
    command = [sys.executable, "-m", "vjepa_hf.cli", *options, tmp_path / "resumed.parquet"]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while killed.poll() is None and not list(tmp_path.glob("resumed.parquet.parts/*.parquet")):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and not (tmp_path / "resumed.parquet").exists()
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    subprocess.run([*launch, *command[1:]], check=True, timeout=300)
    VectorEncoder(model_folder, num_clips=2, batch_size=2).write_table(
        load_videos(str(folder))["video"], tmp_path / "whole.parquet"
    )
    assert pq.read_table(tmp_path / "resumed.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))


def test_a_table_is_complete_or_of_other_videos_or_settings(model_folder, toy_videos, tmp_path):
    videos = sorted(str(path) for path in toy_videos.rglob("*.mp4"))[:3]
    encoder = VectorEncoder(model_folder)
    encoder.write_table(videos, tmp_path / "table.parquet")
    changed = (tmp_path / "table.parquet").stat().st_mtime_ns
    assert len(encoder.write_table(videos, tmp_path / "table.parquet")) == 3
    assert (tmp_path / "table.parquet").stat().st_mtime_ns == changed
    with pytest.raises(ValueError, match="other videos"):
        encoder.write_table(videos[:2], tmp_path / "table.parquet")
    with pytest.raises(ValueError, match="other num_clips"):
        VectorEncoder(model_folder, num_clips=2).write_table(videos, tmp_path / "table.parquet")


def test_unreadable_videos_have_no_row_and_are_named(model_folder, videos, small_parts, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    listed = [*videos[:2], str(broken), *videos[2:5], *[str(broken)] * 3]
    table = VectorEncoder(model_folder).write_table(listed, tmp_path / "table.parquet")
    assert list(read(table.path)["video"]) == videos[:5]
    assert [failure.video for failure in table.failures] == [str(broken)] * 4
    with pytest.raises(ValueError, match=r"none of 3 videos can be read.*broken.mp4"):
        VectorEncoder(model_folder).write_table([str(broken)] * 3, tmp_path / "empty.parquet")
    assert not (tmp_path / "empty.parquet").exists()


def test_a_video_that_was_written_again_is_encoded_again(model_folder, toy_videos, small_parts, tmp_path, monkeypatch):
    first, second = (path.read_bytes() for path in sorted((toy_videos / "train").glob("*.mp4"))[:2])
    (tmp_path / "a.mp4").write_bytes(first)
    encoder = VectorEncoder(model_folder)
    with monkeypatch.context() as context:
        context.setattr(vjepa_hf.evaluation.vector_table.TableParts, "merge", lambda *_: None)
        with pytest.raises(FileNotFoundError):
            encoder.write_table([str(tmp_path / "a.mp4")], tmp_path / "table.parquet")
    (tmp_path / "a.mp4").write_bytes(second)
    table = encoder.write_table([str(tmp_path / "a.mp4")], tmp_path / "table.parquet")
    np.testing.assert_allclose(read(table.path)[0]["vector"], encoder(second).vectors[0], atol=1e-6)


def test_a_vector_that_is_not_finite_is_an_error(model_folder, videos, tmp_path):
    encoder = VectorEncoder(model_folder)
    with torch.no_grad():
        next(encoder._encoder.model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"mp4 is not finite"):
        encoder.write_table(videos[:2], tmp_path / "table.parquet")


@pytest.mark.parametrize(
    ("options", "message"), [({"pool": "max"}, "pool='max'"), ({"rows": "frame"}, "rows='frame'")]
)
def test_an_unknown_option_is_an_error(model_folder, options, message):
    with pytest.raises(ValueError, match=message):
        VectorEncoder(model_folder, **options)


def test_sentence_transformers_returns_the_vector_of_the_table(model_folder, videos):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = sentence_transformers.SentenceTransformer(str(model_folder), device="cpu")
    vectors = encoder.encode(list(videos[:3]))
    expected = [VectorEncoder(model_folder)(video).vectors[0] for video in videos[:3]]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    VJEPAVideoProcessor.from_pretrained(model_folder, num_clips=8, num_crops=3).save_pretrained(model_folder)
    one_clip = {"processor_kwargs": {"num_clips": 1, "num_crops": 1}}
    encoder = sentence_transformers.SentenceTransformer(str(model_folder), device="cpu", **one_clip)
    np.testing.assert_array_equal(encoder.encode(list(videos[:3])), vectors)
