"""Distance of our numbers to those of Meta's code, per arithmetic and attention: the table of docs/checkpoints.md.

    python benchmarks/parity_table.py --fixtures FOLDER --write

`FOLDER` holds `model_*` folders with `checkpoint.pth.tar`, `probe.pth.tar`, `config.json` and `io.safetensors`. With
`--write` the table between the two marks of docs/checkpoints.md is replaced.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

from report import table
from vjepa_hf import VJEPAForPreTraining, VJEPAForVideoClassification
from vjepa_hf.conversion.meta import convert

transformers.utils.logging.disable_progress_bar()
PAGE = Path(__file__).parent.parent / "docs" / "checkpoints.md"
MARKS = "<!-- parity table: begin -->", "<!-- parity table: end -->"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("sdpa", "eager", "flex_attention")


@torch.no_grad()
def compare(folder: Path, recorded: dict[str, torch.Tensor], dtype: torch.dtype, attention: str) -> dict[str, tuple]:
    """Family -> (largest, mean) difference in units of the tensor's largest value."""
    options = {"dtype": dtype, "attn_implementation": attention}
    model = VJEPAForPreTraining.from_pretrained(folder, **options).eval()
    classifier = VJEPAForVideoClassification.from_pretrained(folder, **options).eval()
    clips = recorded["clip"].transpose(1, 2)
    count = sum(name.startswith("masks_enc.") for name in recorded)
    context_masks, target_masks = ([recorded[f"masks_{kind}.{i}"] for i in range(count)] for kind in ("enc", "pred"))

    tubelets, grid = model.vjepa.tokenize(clips)
    encoder = model.context_encoder(tubelets, grid, output_hidden_states=True)
    outputs = model(clips, context_masks, target_masks)
    pairs = {
        "position tables": [
            (model.context_encoder.embeddings.position_embeddings, recorded["pos_embed.encoder"][0]),
            (model.vjepa.predictor.position_embeddings, recorded["pos_embed.predictor"][0]),
        ],
        "hidden states": [(x, recorded[f"encoder.hidden.{i}"]) for i, x in enumerate(encoder.hidden_states[1:])],
        "encoder, whole clip": [(encoder.last_hidden_state, recorded["encoder.out"])],
        "encoder, context only": [
            (x, recorded[f"encoder.out_masked.{i}"]) for i, x in enumerate(outputs.context_hidden_states)
        ],
        "target encoder": [(model.vjepa.encoder(tubelets, grid).last_hidden_state, recorded["target.out"])],
        "normed targets": [(x, recorded[f"target.h.{i}"]) for i, x in enumerate(outputs.targets)],
        "predictions": [(x, recorded[f"predictor.out.{i}"]) for i, x in enumerate(outputs.predictions)],
        "loss": [(outputs.loss[None], recorded["loss"].reshape(1))],
        "probe logits": [(classifier(clips).logits, recorded["probe.logits"])],
    }
    result = {}
    for family, tensors in pairs.items():
        differences = [(ours.float() - theirs).abs() / theirs.abs().max() for ours, theirs in tensors]
        result[family] = max(d.max().item() for d in differences), max(d.mean().item() for d in differences)
    return result


def make_table(fixtures: Path) -> list[str]:
    """Markdown lines: a row per family, a column per arithmetic and attention; the worst over all models."""
    columns = [(dtype, attention) for dtype in DTYPES for attention in ATTENTION]
    cells: dict[str, dict[tuple, list]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = sorted(fixtures.glob("model_*"))
        for source in folders:
            heads = json.loads((source / "config.json").read_text())["model"]["num_heads"]
            folder = Path(scratch) / source.name
            convert(source / "checkpoint.pth.tar", folder, source / "probe.pth.tar", num_attention_heads=heads)
            recorded = load_file(source / "io.safetensors")
            for dtype, attention in columns:
                for family, found in compare(folder, recorded, DTYPES[dtype], attention).items():
                    cells.setdefault(family, {}).setdefault((dtype, attention), []).append(found)
    lines = [
        f"Worst over {len(folders)} recorded models; torch {torch.__version__} on {platform.machine()} CPU. "
        "Each cell: largest / mean difference in units of the tensor's largest value.",
        "",
    ]
    rows = []
    for family, found in cells.items():
        values = [(max(f[0] for f in found[c]), max(f[1] for f in found[c])) for c in columns]
        rows.append([family, *(f"{most:.0e} / {mean:.0e}" for most, mean in values)])
    return lines + table(["", *(f"{dtype} {attention}" for dtype, attention in columns)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixtures", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="replace the table in docs/checkpoints.md")
    args = parser.parse_args()
    if not any(args.fixtures.glob("model_*")):
        parser.error(f"--fixtures {args.fixtures} holds no model_* folders")
    lines = "\n".join(make_table(args.fixtures))
    print(lines)
    if args.write:
        before, rest = PAGE.read_text().split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        PAGE.write_text(f"{before}{MARKS[0]}\n\n{lines}\n\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
