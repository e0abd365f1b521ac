"""Is this run healthy? Figures about features and predictions that tell learning from collapse, and named alarms.

A falling loss alone says nothing: features that all become equal are easy to predict. So the health line asks how much
features still differ from token to token (`_std`, `_dead`, `_rank`, `_cosine`), whether the predictor does better than
answers that need no understanding (`loss_ratio`, `copy_ratio`), which part of the task is hard (`loss/...`), and how
far the two encoders are apart. docs/pretraining.md shows how to read it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor

from ..model.modeling_vjepa import VJEPAForPreTraining, VJEPAForPreTrainingOutput

Gather = Callable[[torch.Tensor], torch.Tensor]

# A feature that differs less than this from token to token says nothing; all of them together have a mean square of 1.
DEAD_STD = 0.05


@dataclass(frozen=True)
class Alarm:
    """A figure that a healthy run keeps within [low, high], and what it means when it does not."""

    name: str
    figure: str
    meaning: str
    low: float = -math.inf
    high: float = math.inf
    after_warmup: bool = False


# docs/pretraining.md says what to do for each, and shows where healthy and collapsing runs stand.
ALARMS = (
    Alarm("constant-features", "target_std", "all tokens look alike to the target encoder: collapse", low=0.2),
    Alarm("constant-context", "context_std", "the context encoder collapses, the target encoder follows", low=0.1),
    Alarm("dead-features", "target_dead", "most features are the same for every token", high=0.5),
    Alarm("low-rank", "target_rank_share", "features differ along few directions: collapse", low=0.1),
    Alarm("useless-predictor", "loss_ratio", "the mean target is a better answer", high=1.0, after_warmup=True),
)


def spread_tokens(tensors: Sequence[torch.Tensor], num_tokens: int = 1024) -> torch.Tensor:
    """Pick `num_tokens` tokens evenly from tensors `(B, M, D)`, as `(num_tokens, D)` in float32.

    The number is exact (a small batch repeats tokens), so the results of several processes can be gathered.
    """
    tokens = torch.cat([tensor.detach().flatten(0, 1) for tensor in tensors])
    indices = torch.arange(num_tokens, device=tokens.device) * len(tokens) // num_tokens
    return tokens[indices].float()


def feature_std(tokens: torch.Tensor) -> torch.Tensor:
    """Standard deviation over tokens `(S, D)` of each of the D features `(D,)`. 0 where all tokens are equal."""
    return tokens.std(dim=0, correction=0)


def effective_rank(tokens: torch.Tensor) -> torch.Tensor:
    """Number of directions that tokens `(S, D)` really use, between 1 and min(S, D); nan if one is not finite.

    The exponential of the entropy of the singular values, normalized to sum 1 (RankMe, Garrido et al. 2023, eq. 1),
    of the centered tokens: an offset common to all tokens carries nothing and is not counted as a direction.
    """
    if tokens.device.type == "mps":
        tokens = tokens.cpu()  # that device has no float64
    centered = tokens.double() - tokens.double().mean(dim=0)
    # Singular values as roots of eigenvalues: many times as fast, and in float64 as exact as float32 tokens are.
    gram = centered.T @ centered
    if not gram.isfinite().all():
        return gram.new_tensor(math.nan)
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.exp(-torch.xlogy(share, share).sum())


def mean_cosine(tokens: torch.Tensor) -> torch.Tensor:
    """Mean cosine between any two of the tokens `(S, D)`, in [0, 1]: the squared length of the mean direction."""
    return torch.nn.functional.normalize(tokens, dim=-1).mean(dim=0).square().sum()


def loss_ratio(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Absolute error of the predictions over that of always answering the mean target. `(S, D)` both.

    Below 1 the predictor uses what it sees. The denominator shrinks with collapsing targets, the ratio does not.
    """
    trivial = (targets - targets.mean(dim=0)).abs().mean()
    return (predictions - targets).abs().mean() / trivial.clamp_min(torch.finfo(trivial.dtype).tiny)


def copy_errors(
    outputs: VJEPAForPreTrainingOutput,
    context_masks: Sequence[torch.Tensor],
    target_masks: Sequence[torch.Tensor],
    grid: tuple[int, int, int],
    num_clips: int = 4,
) -> torch.Tensor:
    """Summed absolute errors `(2,)` in the first clips of a batch: of the predictions, and of a copy.

    The copy answers with the target encoder's feature at the nearest context token, in tokens of the grid (t, h, w).
    A predictor that does no better has learned that features change slowly, and no more.
    """
    features = outputs.target_hidden_state[:num_clips].detach()
    axes = [torch.arange(length, dtype=torch.float32, device=features.device) for length in grid]
    positions = torch.cartesian_prod(*axes)  # (N, 3)
    errors = features.new_zeros(2)
    for prediction, target, context_mask, target_mask in zip(
        outputs.predictions, outputs.targets, context_masks, target_masks, strict=True
    ):
        for clip, clip_features in enumerate(features):
            context = context_mask[clip]
            # (M, 3), (K, 3) -> (M, K); differences of integers, so that equal distances are equal
            distances = torch.cdist(
                positions[target_mask[clip]], positions[context], compute_mode="donot_use_mm_for_euclid_dist"
            )
            copy = clip_features[context[distances.argmin(dim=-1)]]
            answers = prediction[clip].float(), copy
            errors += torch.stack([(answer - target[clip]).abs().sum() for answer in answers])
    return errors


