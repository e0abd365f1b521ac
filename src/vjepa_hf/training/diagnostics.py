"""Health metrics of features and predictions, and named alarms that distinguish learning from collapse.

The loss cannot do that, because constant features are easy to predict. The health line measures how features vary from
token to token (`_std`, `_dead`, `_rank`, `_cosine`), compares the predictor with trivial predictions (`loss_ratio`,
`copy_ratio`), splits the loss (`loss/...`), and measures the distance between the two encoders. docs/pretraining.md
shows how to read it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor

from ..data.masking import nearest_context
from ..model.modeling_vjepa import VJEPAForPreTraining, VJEPAForPreTrainingOutput

Gather = Callable[[torch.Tensor], torch.Tensor]

# A layer-normed feature with a smaller standard deviation over tokens is dead.
DEAD_STD = 0.05


@dataclass(frozen=True)
class Alarm:
    """Range [low, high] of a metric in a healthy run, and what a value outside means."""

    name: str
    metric: str
    meaning: str
    low: float = -math.inf
    high: float = math.inf
    after_warmup: bool = False


# docs/pretraining.md says what to do about each, with the metrics of healthy and collapsing runs.
ALARMS = (
    Alarm("constant-features", "target_std", "all tokens look alike to the target encoder: collapse", low=0.2),
    Alarm("constant-context", "context_std", "the context encoder collapses, the target encoder follows", low=0.1),
    Alarm("dead-features", "target_dead", "most features are the same for every token", high=0.5),
    Alarm("low-rank", "target_rank_share", "features differ along few directions: collapse", low=0.1),
    Alarm("useless-predictor", "loss_ratio", "the mean target is a better prediction", high=1.0, after_warmup=True),
)


def spread_tokens(tensors: Sequence[torch.Tensor], num_tokens: int = 1024) -> torch.Tensor:
    """Return evenly spaced tokens of tensors `(B, M, D)`, as `(num_tokens, D)` in float32.

    A small batch repeats tokens, so that every process has the same number to gather.
    """
    tokens = torch.cat([tensor.detach().flatten(0, 1) for tensor in tensors])
    indices = torch.arange(num_tokens, device=tokens.device) * len(tokens) // num_tokens
    return tokens[indices].float()


def feature_std(tokens: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation `(D,)` of each feature over tokens `(S, D)`."""
    return tokens.std(dim=0, correction=0)


def effective_rank(tokens: torch.Tensor) -> torch.Tensor:
    """Return the effective rank of tokens `(S, D)`, between 1 and min(S, D), or nan for nan or inf in the tokens.

    It is the exponential of the entropy of the singular values, normalized to sum 1 (RankMe, Garrido et al. 2023,
    eq. 1). The tokens are centered first, so that a common offset does not count as a direction.
    """
    if tokens.device.type == "mps":
        tokens = tokens.cpu()  # MPS has no float64
    centered = tokens.double() - tokens.double().mean(dim=0)
    # Roots of eigenvalues are many times faster than an SVD, and in float64 exact enough for float32 tokens.
    gram = centered.T @ centered
    if not gram.isfinite().all():
        return gram.new_tensor(math.nan)
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    weights = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.exp(-torch.xlogy(weights, weights).sum())


