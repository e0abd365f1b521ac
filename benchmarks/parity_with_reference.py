"""Run Meta's V-JEPA code and ours on the same random checkpoints and print how far apart they are.

    git clone https://github.com/facebookresearch/jepa PATH_TO_JEPA
    python benchmarks/parity_with_reference.py --reference PATH_TO_JEPA

Only the models of that repository are imported (`src.models`), so PyTorch is all it needs. Their weights are drawn at
random, written to a file as their training program does, converted by `vjepa_hf.conversion` and loaded again. The same
clip and masks go through both, in float32 on CPU. Differences are in units of the tensor's largest value; a family's
row shows its worst tensor.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from report import commit_of, opening, publish, table
from vjepa_hf import VJEPAForPreTraining, VJEPAForVideoClassification
from vjepa_hf.conversion.meta import convert, to_meta
from vjepa_hf.data.masking import MaskSampler, MultiBlockMask

transformers.utils.logging.disable_progress_bar()
BOUND = 2e-5


@dataclass(frozen=True)
class Size:
    """A model size of the reference and the clips it is built for."""

    model: str
    num_frames: int
    image_size: int
    patch_size: int
    pred_depth: int
    uniform_power: bool
    batch_size: int

    def __str__(self) -> str:
        split = "uniform_power" if self.uniform_power else "time first"
        return f"{self.model}, {self.num_frames} x {self.image_size}², patch {self.patch_size}, {split}"


SIZES = (
    Size("vit_tiny", 8, 64, 16, 4, True, 2),
    Size("vit_tiny", 4, 64, 8, 2, False, 2),
    Size("vit_small", 16, 96, 16, 6, True, 2),
    Size("vit_base", 16, 112, 16, 12, True, 1),
    Size("vit_large", 16, 224, 16, 12, True, 1),
)


def build_reference(size: Size, num_classes: int = 11) -> dict[str, torch.nn.Module]:
    """Their models as their programs build them, every parameter but the position tables drawn at random."""
    import src.models.predictor as predictors
    import src.models.vision_transformer as encoders
    from src.models.attentive_pooler import AttentiveClassifier
    from src.models.utils.multimask import MultiMaskWrapper, PredictorMultiMaskWrapper

    shared = {
        "img_size": size.image_size,
        "patch_size": size.patch_size,
        "num_frames": size.num_frames,
        "tubelet_size": 2,
        "uniform_power": size.uniform_power,
    }
    encoder, target_encoder = (MultiMaskWrapper(getattr(encoders, size.model)(**shared)) for _ in range(2))
    width, heads = encoder.backbone.embed_dim, encoder.backbone.num_heads
    predictor = predictors.vit_predictor(
        embed_dim=width,
        predictor_embed_dim=384,
        depth=size.pred_depth,
        num_heads=heads,
        use_mask_tokens=True,
        **shared,
    )
    modules = {
        "encoder": encoder,
        "predictor": PredictorMultiMaskWrapper(predictor),
        "target_encoder": target_encoder,
        "classifier": AttentiveClassifier(embed_dim=width, num_heads=heads, num_classes=num_classes),
    }
    generator = torch.Generator().manual_seed(0)
    for module in modules.values():
        for name, parameter in module.eval().named_parameters():
            if not name.endswith("pos_embed"):
                scale = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
                offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.data = offset + scale * torch.randn(parameter.shape, generator=generator)
    return modules


def convert_reference(modules: dict[str, torch.nn.Module], folder: Path) -> Path:
    """Their modules through files in their layout to a folder of ours."""
    # The prefix that a distributed run leaves in the names.
    states = {part: {f"module.{k}": v for k, v in module.state_dict().items()} for part, module in modules.items()}
    probe = {"classifier": states.pop("classifier")}
    torch.save(states | {"opt": None, "epoch": 0}, folder / "checkpoint.pth.tar")
    torch.save(probe, folder / "probe.pth.tar")
    convert(folder / "checkpoint.pth.tar", folder / "model", folder / "probe.pth.tar")
    return folder / "model"


def draw_masks(size: Size, grid: tuple[int, int, int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Context and target indices of the two published mask kinds."""
    kinds = [
        MultiBlockMask(num_blocks=8, spatial_scale=(0.15, 0.15)),
        MultiBlockMask(num_blocks=2, spatial_scale=(0.7, 0.7)),
    ]
    return MaskSampler(kinds, grid, seed=0)([(0, index) for index in range(size.batch_size)])


