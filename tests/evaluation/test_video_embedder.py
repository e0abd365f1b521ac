"""Vectors of videos have length 1, and MTEB's video tasks accept their encoder.

pytest tests/evaluation/test_video_embedder.py
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from tiny_models import seeded
from video_files import read_all
from vjepa_hf import VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.evaluation.video_embedder import VideoEmbedder
from vjepa_hf.model.video_io import VideoDecodeError


class Decoder:
    """The part of torchcodec's `VideoDecoder` that MTEB uses."""

    def __init__(self, path: str) -> None:
        self.frames = torch.from_numpy(read_all(path)).permute(0, 3, 1, 2)
        self.requested: list[int] = []

    def __len__(self) -> int:
        return len(self.frames)

    def get_frames_at(self, indices: list[int]) -> SimpleNamespace:
        self.requested = indices
        return SimpleNamespace(data=self.frames[indices])


@pytest.fixture
def probe_folder(tiny_classifier, tmp_path):
    with torch.no_grad():
        tiny_classifier.pooler.query_tokens += 1
    tiny_classifier.save_pretrained(tmp_path / "probe")
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2).save_pretrained(tmp_path / "probe")
    return tmp_path / "probe"


@pytest.mark.parametrize("features", ["mean", "pooler"])
def test_a_vector_is_the_normalized_feature_of_frames_over_the_video(probe_folder, videos, features):
    vectors = VideoEmbedder(probe_folder, features=features, device="cpu").encode(videos)
    assert vectors.shape == (4, 48) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    classifier = VJEPAForVideoClassification.from_pretrained(probe_folder)
    clip = VJEPAVideoProcessor.from_pretrained(probe_folder)(read_all(videos[2])[[0, 5, 10, 15]])
    with torch.no_grad():
        tokens = classifier.vjepa(**clip).last_hidden_state
        expected = (classifier.pooler(tokens) if features == "pooler" else tokens.mean(dim=1))[0]
    np.testing.assert_allclose(vectors[2], (expected / expected.norm()).numpy(), atol=1e-5)


def test_a_pooler_of_several_layers_reads_them(tiny_config, probe_folder, videos):
    tiny_config.num_labels, tiny_config.pooler_layers = 3, [0, 1]
    classifier = seeded(VJEPAForVideoClassification, tiny_config)
    torch.nn.init.normal_(classifier.pooler.query_tokens)
    classifier.save_pretrained(probe_folder)
    (vector,) = VideoEmbedder(probe_folder, features="pooler", device="cpu").encode(videos[2:3])
    clip = VJEPAVideoProcessor.from_pretrained(probe_folder)(read_all(videos[2])[[0, 5, 10, 15]])
    with torch.no_grad():
        outputs = classifier.vjepa(**clip, output_layers=[0, 1])
        expected = classifier.pooler(torch.cat(outputs.layer_hidden_states, dim=1))[0]
    np.testing.assert_allclose(vector, (expected / expected.norm()).numpy(), atol=1e-5)


def test_vectors_do_not_depend_on_what_holds_a_video_or_on_batches(probe_folder, videos):
    embedder = VideoEmbedder(probe_folder)
    expected = embedder.encode(videos)
    decoders = [Decoder(path) for path in videos]
    rows = [{"video": decoder, "label": 0} for decoder in decoders]
    arrays = [read_all(path) for path in videos]
    loader = torch.utils.data.DataLoader(rows, batch_size=3)
    for inputs, batch_size in ((arrays, 1), (rows, 3), (loader, None), (loader, 2)):
        np.testing.assert_allclose(embedder.encode(inputs, batch_size=batch_size), expected, atol=1e-5)
    assert decoders[0].requested == [0, 5, 10, 15]  # frames of the model, and no others


def test_no_videos_and_unreadable_ones_are_errors(probe_folder, videos, tmp_path):
    embedder = VideoEmbedder(probe_folder)
    with pytest.raises(ValueError, match="no videos to encode"):
        embedder.encode([])
    with pytest.raises(VideoDecodeError, match="missing.mp4"):
        embedder.encode([*videos, str(tmp_path / "missing.mp4")])


def test_similarities_are_cosines(probe_folder):
    embedder = VideoEmbedder(probe_folder)
    first, second = np.array([[3.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 2.0], [5.0, 5.0]])
    np.testing.assert_allclose(embedder.similarity(first, second), [[0, 0.5**0.5], [0.5**0.5, 1]], atol=1e-6)
    np.testing.assert_allclose(embedder.similarity_pairwise(first, torch.tensor(second)), [0, 1], atol=1e-6)


def test_mteb_evaluates_a_video_task_that_is_made_here(probe_folder, videos):
    mteb = pytest.importorskip("mteb", reason="mteb is not installed")
    protocols = pytest.importorskip("mteb.models.models_protocols")

    class TwoVideos(mteb.abstasks.AbsTaskClassification):
        metadata = mteb.TaskMetadata(
            name="TwoVideos",
            description="Which of two videos is it?",
            dataset={"path": "none/none", "revision": "none"},
            type="VideoClassification",
            category="v2c",
            modalities=["video"],
            eval_langs=["eng-Latn"],
            main_score="accuracy",
        )
        input_column_name = "video"
        samples_per_label = 2
        n_experiments = 2

        def load_data(self, **kwargs) -> None:
            rows = {"video": [videos[0], videos[1]] * 3, "label": [0, 1] * 3}
            self.dataset = DatasetDict({"train": Dataset.from_dict(rows), "test": Dataset.from_dict(rows)})
            self.data_loaded = True

    embedder = VideoEmbedder(probe_folder, device="cpu")
    assert isinstance(embedder, protocols.EncoderProtocol) and embedder.mteb_model_meta.embed_dim == 48
    assert embedder.mteb_model_meta.name == "vjepa_hf/probe"
    scores = TwoVideos().evaluate(embedder, "test", encode_kwargs={"batch_size": 4})
    assert scores["default"]["accuracy"] == 1.0
