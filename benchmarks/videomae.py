"""VideoMAE on the clips of a pretraining run, for as many encoder FLOPs. Imported by the scripts, not run.

The encoder has the sizes of the run's encoder, the decoder those of its predictor. Clips, batch size, learning rate
and its schedule are those of the run; weight decay, second moment and masks (random tubes, 75 %) are VideoMAE's own.
"""

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEModel

from programs import backward
from vjepa_hf import VJEPAForPreTraining
from vjepa_hf.data import load_videos
from vjepa_hf.data.input_log import InputLog
from vjepa_hf.training import parse_arguments, setup
from vjepa_hf.training.arguments import PretrainingArguments
from vjepa_hf.training.checkpoints import Progress
from vjepa_hf.training.optimization import hyperparameters, parameter_groups, set_hyperparameters

MASKS = [{"type": "random_tube", "ratio": 0.75}]
WEIGHT_DECAY, BETAS = 0.05, (0.9, 0.95)
COUNTED_STEPS = 4  # whose mean is the FLOPs of a step


def new_model(config: Any) -> VideoMAEForPreTraining:
    """Return a VideoMAE with random weights of the sizes of a `VJEPAConfig`."""
    decoder_heads = config.pred_num_attention_heads or config.num_attention_heads
    return VideoMAEForPreTraining(
        VideoMAEConfig(
            image_size=config.image_size,
            patch_size=config.patch_size,
            num_frames=config.num_frames,
            tubelet_size=config.tubelet_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=int(config.mlp_ratio * config.hidden_size),
            decoder_hidden_size=config.pred_hidden_size,
            decoder_num_hidden_layers=config.pred_num_hidden_layers,
            decoder_num_attention_heads=decoder_heads,
            decoder_intermediate_size=int(config.pred_mlp_ratio * config.pred_hidden_size),
            use_mean_pooling=False,  # then the encoder ends in a layer norm, as V-JEPA's does
        )
    )


def masked_loss(model: VideoMAEForPreTraining, batch: dict[str, Any]) -> torch.Tensor:
    """Return the mean squared error of the normalized pixels in hidden tubelets."""
    (context_mask,), (target_mask,) = batch["context_masks"], batch["target_masks"]
    hidden = torch.zeros(len(target_mask), context_mask.shape[1] + target_mask.shape[1], dtype=torch.bool)
    return model(batch["pixel_values_videos"], bool_masked_pos=hidden.scatter_(1, target_mask, True)).loss


def batches(args: PretrainingArguments, config: Any, steps: int, masks: list[dict[str, Any]]) -> Any:
    """Yield the first batches of a run, with other masks."""
    args.masking.masks, args.optimization.max_steps = masks, steps
    accelerator, processor = Accelerator(cpu=True), setup.make_processor(config, args.data)
    videos = [load_videos(source, args.data.video_column) for source in args.data.videos]
    loader = setup.make_loader(accelerator, args, config, videos, Progress(), InputLog(args.data.max_failed_share))
    return setup.ready_batches(loader, accelerator.device, processor, args.run.seed)


def flops_per_step(model: torch.nn.Module, encoders: tuple[str, ...], steps: Any) -> float:
    """Return the mean FLOPs in the modules `encoders` over optimizer steps, forward and backward."""
    # The math backend, because PyTorch < 2.15 does not count fused attention on the CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        for batch in islice(steps, COUNTED_STEPS):
            if isinstance(model, VJEPAForPreTraining):
                backward(model, batch["pixel_values_videos"], (batch["context_masks"], batch["target_masks"]))
            else:
                masked_loss(model, batch).backward()
    counts = counter.get_flop_counts()
    return sum(sum(counts[f"{type(model).__name__}.{name}"].values()) for name in encoders) / COUNTED_STEPS


def videomae(run: Path) -> VideoMAEModel:
    """Return the encoder of a VideoMAE trained like a finished pretraining run; it is cached in the run's folder."""
    folder = run / "videomae"
    if not (folder / "config.json").exists():
        train(run).save_pretrained(folder)
    return VideoMAEModel.from_pretrained(folder).eval()


def train(run: Path) -> VideoMAEForPreTraining:
    """Train a VideoMAE on the clips of a run, with the seed of the run, until it has used as many encoder FLOPs."""
    args = parse_arguments(["--config", str(run / "arguments.yaml")])
    torch.set_num_threads(args.run.cpu_threads or torch.get_num_threads())
    torch.manual_seed(args.run.seed)
    vjepa = VJEPAForPreTraining.from_pretrained(run)
    config, steps, masks = vjepa.config, args.optimization.max_steps, args.masking.masks
    model = new_model(config)
    encoders = ("context_encoder", "vjepa.encoder")
    budget = steps * flops_per_step(vjepa, encoders, batches(args, config, COUNTED_STEPS, masks))
    own = flops_per_step(model, ("videomae",), batches(args, config, COUNTED_STEPS, MASKS))
    args.optimization.max_steps = round(budget / own)
    args.optimization.weight_decay = args.optimization.final_weight_decay = WEIGHT_DECAY
    model.zero_grad()
    optimizer = torch.optim.AdamW(parameter_groups(model), betas=BETAS)
    for step, batch in enumerate(batches(args, config, args.optimization.max_steps, MASKS)):
        set_hyperparameters(optimizer, hyperparameters(step, args.optimization))
        masked_loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model
