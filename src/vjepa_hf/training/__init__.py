"""What a training loop needs, from arguments to checkpoints.

- `arguments`: what a pretraining run can be told: one YAML file, then the command line, then a copy beside the checkpoints.
- `checkpoints`: checkpoints of a run: whole or absent when written, read only when they are still what was written.
- `diagnostics`: is this run healthy? Figures about features and predictions that tell learning from collapse, and named alarms.
- `finetuning`: fine-tune a classifier with `transformers.Trainer`: labelled clips, mixed batches, parameter groups, LoRA's modules.
- `flops`: the meter of a run: floating-point operations of a clip, counted from sizes, and the rate this device can reach.
- `log`: the log of a run, its throughput and its memory.
- `optimization`: parameter groups, schedules and gradient clipping.
- `output`: the folder of a run: made, resumed from, exported to.
- `run_guard`: what may leave out a step or end a run: numbers that are not finite, gradients that leap, and a signal to stop.
- `setup`: the parts of a training run that a loop should not spell out: parameter groups, checkpoints, export, log, meters.
- `starting_weights`: starting from other weights than random ones: which parts of a folder go where, strictly, and which layers stay.
"""

from .arguments import parse_arguments
from .checkpoints import damage, load_checkpoint, save_checkpoint
from .diagnostics import alarms, health
from .finetuning import ClassificationCollator, EpochCallback, layer_wise_groups
from .flops import clip_flops, matmul_rate
from .optimization import ema_momentum, learning_rate, parameter_groups, weight_decay
from .output import export
from .run_guard import RunGuard
from .setup import compile_layers
from .starting_weights import freeze_first_layers, inflate_channels, load_starting_weights

__all__ = [
    "ClassificationCollator",
    "EpochCallback",
    "RunGuard",
    "alarms",
    "clip_flops",
    "compile_layers",
    "damage",
    "ema_momentum",
    "export",
    "freeze_first_layers",
    "health",
    "inflate_channels",
    "layer_wise_groups",
    "learning_rate",
    "load_checkpoint",
    "load_starting_weights",
    "matmul_rate",
    "parameter_groups",
    "parse_arguments",
    "save_checkpoint",
    "weight_decay",
]