def run_reference(modules, clip, context_masks, target_masks) -> dict[str, torch.Tensor]:
    """All that is compared, from their modules."""
    with torch.no_grad():
        features = modules["target_encoder"](clip)
        logits = modules["classifier"](features)
        normed = torch.nn.functional.layer_norm(features, features.shape[-1:])
        index = [mask.unsqueeze(-1).expand(-1, -1, features.shape[-1]) for mask in target_masks]
        targets = [normed.gather(1, i) for i in index]
    context = modules["encoder"](clip, context_masks)
    predictions = modules["predictor"](context, targets, context_masks, target_masks)
    loss = torch.stack([(p - t).abs().mean() for p, t in zip(predictions, targets, strict=True)]).mean()
    loss.backward()
    results = {"target features": features, "probe logits": logits, "loss": loss.detach()[None]}
    results |= {f"context features {i}": value.detach() for i, value in enumerate(context)}
    results |= {f"predictions {i}": value.detach() for i, value in enumerate(predictions)}
    results |= {f"targets {i}": value for i, value in enumerate(targets)}
    for part in ("encoder", "predictor"):
        named = modules[part].named_parameters()
        results |= gradients(part, {k.removeprefix("backbone."): p.grad for k, p in named if p.grad is not None})
    return results


def run_ours(folder: Path, clip, context_masks, target_masks) -> dict[str, torch.Tensor]:
    """The same from our models."""
    clips = clip.transpose(1, 2)
    with torch.no_grad():
        classifier = VJEPAForVideoClassification.from_pretrained(folder).eval()
        features, logits = classifier.vjepa(clips).last_hidden_state, classifier(clips).logits
    model = VJEPAForPreTraining.from_pretrained(folder).eval()
    outputs = model(clips, context_masks, target_masks)
    outputs.loss.backward()
    results = {"target features": features, "probe logits": logits, "loss": outputs.loss.detach()[None]}
    results |= {f"context features {i}": value.detach() for i, value in enumerate(outputs.context_hidden_states)}
    results |= {f"predictions {i}": value.detach() for i, value in enumerate(outputs.predictions)}
    results |= {f"targets {i}": value for i, value in enumerate(outputs.targets)}
    parts = to_meta({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    return results | gradients("encoder", parts["encoder"]) | gradients("predictor", parts["predictor"])


def gradients(part: str, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # The bias of the keys has no gradient but rounding.
    return {f"gradient {part}.{name}": value for name, value in values.items() if not name.endswith("qkv.bias")}


def compare(size: Size) -> list[tuple[str, float, float]]:
    """Largest and mean difference of each family, in units of the tensor's largest value."""
    modules = build_reference(size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = convert_reference(modules, Path(scratch))
        shape = (size.batch_size, 3, size.num_frames, size.image_size, size.image_size)
        clip = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        side = size.image_size // size.patch_size
        batch = clip, *draw_masks(size, (size.num_frames // 2, side, side))
        theirs, ours = run_reference(modules, *batch), run_ours(folder, *batch)
    assert theirs.keys() == ours.keys(), theirs.keys() ^ ours.keys()
    families: dict[str, list[tuple[float, float]]] = {}
    for name, expected in theirs.items():
        difference = (ours[name] - expected).abs() / expected.abs().max()
        family = "gradients" if name.startswith("gradient") else name.rstrip(" 0123456789")
        families.setdefault(family, []).append((difference.max().item(), difference.mean().item()))
    return [(name, max(d[0] for d in all_), max(d[1] for d in all_)) for name, all_ in families.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="checkout of facebookresearch/jepa")
    parser.add_argument("--models", nargs="+", help="only these, such as vit_tiny; default all up to vit_large")
    parser.add_argument("--output", type=Path, help="Markdown file to write as well")
    args = parser.parse_args()
    if not (args.reference / "src" / "models" / "vision_transformer.py").exists():
        parser.error(f"--reference {args.reference} is no checkout of facebookresearch/jepa")
    sys.path.insert(0, str(args.reference))

    reference = f"reference {commit_of(args.reference)}"
    lines = opening("Parity with Meta's code, run side by side", __file__, __doc__, reference)
    lines += table(["model", "family", "max", "mean"], [])
    worst = 0.0
    for size in SIZES:
        if args.models and size.model not in args.models:
            continue
        started = time.perf_counter()
        for family, largest, mean in compare(size):
            worst = max(worst, largest)
            lines.append(f"| {size} | {family} | {largest:.1e} | {mean:.1e} |")
        print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
        publish(lines, args.output)  # after every size: the large ones take long
    print(f"\nWorst: {worst:.1e}, {'within' if worst <= BOUND else 'BEYOND'} the bound.")
    sys.exit(worst > BOUND)


if __name__ == "__main__":
    main()