def loss_sums(
    outputs: VJEPAForPreTrainingOutput, target_masks: Sequence[torch.Tensor], grid: tuple[int, int, int]
) -> torch.Tensor:
    """Sum the losses of target tokens and count them, per mask type and time step: `(2, mask types, t)`."""
    t, h, w = grid
    sums = []
    for batch in zip(outputs.predictions, outputs.targets, target_masks, strict=True):
        prediction, target, mask = (part.flatten(0, 1) for part in batch)  # (B * M, D) twice, (B * M,)
        losses = (prediction.float() - target).abs().mean(dim=-1)
        time = mask // (h * w)
        rows = torch.stack([losses, torch.ones_like(losses)])
        sums.append(rows.new_zeros(2, t).index_add(1, time, rows))
    return torch.stack(sums, dim=1)


def encoder_distance(model: VJEPAForPreTraining) -> torch.Tensor:
    """L2 norm of what the weights of the context encoder are ahead of the target encoder's, over that of the latter.

    0 while both are equal. It settles where one step of learning and one of averaging are of one size.
    """
    targets = list(model.vjepa.encoder.parameters())
    # One difference at a time: all of them together would be a third encoder in memory.
    ahead = (context - target for context, target in zip(model.context_encoder.parameters(), targets, strict=True))
    return _norm(ahead) / _norm(targets)


def _norm(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """L2 norm of tensors as one, whole also where a run shards them."""
    norm = torch.nn.utils.get_total_norm([torch.linalg.vector_norm(tensor) for tensor in tensors])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@torch.no_grad()
def health(
    model: VJEPAForPreTraining,
    outputs: VJEPAForPreTrainingOutput,
    context_masks: Sequence[torch.Tensor],
    target_masks: Sequence[torch.Tensor],
    gather: Gather = lambda tensor: tensor,
    num_tokens: int = 2048,
) -> dict[str, float]:
    """The figures of one health line, over all processes.

    Args:
        model: whose encoders are compared.
        outputs: of the model, for the batch of this process.
        context_masks: index lists for each mask type, as the model got them.
        target_masks: index lists for each mask type.
        gather: joins tensors of all processes along the first dimension, `accelerator.gather`.
        num_tokens: tokens looked at, by all processes together.

    Returns:
        For each of `target`, `prediction` and `context` features, the last ones layer-normed like targets:
        `_std` (mean over features of the standard deviation over tokens), `_dead` (share of the features in which
        this is below 0.05), `_rank` and `_cosine`. Then `target_rank_share`, of the rank that is possible,
        `loss_ratio`, `copy_ratio`, `encoder_distance`, and `loss/mask_type_0` ... and `loss/time_0` ... for each
        mask type and each time step that has targets.
    """
    grid = model.config.grid_size
    errors = copy_errors(outputs, context_masks, target_masks, grid)
    sums = loss_sums(outputs, target_masks, grid)
    rows = gather(torch.cat([errors, sums.flatten()])[None])
    of_copy, sums = rows.sum(dim=0)[:2], rows.sum(dim=0)[2:].view(sums.shape)

    batches = {"target": outputs.targets, "prediction": outputs.predictions, "context": outputs.context_hidden_states}
    per_process = max(1, num_tokens // len(rows))
    tokens = {name: gather(spread_tokens(batch, per_process)) for name, batch in batches.items()}
    tokens["context"] = torch.nn.functional.layer_norm(tokens["context"], tokens["context"].shape[-1:])

    figures = {}
    for name, features in tokens.items():
        std = feature_std(features)
        figures[f"{name}_std"] = std.mean()
        figures[f"{name}_dead"] = (std < DEAD_STD).float().mean()
        figures[f"{name}_rank"] = effective_rank(features)
        figures[f"{name}_cosine"] = mean_cosine(features)
    figures["target_rank_share"] = figures["target_rank"] / min(tokens["target"].shape)
    figures["loss_ratio"] = loss_ratio(tokens["prediction"], tokens["target"])
    figures["copy_ratio"] = of_copy[0] / of_copy[1].clamp_min(torch.finfo(of_copy.dtype).tiny)
    figures["encoder_distance"] = encoder_distance(model)
    mask_types, times = sums.sum(dim=2), sums.sum(dim=1)  # (2, mask types), (2, t)
    figures |= {f"loss/mask_type_{index}": loss / count for index, (loss, count) in enumerate(mask_types.T)}
    figures |= {f"loss/time_{time}": loss / count for time, (loss, count) in enumerate(times.T) if count}
    values = torch.stack([value.float().to(sums.device) for value in figures.values()])
    return dict(zip(figures, values.tolist(), strict=True))


def alarms(figures: dict[str, float], after_warmup: bool = True) -> list[str]:
    """Warnings that a health line gives reason for, each starting with its name; empty for a healthy run.

    `after_warmup` tells whether the learning rate has been at its peak: before, every predictor is useless.
    """
    strange = [name for name, value in figures.items() if not math.isfinite(value)]
    if strange:
        return [f"not-finite: {', '.join(strange)}; weights or clips hold nan or inf, and the run learns nothing more"]
    warnings = []
    for alarm in ALARMS:
        value = figures[alarm.figure]
        if not alarm.low <= value <= alarm.high and (after_warmup or not alarm.after_warmup):
            side, limit = ("below", alarm.low) if value < alarm.low else ("above", alarm.high)
            warnings.append(f"{alarm.name}: {alarm.figure} {value:.3g} is {side} {limit:g}; {alarm.meaning}")
    return warnings
