"""Is this run healthy? Figures about predictions and targets that tell learning from collapse, and named alarms.

A falling loss alone says nothing: features that all become equal are easy to predict. So the health line asks how much
targets still differ from token to token (`target_std`, `target_rank`, `target_cosine`) and whether the predictor does
better than the best answer that ignores its input (`loss_ratio`).
"""

from collections.abc import Callable, Sequence

import torch

MIN_STD = 0.1
MIN_RANK = 2.0


def spread_tokens(tensors: Sequence[torch.Tensor], num_tokens: int = 1024) -> torch.Tensor:
    """Pick `num_tokens` tokens evenly from tensors `(B, M, D)`, as `(num_tokens, D)` in float32.

    The number is exact (a small batch repeats tokens), so the results of several processes can be gathered.
    """
    tokens = torch.cat([tensor.detach().flatten(0, 1) for tensor in tensors])
    places = torch.arange(num_tokens, device=tokens.device) * len(tokens) // num_tokens
    return tokens[places].float()


def feature_std(tokens: torch.Tensor) -> torch.Tensor:
    """Standard deviation over tokens `(S, D)`, averaged over the D features. 0 when all tokens are equal."""
    return tokens.std(dim=0, correction=0).mean()


def effective_rank(tokens: torch.Tensor) -> torch.Tensor:
    """Number of directions that tokens `(S, D)` really use, between 1 and min(S, D).

    The exponential of the entropy of the singular values, normalized to sum 1 (RankMe, Garrido et al. 2023, eq. 1),
    of the centered tokens: an offset common to all tokens carries nothing and is not counted as a direction.
    """
    values = torch.linalg.svdvals(tokens - tokens.mean(dim=0))
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


@torch.no_grad()
def health(
    predictions: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    gather: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
    num_tokens: int = 1024,
) -> dict[str, float]:
    """The figures of one health line.

    Args:
        predictions: output of the predictor, `(B, M, D)` for each mask kind.
        targets: normalized output of the target encoder at the same tokens, same shapes.
        gather: joins the tokens of all processes along the first dimension, `accelerator.gather`.
        num_tokens: tokens looked at in each process.

    Returns:
        `target_std`, `prediction_std`, `target_rank`, `prediction_rank`, `target_cosine`, `loss_ratio`.
    """
    predictions = gather(spread_tokens(predictions, num_tokens))
    targets = gather(spread_tokens(targets, num_tokens))
    figures = {
        "target_std": feature_std(targets),
        "prediction_std": feature_std(predictions),
        "target_rank": effective_rank(targets),
        "prediction_rank": effective_rank(predictions),
        "target_cosine": mean_cosine(targets),
        "loss_ratio": loss_ratio(predictions, targets),
    }
    return dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))


def alarms(figures: dict[str, float]) -> list[str]:
    """Warnings that a health line gives reason for, each starting with its name; empty for a healthy run.

    `loss_ratio` raises none: it is above 1 in the first steps of every run, until the predictor knows the mean target.
    """
    warnings = []
    if figures["target_std"] < MIN_STD:
        warnings.append(
            f"constant-features: target_std {figures['target_std']:.3f} is below {MIN_STD}; all tokens look "
            "alike to the target encoder, the run is collapsing"
        )
    if figures["target_rank"] < MIN_RANK:
        warnings.append(
            f"low-rank: target_rank {figures['target_rank']:.1f} is below {MIN_RANK}; features differ along hardly "
            "one direction, the run is collapsing"
        )
    return warnings