def mean_cosine(tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean cosine of all pairs of tokens `(S, D)`, in [0, 1]: the squared length of the mean direction."""
    return torch.nn.functional.normalize(tokens, dim=-1).mean(dim=0).square().sum()


def loss_ratio(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the error of predictions `(S, D)`, divided by the error of always predicting the mean target.

    Below 1, the predictor uses its input. Unlike the loss, the ratio does not shrink when the targets collapse.
    """
    mean_error = (targets - targets.mean(dim=0)).abs().mean()
    return (predictions - targets).abs().mean() / mean_error.clamp_min(torch.finfo(mean_error.dtype).tiny)


def copy_errors(
    outputs: VJEPAForPreTrainingOutput,
    context_masks: Sequence[torch.Tensor],
    target_masks: Sequence[torch.Tensor],
    grid: tuple[int, int, int],
) -> torch.Tensor:
    """Sum the absolute errors `(2,)` of the predictions and of a copy, over the first four clips of a batch.

    The copy predicts the target encoder's feature at the nearest context token of the grid (t, h, w). A predictor that
    is not better has only learned that features change slowly.
    """
    features = outputs.target_hidden_state[:4].detach()
    errors = features.new_zeros(2)
    for prediction, target, context_mask, target_mask in zip(
        outputs.predictions, outputs.targets, context_masks, target_masks, strict=True
    ):
        for clip, clip_features in enumerate(features):
            copy = clip_features[nearest_context(context_mask[clip], target_mask[clip], grid)]
            guesses = prediction[clip].float(), copy
            errors += torch.stack([(guess - target[clip]).abs().sum() for guess in guesses])
    return errors


def loss_sums(
    outputs: VJEPAForPreTrainingOutput, target_masks: Sequence[torch.Tensor], grid: tuple[int, int, int]
) -> torch.Tensor:
    """Sum the losses of target tokens and count them, per mask type and time step: `(2, mask types, t)`."""
    t, h, w = grid
    sums = []
    for tensors in zip(outputs.predictions, outputs.targets, target_masks, strict=True):
        prediction, target, mask = (tensor.flatten(0, 1) for tensor in tensors)  # (B * M, D) twice, (B * M,)
        losses = (prediction.float() - target).abs().mean(dim=-1)
        time = mask // (h * w)
        rows = torch.stack([losses, torch.ones_like(losses)])
        sums.append(rows.new_zeros(2, t).index_add(1, time, rows))
    return torch.stack(sums, dim=1)


def encoder_distance(model: VJEPAForPreTraining) -> torch.Tensor:
    """Return the L2 norm of the difference between the weights of the encoders, divided by the target encoder's norm.

    It settles when the steps of the optimizer and of the average have the same size.
    """
    targets = list(model.vjepa.encoder.parameters())
    # A generator: all differences at once would take the memory of a third encoder.
    differences = (
        context - target for context, target in zip(model.context_encoder.parameters(), targets, strict=True)
    )
    return _norm(differences) / _norm(targets)


def _norm(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the joint L2 norm of tensors, which FSDP may shard."""
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
    """Return the health metrics of a batch, over all processes.

    Args:
        model: model with both encoders.
        outputs: outputs of the model for the batch of this process.
        context_masks: index lists `(B, K)` of the batch, one for each mask type.
        target_masks: index lists `(B, M)`, one for each mask type.
        gather: function that concatenates tensors of all processes, such as `accelerator.gather`.
        num_tokens: number of tokens to sample, over all processes.

    Returns:
        For `target`, `prediction` and layer-normed `context` features: `_std` (standard deviation over tokens, mean
        over features), `_dead` (fraction of features for which it is below 0.05), `_rank` and `_cosine`. Then
        `target_rank_share` (rank divided by the largest possible one), `loss_ratio`, `copy_ratio`,
        `encoder_distance`, and `loss/mask_type_0` ... and `loss/time_0` ... for each mask type and each time step
        with targets. With `pred_num_levels` all but these losses and `copy_ratio` are of the last level. With
        `pred_context_head` also `context_loss`, before its weight.
    """
    grid = model.config.grid_size
    errors = copy_errors(outputs, context_masks, target_masks, grid)
    sums = loss_sums(outputs, target_masks, grid)
    rows = gather(torch.cat([errors, sums.flatten()])[None])
    errors, sums = rows.sum(dim=0)[:2], rows.sum(dim=0)[2:].view(sums.shape)

    width = model.config.hidden_size
    batches = {
        "target": [target[..., -width:] for target in outputs.targets],
        "prediction": [prediction[..., -width:] for prediction in outputs.predictions],
        "context": outputs.context_hidden_states,
    }
    per_process = max(1, num_tokens // len(rows))
    tokens = {name: gather(spread_tokens(batch, per_process)) for name, batch in batches.items()}
    tokens["context"] = torch.nn.functional.layer_norm(tokens["context"], tokens["context"].shape[-1:])

    metrics = {}
    for name, features in tokens.items():
        std = feature_std(features)
        metrics[f"{name}_std"] = std.mean()
        metrics[f"{name}_dead"] = (std < DEAD_STD).float().mean()
        metrics[f"{name}_rank"] = effective_rank(features)
        metrics[f"{name}_cosine"] = mean_cosine(features)
    metrics["target_rank_share"] = metrics["target_rank"] / min(tokens["target"].shape)
    metrics["loss_ratio"] = loss_ratio(tokens["prediction"], tokens["target"])
    metrics["copy_ratio"] = errors[0] / errors[1].clamp_min(torch.finfo(errors.dtype).tiny)
    metrics["encoder_distance"] = encoder_distance(model)
    mask_types, times = sums.sum(dim=2), sums.sum(dim=1)  # (2, mask types), (2, t)
    if outputs.context_losses:
        metrics["context_loss"] = gather(torch.stack(outputs.context_losses).mean()[None]).mean()
    metrics |= {f"loss/mask_type_{index}": loss / count for index, (loss, count) in enumerate(mask_types.T)}
    metrics |= {f"loss/time_{time}": loss / count for time, (loss, count) in enumerate(times.T) if count}
    values = torch.stack([value.float().to(sums.device) for value in metrics.values()])
    return dict(zip(metrics, values.tolist(), strict=True))


def alarms(metrics: dict[str, float], after_warmup: bool = True) -> list[str]:
    """Return the warnings for a health line, each starting with the name of the alarm; empty for a healthy run.

    An alarm whose metric is not given is skipped. Set `after_warmup` once the learning rate has reached its peak;
    before, no predictor is useful.
    """
    not_finite = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not_finite:
        return [f"not-finite: {', '.join(not_finite)}; weights or clips contain nan or inf, so the run stops learning"]
    warnings = []
    for alarm in ALARMS:
        value = metrics.get(alarm.metric, alarm.low)
        if not alarm.low <= value <= alarm.high and (after_warmup or not alarm.after_warmup):
            side, limit = ("below", alarm.low) if value < alarm.low else ("above", alarm.high)
            warnings.append(f"{alarm.name}: {alarm.metric} {value:.3g} is {side} {limit:g}; {alarm.meaning}")
    return warnings
