"""Numbers compared with Meta's: their code running next to ours, recorded numbers, checkpoints of the published sizes.

    git clone https://github.com/facebookresearch/jepa PATH_TO_JEPA
    python benchmarks/parity.py live --reference PATH_TO_JEPA --output benchmarks/results/parity_live.md
    git clone https://github.com/facebookresearch/vjepa2 PATH_TO_VJEPA2
    python benchmarks/parity.py objective --reference PATH_TO_VJEPA2 --output benchmarks/results/parity_objective.md
    python benchmarks/parity.py recorded --fixtures FOLDER --write   # the table of docs/checkpoints.md
    python benchmarks/parity.py full_size --output benchmarks/results/parity_full_size.md

A page is printed, and written where `--output` says; `--help` lists the options.
"""

import ast
import inspect
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import transformers
import typer
from safetensors.torch import load_file

from report import HERE, Output, commit_of, make_app, opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from vjepa_hf.conversion.meta import convert, to_meta
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler, MultiBlockMask

transformers.utils.logging.disable_progress_bar()
app = make_app()

Tensors = dict[str, torch.Tensor]


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[float, float]:
    """Return the largest and the mean difference, in units of the largest value of `theirs`."""
    difference = (ours.float() - theirs).abs() / theirs.abs().max()
    return difference.max().item(), difference.mean().item()


