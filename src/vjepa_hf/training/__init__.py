"""Training: arguments, optimization, checkpoints, log and health of a run.

- `arguments`: arguments from YAML and the command line
- `checkpoints`: write checkpoints atomically, load only undamaged ones
- `data_identity`: what the data of a run is, to notice a change
- `diagnostics`: health metrics, and alarms that distinguish learning from collapse
- `finetuning`: batches and parameter groups for fine-tuning with the Trainer
- `flops`: FLOPs of a step, matmul throughput of a device
- `hub`: repository of a run on the Hub, code for `trust_remote_code`, download of a run to resume it
- `launcher`: what a launcher asks for, followed or refused
- `log`: log, throughput and memory of a run
- `optimization`: parameter groups, schedules, gradient clipping
- `output`: output folder of a run: lock, create, resume, export
- `run_guard`: skip steps with NaN, inf or exploding gradients, stop on signals
- `setup`: model, processor and loader of a run
- `sharing`: model card of a pretraining run, and when it is uploaded
- `starting_weights`: initial weights from a saved model, frozen layers
"""

from .arguments import parse_arguments
from .checkpoints import damage, load_checkpoint, save_checkpoint
from .diagnostics import alarms, health
from .finetuning import ClassificationCollator, EpochCallback, layer_wise_groups
from .flops import clip_flops, matmul_rate
from .optimization import ema_momentum, learning_rate, parameter_groups, weight_decay
from .output import export
from .run_guard import RunGuard
from .setup import checkpoint_activations, compile_layers
from .starting_weights import freeze_first_layers, inflate_channels, load_starting_weights

__all__ = [
    "ClassificationCollator",
    "EpochCallback",
    "RunGuard",
    "alarms",
    "checkpoint_activations",
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
