"""VideoMAE next to V-JEPA: the same sizes, clips and encoder FLOPs. Imported by benchmarks and studies, not run.

`videomae` trains one like a run of examples/pretrain.py, with its clips, batch size, learning rate and schedule.
Weight decay, second moment and masks (random tubes, 75 %) are VideoMAE's own.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, VideoMAEConfig, VideoMAEForPreTraining, VideoMAEModel

from vjepa_hf import VJEPAConfig, VJEPAForPreTraining
from vjepa_hf.data import load_videos
from vjepa_hf.data.input_log import InputLog
from vjepa_hf.training import flops, parse_arguments, setup
from vjepa_hf.training.arguments import PretrainingArguments
from vjepa_hf.training.checkpoints import Progress
from vjepa_hf.training.optimization import hyperparameters, parameter_groups, set_hyperparameters

MASKS = [{"type": "random_tube", "ratio": 0.75}]
WEIGHT_DECAY, BETAS = 0.05, (0.9, 0.95)
COUNTED_STEPS = 4  # whose mean is the FLOPs of a step


def new_videomae(config: VJEPAConfig) -> VideoMAEForPreTraining:
    """Return a VideoMAE with random weights: an encoder of the same sizes, and a decoder as large as the predictor."""
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
            decoder_num_attention_heads=config.pred_num_attention_heads or config.num_attention_heads,
            decoder_intermediate_size=int(config.pred_mlp_ratio * config.pred_hidden_size),
            use_mean_pooling=False,  # then the encoder ends in a layer norm, as V-JEPA's does
        )
    )


def training_outputs(model: PreTrainedModel, batch: dict[str, Any]) -> Any:
    """Return the outputs of a V-JEPA or VideoMAE model, with `loss`, for a batch of normalized clips on its device."""
    pixels, contexts, targets = batch["pixel_values_videos"], batch["context_masks"], batch["target_masks"]
    if isinstance(model, VJEPAForPreTraining):
        return model(pixels, contexts, targets)
    (context,), (target,) = contexts, targets
    hidden = torch.zeros(len(pixels), context.shape[1] + target.shape[1], dtype=torch.bool, device=pixels.device)
    return model(pixels, bool_masked_pos=hidden.scatter_(1, target, True))


def encoder_flops(config: VJEPAConfig, batches: Iterable[dict[str, Any]], predicts_pixels: bool) -> float:
    """Return the FLOPs of a step in the encoders, forward and backward; mean of the batches.

    V-JEPA takes a forward pass of the target encoder, and a pass of the context encoder for each mask type. VideoMAE
    embeds all tubelets and then drops the hidden ones. FLOPs are counted from the configuration, because torch's
    counter assigns the backward pass of a module that is called several times to the wrong modules.
    """
    counts = []
    for batch in batches:
        kept = [mask.shape[1] for mask in batch["context_masks"]]
        embedded = [math.prod(config.grid_size)] if predicts_pixels else kept
        passes = 3 * sum(
            flops.encoder_flops(config, number) - flops.embedding_flops(config, number) for number in kept
        )
        passes += 2 * sum(flops.embedding_flops(config, number) for number in embedded)  # pixels need no gradient
        target = 0 if predicts_pixels else flops.encoder_flops(config)
        counts.append(len(batch["context_masks"][0]) * (target + passes))
    return sum(counts) / len(counts)


def videomae(run: Path) -> VideoMAEModel:
    """Return the encoder of a VideoMAE trained like a finished pretraining run; it is cached in the run's folder."""
    folder = run / "videomae"
    if not (folder / "config.json").exists():
        train(run).save_pretrained(folder)
    return VideoMAEModel.from_pretrained(folder).eval()


def train(run: Path) -> VideoMAEForPreTraining:
    """Train a VideoMAE on the clips of a run, with the seed of the run, until it has used as many encoder FLOPs."""
    args = parse_arguments(["--config", str(run / "arguments.yaml")])
    optimization = args.optimization
    torch.set_num_threads(args.run.cpu_threads or torch.get_num_threads())
    torch.manual_seed(args.run.seed)
    config, num_steps = VJEPAConfig.from_pretrained(run), optimization.max_steps
    model = new_videomae(config)
    budget = num_steps * encoder_flops(config, ready_batches(args, config, COUNTED_STEPS), predicts_pixels=False)
    args.masking.masks = MASKS
    own = encoder_flops(config, ready_batches(args, config, COUNTED_STEPS), predicts_pixels=True)
    optimization.weight_decay = optimization.final_weight_decay = WEIGHT_DECAY
    optimizer = torch.optim.AdamW(parameter_groups(model), betas=BETAS)
    for step, batch in enumerate(ready_batches(args, config, round(budget / own))):
        set_hyperparameters(optimizer, hyperparameters(step, optimization))
        training_outputs(model, batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def ready_batches(args: PretrainingArguments, config: VJEPAConfig, num_steps: int) -> Iterator[dict[str, Any]]:
    """Return the batches of a run of `num_steps` steps, normalized; `args` gets that number of steps."""
    args.optimization.max_steps = num_steps
    accelerator, processor = Accelerator(cpu=True), setup.make_processor(config, args.data)
    videos = [load_videos(source, args.data.video_column) for source in args.data.videos]
    loader = setup.make_loader(accelerator, args, config, videos, Progress(), InputLog(args.data.max_failed_share))
    return setup.ready_batches(loader, accelerator.device, processor, args.run.seed)
