"""One normalized vector per video, with the interface of the encoders of MTEB, the embedding benchmark."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .comparison import load_set_encoder


class VideoEmbedder:
    """Encoder that MTEB's video tasks accept: `mteb.evaluate(VideoEmbedder("models/vith16"), tasks)`.

    A clip has the number of frames of the model, evenly spaced over the video, as in MTEB.

    Args:
        model_name: folder or Hub name of a model.
        revision: revision that the results of MTEB are filed under; the loaded files do not depend on it.
        device: device of the model; None takes the accelerator if there is one.
        features: "mean", "pooler" or "trained_pooler", as in `load_set_encoder`.

    Raises:
        ValueError: as `load_set_encoder`.
    """

    def __init__(
        self, model_name: str, revision: str | None = None, *, device: str | None = None, features: str = "mean"
    ) -> None:
        encoder = load_set_encoder(model_name, features)
        self.model_name, self.revision, self.clips = str(model_name), revision, encoder.clips
        self.device = torch.device(device) if device else encoder.accelerator.device
        self.width = encoder.model.config.hidden_size
        self.model: torch.nn.Module = encoder.model
        self.pooler, self.layers = encoder.pooler, encoder.layers
        for module in (self.model, self.pooler):
            module.to(self.device).eval()

    @torch.no_grad()
    def encode(self, inputs: Iterable[Any], *, batch_size: int | None = None, **kwargs: Any) -> np.ndarray:
        """Return float32 vectors `(n, D)` of length 1.

        Args:
            inputs: a `DataLoader` of MTEB, whose rows have a `video`; or a list of videos: paths, bytes, arrays,
                decoders of torchcodec.
            batch_size: clips per forward pass; None takes the batches of the loader, and 32 for a list.
            kwargs: other arguments of MTEB, such as the metadata of the task, which have no influence.

        Raises:
            ValueError: there are no videos.
            VideoDecodeError: a video cannot be read. A benchmark compares equal sets, so none is skipped.
        """
        loader: Iterable[Any] = inputs
        if isinstance(inputs, torch.utils.data.DataLoader):
            inputs.collate_fn = self._collate  # frames are selected and resized in the workers
        else:
            size, videos = batch_size or 32, list(inputs)
            loader = (self._collate(videos[start : start + size]) for start in range(0, len(videos), size))
        vectors = []
        for clips in loader:
            for pixels in clips.split(batch_size or len(clips)):
                outputs = self.model(pixels.to(self.device), output_layers=self.layers)
                tokens = torch.cat(outputs.probe_layers, dim=1)
                vectors.append(torch.nn.functional.normalize(self.pooler(tokens).float(), dim=-1).cpu())
        if not vectors:
            raise ValueError("there are no videos to encode")
        return torch.cat(vectors).numpy()

    def _collate(self, rows: Sequence[Any]) -> torch.Tensor:
        """Return the clips `(B, T, C, H, W)` of videos, or of rows with a video."""
        videos = [row["video"] if isinstance(row, Mapping) and "video" in row else row for row in rows]
        return torch.cat([self.clips(_frames(video, self.clips.processor.num_frames), 0) for video in videos])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the cosine of each vector `(n, D)` with each of `(m, D)`, `(n, m)`."""
        first, second = (_normalized(embeddings) for embeddings in (embeddings1, embeddings2))
        return first @ second.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the cosine of vectors `(n, D)` with those at the same index, `(n,)`."""
        first, second = (_normalized(embeddings) for embeddings in (embeddings1, embeddings2))
        return (first * second).sum(dim=-1)

    @property
    def mteb_model_meta(self) -> Any:
        """`ModelMeta` of MTEB."""
        from mteb.models import ModelMeta

        return ModelMeta.create_empty(
            {
                "name": f"vjepa_hf/{Path(self.model_name).name}",
                "revision": self.revision or "no_revision_available",
                "modalities": ["video"],
                "embed_dim": self.width,
                "n_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            }
        )


def _frames(video: Any, num_frames: int) -> Any:
    """Return the frames `(T, C, H, W)` of a decoder of torchcodec; other videos are returned unchanged."""
    if not hasattr(video, "get_frames_at"):
        return video
    indices = np.linspace(0, len(video) - 1, num_frames).round().astype(int)
    return video.get_frames_at(indices.tolist()).data


def _normalized(embeddings: Any) -> torch.Tensor:
    vectors = torch.atleast_2d(torch.as_tensor(np.asarray(embeddings)).float())
    return torch.nn.functional.normalize(vectors, dim=-1)
