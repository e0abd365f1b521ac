"""The nearest videos of a table are those of a search over all rows in memory, each once, with their times.

pytest tests/evaluation/test_search.py
"""

import numpy as np
import pytest

import vjepa_hf.evaluation.vector_table
from vector_tables import write_table
from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.evaluation.embedding import VectorEncoder
from vjepa_hf.evaluation.search import load_table_encoder, nearest_videos
from vjepa_hf.evaluation.vector_table import TimedVectors, VectorTable
from vjepa_hf.model.modeling_vjepa import VJEPAModel


def test_the_search_in_batches_is_the_search_over_all_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(vjepa_hf.evaluation.vector_table, "PART_VIDEOS", 10)
    generator = np.random.default_rng(0)
    vectors = (generator.normal(size=(300, 8)) * np.logspace(-2, 3, 8) + 10).astype(np.float32)
    table = write_table(tmp_path / "table.parquet", vectors, clips=3)
    monkeypatch.setattr(VectorTable.batches, "__defaults__", (7,))  # a batch ends within a video
    query = TimedVectors(vectors[[40, 200]] * 1.01, np.array([[0, 1], [2, 3.0]]))
    matches = nearest_videos(table, query, num_matches=6)
    scaled = [
        (rows - vectors.mean(axis=0, dtype=float)) / vectors.std(axis=0, dtype=float)
        for rows in (query.vectors, vectors)
    ]
    queries, rows = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in scaled)
    cosines = (queries @ rows.T).reshape(2, 100, 3)  # (query, video, clip)
    order = np.argsort(-cosines.max(axis=(0, 2)))[:6]
    assert [match.video for match in matches] == [f"{number}.mp4" for number in order]
    for match, number in zip(matches, order, strict=True):
        which, clip = np.unravel_index(cosines[:, number].argmax(), (2, 3))
        assert match.times == (clip, clip + 0.5) and match.query_times == (2 * which, 2 * which + 1)
        assert match.similarity == pytest.approx(cosines[which, number, clip], abs=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_a_video_is_found_in_a_table_of_few_videos_with_a_constant_feature(tmp_path, count):
    vectors = np.array([[1, 0, 5], [0, 1, 5]], dtype=np.float32)[:count]
    table = write_table(tmp_path / "table.parquet", vectors, clips=1)
    match = nearest_videos(table, TimedVectors(vectors[:1], np.zeros((1, 2))))[0]
    assert match.video == "0.mp4" and match.similarity == pytest.approx(1)


def test_the_query_has_the_encoder_of_the_table(tiny_model, toy_videos, tmp_path):
    videos = sorted(str(path) for path in toy_videos.rglob("*.mp4"))[:4]
    tiny_model.save_pretrained(tmp_path / "model")
    processor = VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2)
    processor.save_pretrained(tmp_path / "model")
    table = VectorEncoder(tmp_path / "model", rows="clip", num_clips=2).write_table(videos, tmp_path / "table.parquet")
    encoder = load_table_encoder(table)
    assert encoder.options == {"model": str(tmp_path / "model"), "pool": "mean", "rows": "clip", "num_clips": 2}
    best = nearest_videos(table, encoder(videos[2]))[0]
    assert best.video == videos[2] and best.similarity == pytest.approx(1, abs=1e-5) and best.times == best.query_times
    (tmp_path / "model").rename(tmp_path / "moved")
    assert load_table_encoder(table, tmp_path / "moved").settings == encoder.settings
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1).save_pretrained(tmp_path / "moved")
    with pytest.raises(ValueError, match="another processor"):
        load_table_encoder(table, tmp_path / "moved")
    VJEPAModel(tiny_model.config).save_pretrained(tmp_path / "moved")
    with pytest.raises(ValueError, match="another encoder"):
        load_table_encoder(table, tmp_path / "moved")