def worst(distances: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the largest of both over several tensors."""
    return tuple(map(max, zip(*distances, strict=True)))


# --- live ----------------------------------------------------------------------------------------------------------

BOUND = 2e-5


@dataclass(frozen=True)
class Size:
    """A model of Meta's code and the clips it is built for."""

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

    @property
    def grid(self) -> tuple[int, int, int]:
        side = self.image_size // self.patch_size
        return self.num_frames // 2, side, side


SIZES = (
    Size("vit_tiny", 8, 64, 16, 4, True, 2),
    Size("vit_tiny", 4, 64, 8, 2, False, 2),
    Size("vit_small", 16, 96, 16, 6, True, 2),
    Size("vit_base", 16, 112, 16, 12, True, 1),
    Size("vit_large", 16, 224, 16, 12, True, 1),
)


def build_reference(size: Size, num_classes: int = 11) -> dict[str, torch.nn.Module]:
    """Build Meta's modules as their programs do, with random values in every parameter but the position tables."""
    import src.models.predictor as predictors
    import src.models.vision_transformer as encoders
    from src.models.attentive_pooler import AttentiveClassifier
    from src.models.utils.multimask import MultiMaskWrapper, PredictorMultiMaskWrapper

    shared = {"img_size": size.image_size, "patch_size": size.patch_size, "num_frames": size.num_frames}
    shared |= {"tubelet_size": 2, "uniform_power": size.uniform_power}
    encoder, target_encoder = (MultiMaskWrapper(getattr(encoders, size.model)(**shared)) for _ in range(2))
    width, heads = encoder.backbone.embed_dim, encoder.backbone.num_heads
    predictor = {"embed_dim": width, "predictor_embed_dim": 384, "depth": size.pred_depth, "num_heads": heads}
    predictor = predictors.vit_predictor(use_mask_tokens=True, **predictor, **shared)
    modules = {"encoder": encoder, "predictor": PredictorMultiMaskWrapper(predictor), "target_encoder": target_encoder}
    modules["classifier"] = AttentiveClassifier(embed_dim=width, num_heads=heads, num_classes=num_classes)
    return draw_weights(modules)


def draw_weights(modules: dict[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """Draw every parameter but the position tables at random, and return the modules."""
    generator = torch.Generator().manual_seed(0)
    for module in modules.values():
        for name, parameter in module.eval().named_parameters():
            if not name.endswith("pos_embed"):
                scale = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
                offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.data = offset + scale * torch.randn(parameter.shape, generator=generator)
    return modules


def convert_reference(modules: dict[str, torch.nn.Module], folder: Path) -> Path:
    """Save Meta's modules in the layout of their files, with the prefix of a distributed run, and convert them."""
    states = {part: {f"module.{k}": v for k, v in module.state_dict().items()} for part, module in modules.items()}
    probe = {"classifier": states.pop("classifier")}
    torch.save(states | {"opt": None, "epoch": 0}, folder / "checkpoint.pth.tar")
    torch.save(probe, folder / "probe.pth.tar")
    convert(folder / "checkpoint.pth.tar", folder / "model", folder / "probe.pth.tar")
    return folder / "model"


def numbered(name: str, values: Iterable[torch.Tensor]) -> Tensors:
    """Name the tensors of the mask types."""
    return {f"{name} {index}": value.detach() for index, value in enumerate(values)}


def gradients(part: str, values: Tensors) -> Tensors:
    """Name gradients. The bias of the keys is excluded: its gradient is only rounding."""
    return {f"gradients {part}.{name}": value for name, value in values.items() if not name.endswith("qkv.bias")}


def squared_error(predictions: Iterable[torch.Tensor], targets: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return what is derived: the gradient of the absolute error jumps where a prediction meets its target."""
    return torch.stack([(p - t).square().mean() for p, t in zip(predictions, targets, strict=True)]).mean()


def run_reference(modules: dict[str, torch.nn.Module], clip: torch.Tensor, masks: tuple[list, list]) -> Tensors:
    """Return all that is compared, from Meta's modules."""
    context_masks, target_masks = masks
    with torch.no_grad():
        features = modules["target_encoder"](clip)
        logits = modules["classifier"](features)
        normed = torch.nn.functional.layer_norm(features, features.shape[-1:])
        targets = [normed.gather(1, mask[..., None].expand(-1, -1, normed.shape[-1])) for mask in target_masks]
    context = modules["encoder"](clip, context_masks)
    predictions = modules["predictor"](context, targets, context_masks, target_masks)
    loss = torch.stack([(p - t).abs().mean() for p, t in zip(predictions, targets, strict=True)]).mean()
    squared_error(predictions, targets).backward()
    results = {"target features": features, "probe logits": logits, "loss": loss.detach()[None]}
    results |= numbered("context features", context) | numbered("predictions", predictions)
    results |= numbered("targets", targets)
    for part in ("encoder", "predictor"):
        named = modules[part].named_parameters()
        results |= gradients(part, {k.removeprefix("backbone."): p.grad for k, p in named if p.grad is not None})
    return results


def run_ours(folder: Path, clip: torch.Tensor, masks: tuple[list, list]) -> Tensors:
    """Return the same from our models."""
    clips = clip.transpose(1, 2)
    with torch.no_grad():
        classifier = VJEPAForVideoClassification.from_pretrained(folder).eval()
        features, logits = classifier.vjepa(clips).last_hidden_state, classifier(clips).logits
    model = VJEPAForPreTraining.from_pretrained(folder).eval()
    outputs = model(clips, *masks)
    squared_error(outputs.predictions, outputs.targets).backward()
    results = {"target features": features, "probe logits": logits, "loss": outputs.loss.detach()[None]}
    results |= numbered("context features", outputs.context_hidden_states)
    results |= numbered("predictions", outputs.predictions) | numbered("targets", outputs.targets)
    parts = to_meta({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    return results | gradients("encoder", parts["encoder"]) | gradients("predictor", parts["predictor"])


def compare(size: Size) -> dict[str, tuple[float, float]]:
    """Return family -> (largest, mean) difference of its worst tensor."""
    modules = build_reference(size)
    shape = (size.batch_size, 3, size.num_frames, size.image_size, size.image_size)
    clip = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    masks = MaskSampler([SHORT_RANGE, LONG_RANGE], size.grid, seed=0)([(0, row) for row in range(size.batch_size)])
    with tempfile.TemporaryDirectory() as scratch:
        folder = convert_reference(modules, Path(scratch))
        theirs, ours = run_reference(modules, clip, masks), run_ours(folder, clip, masks)
    if theirs.keys() != ours.keys():
        raise RuntimeError(f"these tensors have no counterpart: {sorted(theirs.keys() ^ ours.keys())}")
    return by_family(theirs, ours)


def by_family(theirs: Tensors, ours: Tensors) -> dict[str, tuple[float, float]]:
    """Return family -> (largest, mean) difference of its worst tensor."""
    families: dict[str, list[tuple[float, float]]] = {}
    for name, expected in theirs.items():
        family = "gradients" if name.startswith("gradients") else name.rstrip(" 0123456789")
        families.setdefault(family, []).append(distance(ours[name], expected))
    return {family: worst(distances) for family, distances in families.items()}


@app.command()
def live(
    reference: Annotated[Path, typer.Option(help="checkout of facebookresearch/jepa")],
    models: Annotated[list[str], typer.Option(help="repeat")] = ("vit_tiny", "vit_small", "vit_base", "vit_large"),
    output: Output = None,
) -> None:
    """Run Meta's V-JEPA code and ours on the same random checkpoints.

    Only the models of their repository are imported (`src.models`), so PyTorch is all it needs. Their weights are
    drawn at random, written to a file as their training program does, converted by `vjepa_hf.conversion` and loaded
    again. The same clip and masks go through both, in float32 on CPU. Differences are in units of the tensor's largest
    value, at most 2e-05; the row of a family shows its worst tensor. Gradients are those of the mean squared error,
    because that of the absolute error jumps where a prediction meets its target.
    """
    if not (reference / "src" / "models" / "vision_transformer.py").exists():
        raise typer.BadParameter(f"--reference {reference} is not a checkout of facebookresearch/jepa")
    sys.path.insert(0, str(reference))
    title, commit = "Parity with Meta's code, run next to ours", f"reference {commit_of(reference)}"
    lines = opening(title, "parity.py live", live.__doc__, commit) + table(["model", "family", "max", "mean"], [])
    largest = 0.0
    for size in (size for size in SIZES if size.model in models):
        for family, (most, mean) in compare(size).items():
            lines.append(f"| {size} | {family} | {most:.1e} | {mean:.1e} |")
            largest = max(largest, most)
        publish(lines, output)  # after every size: the large ones take long
    if largest > BOUND:
        raise SystemExit(f"the largest difference, {largest:.1e}, is beyond the bound {BOUND:.0e}")


# --- the objective of V-JEPA 2.1 -------------------------------------------------------------------------------------

CONTEXT_WEIGHT = 0.5
IMAGES = MultiBlockMask(num_blocks=10, spatial_scale=(0.15, 0.15))


def inner_functions(source: str, names: Iterable[str], scope: dict[str, Any]) -> list[Any]:
    """Compile functions that are defined inside others, from their source, with `scope` for their free variables."""
    found = {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    for name in names:
        exec(compile(ast.Module([found[name]], []), name, "exec"), scope)
    return [scope[name] for name in names]


def build_reference_2_1(model: str, num_frames: int, image_size: int) -> dict[str, torch.nn.Module]:
    """Build Meta's modules as their training program does, with random weights."""
    import app.vjepa_2_1.models.vision_transformer as encoders
    from app.vjepa_2_1.models.predictor import vit_predictor
    from app.vjepa_2_1.wrappers import MultiSeqWrapper, PredictorMultiSeqWrapper

    shared = {"img_size": image_size, "patch_size": 16, "num_frames": num_frames, "tubelet_size": 2}
    shared |= {"use_rope": True, "interpolate_rope": True, "img_temporal_dim_size": 1, "modality_embedding": True}
    encoder, target_encoder = (MultiSeqWrapper(getattr(encoders, model)(**shared)) for _ in range(2))
    predictor = vit_predictor(
        embed_dim=encoder.embed_dim, depth=4, num_heads=12, use_mask_tokens=True, num_mask_tokens=8,
        return_all_tokens=True, **shared,
    )  # fmt: skip
    modules = {"encoder": encoder, "predictor": PredictorMultiSeqWrapper(predictor), "target_encoder": target_encoder}
    return draw_weights(modules)


def run_reference_2_1(
    modules: dict[str, torch.nn.Module], clip: torch.Tensor, masks: tuple[list, list], source: str, by_distance: bool
) -> Tensors:
    """Return all that is compared, from Meta's modules and the loss in the source of their training program."""
    from app.vjepa_2_1.models.utils.masks_dist import compute_mask_distance
    from src.masks.utils import apply_masks

    context_masks, target_masks = ([part] for part in masks)  # of one clip length
    scope = {"torch": torch, "F": torch.nn.functional, "apply_masks": apply_masks, "loss_exp": 1.0}
    scope |= {"target_encoder": modules["target_encoder"], "levels_predictor": 4}
    scope |= {"embed_dim_encoder": modules["encoder"].embed_dim}
    forward_target, loss_fn = inner_functions(source, ["forward_target", "loss_fn"], scope)
    targets = forward_target([clip])
    context = modules["encoder"]([clip], context_masks, training_mode=True)
    modality = "image" if clip.shape[2] == 1 else "video"
    predictions, of_context = modules["predictor"](context, context_masks, target_masks, mod=modality)
    side = clip.shape[-1] // 16
    distances = compute_mask_distance(target_masks, context_masks, side, False)
    loss = loss_fn(predictions, targets, target_masks, cls_loss=False, d_weights=None)
    context_loss = loss_fn(of_context, targets, context_masks, False, distances if by_distance else None)
    loss = loss + CONTEXT_WEIGHT * context_loss
    loss.backward()
    results = {"loss": loss.detach()[None], "context loss": context_loss.detach()[None], "target features": targets[0]}
    results |= numbered("predictions", predictions[0])
    for part in ("encoder", "predictor"):
        named = modules[part].named_parameters()
        results |= gradients(part, {k.removeprefix("backbone."): p.grad for k, p in named if p.grad is not None})
    return results


def run_ours_2_1(folder: Path, clip: torch.Tensor, masks: tuple[list, list], by_distance: bool) -> Tensors:
    """Return the same from our models."""
    model = VJEPAForPreTraining.from_pretrained(folder).eval()
    options = {"context_loss_weight": CONTEXT_WEIGHT, "context_loss_by_distance": by_distance}
    outputs = model(clip.transpose(1, 2), *masks, **options)
    outputs.loss.backward()
    context_loss = torch.stack(outputs.context_losses).mean().detach()
    results = {"loss": outputs.loss.detach()[None], "context loss": context_loss[None]}
    results |= {"target features": outputs.target_hidden_state} | numbered("predictions", outputs.predictions)
    # Meta's mask tokens are one tensor each, of which only the first gets a gradient.
    state = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in model.named_parameters()}
    parts = to_meta(state)
    return results | gradients("encoder", parts["encoder"]) | gradients("predictor", parts["predictor"])


def compare_objective(
    model: str, num_frames: int, image_size: int, by_distance: bool, source: str
) -> dict[str, tuple[float, float]]:
    """Return family -> (largest, mean) difference of its worst tensor; one frame is an image."""
    modules = build_reference_2_1(model, max(num_frames, 4), image_size)
    clip = torch.randn(2, 3, num_frames, image_size, image_size, generator=torch.Generator().manual_seed(1))
    side, mask_types = image_size // 16, [IMAGES] if num_frames == 1 else [SHORT_RANGE, LONG_RANGE]
    masks = MaskSampler(mask_types, (max(1, num_frames // 2), side, side), seed=0)([(0, 0), (0, 1)])
    with tempfile.TemporaryDirectory() as scratch:
        states = {p: {f"module.{k}": v for k, v in module.state_dict().items()} for p, module in modules.items()}
        torch.save(states | {"opt": None, "epoch": 0}, Path(scratch) / "checkpoint.pt")
        sizes = {"num_frames": max(num_frames, 4), "image_size": image_size}
        convert(Path(scratch) / "checkpoint.pt", Path(scratch) / "model", **sizes)
        theirs = run_reference_2_1(modules, clip, masks, source, by_distance)
        ours = run_ours_2_1(Path(scratch) / "model", clip, masks, by_distance)
    if missing := theirs.keys() - ours.keys():
        raise RuntimeError(f"these tensors have no counterpart: {sorted(missing)}")
    return by_family(theirs, ours)


@app.command()
def objective(
    reference: Annotated[Path, typer.Option(help="checkout of facebookresearch/vjepa2 with app/vjepa_2_1")],
    output: Output = None,
) -> None:
    """Run the objective of Meta's V-JEPA 2.1 code and ours on the same random checkpoints.

    Their models are imported, and their targets and their loss are compiled from the source of their training program
    (`app/vjepa_2_1/train.py`). Weights are drawn at random, written as their program does, converted and loaded. Clips
    and images with masks go through both, in float32 on CPU. Differences are in units of the tensor's largest value,
    at most 2e-05; the row of a family shows its worst tensor.
    """
    train = reference / "app" / "vjepa_2_1" / "train.py"
    if not train.exists():
        raise typer.BadParameter(f"--reference {reference} is not a checkout of facebookresearch/vjepa2 with 2.1")
    for name in ("timm", "timm.models", "timm.models.layers", "einops"):  # imported for what these models do not use
        module = sys.modules.setdefault(name, ModuleType(name))
        module.__dict__.update(drop_path=None, rearrange=None)
    sys.path.insert(0, str(reference))
    title, commit = "The objective of V-JEPA 2.1, run next to ours", f"reference {commit_of(reference)}"
    lines = opening(title, "parity.py objective", inspect.getdoc(objective), commit)
    lines += table(["model", "input", "context loss", "family", "max", "mean"], [])
    largest = 0.0
    for model, num_frames, image_size, by_distance in (
        ("vit_tiny", 8, 96, True),
        ("vit_tiny", 8, 96, False),
        ("vit_tiny", 1, 128, True),
        ("vit_large", 4, 64, True),
    ):
        families = compare_objective(model, num_frames, image_size, by_distance, train.read_text())
        for family, (most, mean) in families.items():
            weighting = "by distance" if by_distance else "plain"
            clip = f"image {image_size}²" if num_frames == 1 else f"{num_frames} x {image_size}²"
            lines.append(f"| {model} | {clip} | {weighting} | {family} | {most:.1e} | {mean:.1e} |")
            largest = max(largest, most)
        publish(lines, output)
    if largest > BOUND:
        raise SystemExit(f"the largest difference, {largest:.1e}, is beyond the bound {BOUND:.0e}")


# --- recorded ------------------------------------------------------------------------------------------------------

PAGE = HERE.parent / "docs" / "checkpoints.md"
MARKS = "<!-- parity table: begin -->", "<!-- parity table: end -->"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("sdpa", "eager", "flex_attention")


@torch.no_grad()
def compare_recorded(
    folder: Path, record: Tensors, dtype: torch.dtype, attention: str
) -> dict[str, tuple[float, float]]:
    """Return family -> (largest, mean) difference of a converted folder to the numbers of Meta's code."""
    options = {"dtype": dtype, "attn_implementation": attention}
    model = VJEPAForPreTraining.from_pretrained(folder, **options).eval()
    classifier = VJEPAForVideoClassification.from_pretrained(folder, **options).eval()
    clips = record["clip"].transpose(1, 2)
    count = sum(name.startswith("masks_enc.") for name in record)
    context_masks, target_masks = ([record[f"masks_{kind}.{i}"] for i in range(count)] for kind in ("enc", "pred"))
    tubelets, grid = model.vjepa.tokenize(clips)
    encoder = model.context_encoder(tubelets, grid, output_hidden_states=True)
    outputs = model(clips, context_masks, target_masks)

    def indexed(values: Iterable[torch.Tensor], name: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(value, record[f"{name}.{index}"]) for index, value in enumerate(values)]

    encoder_positions = model.context_encoder.embeddings.position_embeddings
    pairs = {
        "position tables": [
            (encoder_positions, record["pos_embed.encoder"][0]),
            (model.vjepa.predictor.position_embeddings, record["pos_embed.predictor"][0]),
        ],
        "hidden states": indexed(encoder.hidden_states[1:], "encoder.hidden"),
        "encoder, whole clip": [(encoder.last_hidden_state, record["encoder.out"])],
        "encoder, context only": indexed(outputs.context_hidden_states, "encoder.out_masked"),
        "target encoder": [(model.vjepa.encoder(tubelets, grid).last_hidden_state, record["target.out"])],
        "normed targets": indexed(outputs.targets, "target.h"),
        "predictions": indexed(outputs.predictions, "predictor.out"),
        "loss": [(outputs.loss[None], record["loss"].reshape(1))],
        "probe logits": [(classifier(clips).logits, record["probe.logits"])],
    }
    return {family: worst(distance(*pair) for pair in tensors) for family, tensors in pairs.items()}


def recorded_table(fixtures: Path) -> list[str]:
    """Return a Markdown table: a row per family, a column per precision and attention, the worst over all models."""
    columns = [(dtype, attention) for dtype in DTYPES for attention in ATTENTION]
    cells: dict[str, dict[tuple, list]] = {}
    sources = sorted(fixtures.glob("model_*"))
    with tempfile.TemporaryDirectory() as scratch:
        for source in sources:
            heads = json.loads((source / "config.json").read_text())["model"]["num_heads"]
            folder, record = Path(scratch) / source.name, load_file(source / "io.safetensors")
            convert(source / "checkpoint.pth.tar", folder, source / "probe.pth.tar", num_attention_heads=heads)
            for dtype, attention in columns:
                for family, value in compare_recorded(folder, record, DTYPES[dtype], attention).items():
                    cells.setdefault(family, {}).setdefault((dtype, attention), []).append(value)
    rows = []
    for family, by_column in cells.items():
        distances = [worst(by_column[column]) for column in columns]
        rows.append([family, *(f"{most:.0e} / {mean:.0e}" for most, mean in distances)])
    machine = f"torch {torch.__version__} on {platform.machine()} CPU"
    units = "Each cell: largest / mean difference in units of the tensor's largest value."
    heading = [f"Worst over {len(sources)} recorded models; {machine}. {units}", ""]
    return heading + table(["", *(f"{dtype} {attention}" for dtype, attention in columns)], rows)


@app.command()
def recorded(
    fixtures: Annotated[Path, typer.Option(help="folder of model_* folders with checkpoint, probe and numbers")],
    write: Annotated[bool, typer.Option(help="replace the table of docs/checkpoints.md")] = False,
) -> None:
    """Compare with recorded outputs of Meta's code, for every precision and attention implementation.

    Each `model_*` folder holds `checkpoint.pth.tar`, `probe.pth.tar`, `config.json` and `io.safetensors`.
    """
    if not any(fixtures.glob("model_*")):
        raise typer.BadParameter(f"--fixtures {fixtures} has no model_* folders")
    lines = "\n".join(recorded_table(fixtures))
    print(lines)
    if write:
        before, rest = PAGE.read_text().split(MARKS[0])
        PAGE.write_text(f"{before}{MARKS[0]}\n\n{lines}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


# --- full size -----------------------------------------------------------------------------------------------------

CONFIGS = {
    "vitl16": VJEPAConfig(),
    "vith16": VJEPAConfig(hidden_size=1280, num_hidden_layers=32),
    "vith16-384": VJEPAConfig(hidden_size=1280, num_hidden_layers=32, image_size=384),
}


def tiled(noise: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Repeat the same random numbers: drawing a billion of them would take most of the time."""
    return noise.repeat(-(-shape.numel() // len(noise)))[: shape.numel()].reshape(shape).clone()


def write_checkpoint(name: str, folder: Path) -> str:
    """Write random weights of a published size in the layout of Meta's files."""
    with torch.device("meta"):
        parts = to_meta(VJEPAForPreTraining(CONFIGS[name]).state_dict())
    one_layer = CONFIGS[name].to_diff_dict() | {"num_hidden_layers": 1, "pred_num_hidden_layers": 1}
    tables = VJEPAModel(VJEPAConfig(**one_layer)).state_dict()
    tables = to_meta({f"vjepa.{key}": value for key, value in tables.items()})
    noise, content = 0.02 * torch.randn(2**20), {}
    for part, state in parts.items():
        positions = tables["predictor" if part == "predictor" else "target_encoder"]
        content[part] = {
            f"module.backbone.{key}": positions[key] if key.endswith("pos_embed") else tiled(noise, value.shape)
            for key, value in state.items()
        }
    torch.save(content | {"opt": None, "epoch": 300}, folder / "checkpoint.pth.tar")
    return f"{(folder / 'checkpoint.pth.tar').stat().st_size / 2**30:.2f} GiB"


def convert_checkpoint(name: str, folder: Path) -> str:
    """Convert the file; the report has the numbers of weights."""
    parts = convert(folder / "checkpoint.pth.tar", folder / "model").parts
    return f"encoder {parts['encoder']:,}, predictor {parts['predictor']:,}"


@torch.no_grad()
def run_clip(name: str, folder: Path) -> str:
    """Compute the features of one clip with the converted folder."""
    model = VJEPAModel.from_pretrained(folder / "model").eval()
    side = model.config.image_size
    features = model(torch.randn(1, model.config.num_frames, 3, side, side)).last_hidden_state
    if not features.isfinite().all():
        raise RuntimeError(f"{name}: features are not finite")
    return f"features {tuple(features.shape)}"


STEPS = {"write": write_checkpoint, "convert": convert_checkpoint, "load, run a clip": run_clip}


@app.command(hidden=True)
def full_size_step(name: str, step: str, folder: Path) -> None:
    """Take one step and print its row; run by `full_size`."""
    began, result = time.perf_counter(), STEPS[step](name, folder)
    gibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {name} | {step} | {time.perf_counter() - began:.1f} s | {gibibytes:.1f} GiB | {result} |")


@app.command()
def full_size(
    models: Annotated[list[str], typer.Option(help="repeat")] = tuple(CONFIGS), output: Output = None
) -> None:
    """Convert checkpoints of the published sizes and run a clip: time, peak memory, numbers of weights.

    The weights are random float32, the files have Meta's layout (the encoder twice and a predictor, as released, and
    no optimizer state). Every step has a process of its own, so that its peak memory is its own. Numbers of weights
    are without position tables; encoder and target encoder have the same. ViT-H needs about 6 GiB of disk and memory.
    """
    lines = opening("Checkpoints of the published sizes", "parity.py full_size", full_size.__doc__)
    lines += table(["model", "step", "time", "peak memory", "result"], [])
    for name in models:
        with tempfile.TemporaryDirectory() as folder:
            for step in STEPS:
                command = [sys.executable, __file__, "full_size_step", name, step, folder]
                lines.append(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
                publish(lines, output)  # after every step: the large ones take long


if __name__ == "__main__":
    app()
