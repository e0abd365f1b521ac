"""What a sweep of probes costs: heads trained side by side or one after the other, and the attention of one head.

    python benchmarks/probe_cost.py --output benchmarks/results/probe_cost.md

First table: an epoch of a sweep over toy videos (made if missing), its heads trained in one pass or in a pass each,
with features kept on disk or made from the videos. Second table: forward and backward of the cross-attention of the
pooler over the tokens of clips, as the model does it and with a key and a value projected from every token. Both sides
take turns; medians of the processor time of this process, which other processes disturb less than the time on the
wall.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from report import opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.data.clips import load_videos
from vjepa_hf.evaluation.features import LiveFeatures, extract_features
from vjepa_hf.evaluation.labels import encode_labels
from vjepa_hf.evaluation.probes import HeadSettings, train_heads
from vjepa_hf.model.modeling_vjepa import VJEPACrossAttention

EXAMPLES = Path(__file__).parent.parent / "examples"
TOY = {"image_size": 32, "num_frames": 8, "patch_size": 8, "hidden_size": 128, "num_hidden_layers": 4}
SIZES = {"toy": (128, 4, 64, 32), "ViT-L/16": (1024, 16, 1568, 2), "ViT-H/16": (1280, 16, 1568, 2)}


def medians(repeats: int, *sides: Callable[[], object]) -> list[float]:
    """Median processor seconds of each side, the sides taking turns."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, found in zip(sides, seconds, strict=True):
            start = time.process_time()
            side()
            found.append(time.process_time() - start)
    return [statistics.median(found) for found in seconds]


def per_token(attention: VJEPACrossAttention, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The alternative: a key and a value for every token."""
    heads = attention.num_attention_heads
    query = attention.q(queries).unflatten(-1, (heads, -1)).transpose(1, 2)
    key, value = attention.kv(tokens).unflatten(-1, (2, heads, -1)).transpose(1, 3).unbind(2)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def attention_row(name: str, width: int, heads: int, num_tokens: int, batch: int, repeats: int) -> tuple:
    """Milliseconds of both ways for one size of model, and their ratio."""
    config = VJEPAConfig(hidden_size=width, num_attention_heads=heads, num_hidden_layers=1)
    attention = VJEPACrossAttention(config)
    queries, tokens = torch.randn(batch, 1, width), torch.randn(batch, num_tokens, width)
    torch.testing.assert_close(attention(queries, tokens), per_token(attention, queries, tokens))
    ours, theirs = medians(
        repeats,
        lambda: attention(queries, tokens).square().sum().backward(),
        lambda: per_token(attention, queries, tokens).square().sum().backward(),
    )
    return name, f"{batch} x {num_tokens}", f"{1e3 * theirs:.1f}", f"{1e3 * ours:.1f}", f"{theirs / ours:.1f}"


def sweep_rows(videos: Path, num_videos: int, num_heads: int, repeats: int) -> list[tuple]:
    """Seconds of an epoch of a sweep, in one pass and in a pass for each head."""
    rows = load_videos(videos).select(range(num_videos))
    labels, names = encode_labels(rows["motion"])
    classifier = VJEPAForVideoClassification(VJEPAConfig(**TOY, num_attention_heads=4, num_labels=len(names)))
    processor = VJEPAVideoProcessor(crop_size=32, num_frames=8, frame_step=1, patch_size=8)
    inputs = Accelerator(cpu=True), classifier.vjepa, processor, rows["video"]
    settings = [HeadSettings(1e-3 / (1 + number)) for number in range(num_heads)]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        sources = {"kept": extract_features(*inputs, folder), "from the videos": LiveFeatures(*inputs)}
        for name, features in sources.items():

            def train(some: list[HeadSettings], features: object = features) -> None:
                order = np.random.default_rng(0)
                train_heads(classifier, some, features, labels, np.arange(num_videos), order, epochs=1)

            together, apart = medians(
                repeats, lambda: train(settings), lambda: [train([setting]) for setting in settings]
            )
            found.append((name, num_heads, f"{apart:.2f}", f"{together:.2f}", f"{apart / together:.1f}"))
    return found


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=Path("output/toy_videos"), help="toy set, made if missing")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--num-videos", type=int, default=96, help="of an epoch")
    parser.add_argument("--heads", type=int, default=6, help="of a sweep")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement")
    options = parser.parse_args()
    if not (options.videos / "train.csv").exists():
        subprocess.run([sys.executable, EXAMPLES / "make_toy_videos.py", options.videos], check=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sweeps = sweep_rows(options.videos / "train.csv", options.num_videos, options.heads, options.repeats)
    attention = [attention_row(name, *size, options.repeats) for name, size in SIZES.items()]
    lines = opening("What a sweep of probes costs", __file__, __doc__)
    lines += table(("features", "heads", "a pass each, s", "one pass, s", "ratio"), sweeps)
    header = ("model", "clips x tokens", "key and value per token, ms", "as in the model, ms", "ratio")
    publish([*lines, "", *table(header, attention)], options.output)


if __name__ == "__main__":
    main()
