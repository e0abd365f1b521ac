"""A training step beside that of Meta's code: time, its parts, memory, and the share of what this device can do.

    python benchmarks/train_step.py --reference PATH_TO_JEPA --output benchmarks/results/train_step.md
    python benchmarks/train_step.py --options --num_clips 1 --output benchmarks/results/options.md

Each way to train runs in a process of its own, from the same weights, on the same clips of noise and the same masks
(the published kinds, cut as in Meta's code, other ones in every round). They take turns step by step, between
measurements of the rate of matrix products, so that a slower moment of the machine hits all. A step is what a training
loop does with a batch on the device: forward and backward passes, AdamW, moving average; Meta's also gathers the
statistics that its loop gathers in every step. The ratio of a round is the reference's time over that of the way, in
the same round; the median and quartiles over rounds are shown. "Share of the ceiling" is the counted operations of our
step (vjepa_hf.flops: what the mathematics needs, once) over time and over the measured rate of that arithmetic; "with
recomputed scores" adds what fused attention computes twice. Memory is the peak of the process beyond what it held
before it built the model (on a GPU: the peak that PyTorch allocated). Losses are compared with those of the reference,
step by step. On a CPU every way but bf16 is float32: Meta's mixed precision is for CUDA only. "Packed" ways keep all
tokens, so they do more. With one CPU thread, seconds are those of the processor, which other work does not lengthen.
With --options the ways are those of benchmarks/options.py, beside a plain step of the same arithmetic.
"""

import argparse
import contextlib
import copy
import itertools
import multiprocessing
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device

from options import OPTIONS
from report import commit_of, opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining
from vjepa_hf.conversion.meta import to_meta
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler
from vjepa_hf.training import setup as training
from vjepa_hf.training.arguments import OptimizationArguments
from vjepa_hf.training.flops import ClipFlops, clip_flops, matmul_rate
from vjepa_hf.training.optimization import hyperparameters, make_optimizer, parameter_groups, set_hyperparameters

# Width, layers and heads, by the names of Meta's code.
MODELS = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
}
OPTIMIZATION = OptimizationArguments(max_steps=1000, warmup_steps=0)
PARTS = ("target", "context", "predictor", "backward", "optimizer", "average", "statistics")


@dataclass(frozen=True)
class Way:
    """One way to take a step."""

    name: str
    bf16: bool = False
    compiled: bool = False
    mask_mode: str = "reference"
    option: str = ""

    @property
    def is_reference(self) -> bool:
        return self.name.startswith("reference")

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.bf16 else torch.float32


def ways(on_gpu: bool) -> list[Way]:
    """Every way that is measured. Meta's mixed precision exists on CUDA only, so a CPU has one reference."""
    ours = [Way("fp32"), Way("fp32 compiled", compiled=True), Way("bf16", bf16=True)]
    ours.append(Way("bf16 compiled", bf16=True, compiled=True))
    ours += [Way("fp32 packed", mask_mode="packed"), Way("bf16 packed", bf16=True, mask_mode="packed")]
    return [Way("reference", bf16=on_gpu), *([Way("reference fp32")] if on_gpu else []), *ours]


def ways_with_options(device: str, bf16: bool) -> list[Way]:
    """A plain step, one of compiled layers, and one with every option that is for this arithmetic and device."""
    name = "bf16" if bf16 else "fp32"
    options = {key: option for key, option in OPTIONS.items() if option.is_for(device, bf16)}
    plain = [Way(name, bf16=bf16), Way(f"{name} compiled", bf16=bf16, compiled=True)]
    return plain + [Way(key, bf16=bf16, compiled=option.compiled, option=key) for key, option in options.items()]


@dataclass(frozen=True)
class Job:
    """What all ways do alike."""

    model: str
    num_clips: int
    image_size: int
    num_frames: int
    threads: int
    device: str
    reference: Path | None

    @property
    def clock(self) -> Callable[[], float]:
        """CPU time of one thread is the same whatever else the machine does; otherwise the time on the wall."""
        return time.process_time if self.device == "cpu" and self.threads == 1 else time.perf_counter

    @property
    def config(self) -> VJEPAConfig:
        width, layers, heads = MODELS[self.model]
        return VJEPAConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            image_size=self.image_size,
            num_frames=self.num_frames,
        )

    def clips(self) -> torch.Tensor:
        """Noise `(B, T, C, H, W)`."""
        shape = (self.num_clips, self.num_frames, 3, self.image_size, self.image_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.device)

    def masks(self, step: int, way: Way) -> tuple[list, list]:
        """Context and target masks of a step."""
        sampler = MaskSampler([SHORT_RANGE, LONG_RANGE], self.config.grid_size, seed=0, mode=way.mask_mode)
        return sampler([(0, step * self.num_clips + clip) for clip in range(self.num_clips)])

    def flops(self, step: int, way: Way) -> list[ClipFlops]:
        """Operations of every clip of a step."""
        lengths = [[[len(clip) for clip in kind] for kind in masks] for masks in self.masks(step, way)]
        return [
            clip_flops(self.config, *([kind[clip] for kind in k] for k in lengths)) for clip in range(self.num_clips)
        ]

    def tokens(self, step: int, way: Way) -> tuple[float, float]:
        """Context and target tokens of a clip, over all mask kinds, mean over the clips of a step."""
        context, target = self.masks(step, way)
        return tuple(sum(len(clip) for kind in k for clip in kind) / self.num_clips for k in (context, target))


# --- the steps -----------------------------------------------------------------------------------------------------


class Stopwatch:
    """Seconds of the parts of a step. On a GPU it waits at every part, so parts are timed in rounds of their own."""

    def __init__(self, job: "Job") -> None:
        self.device, self.clock = job.device, job.clock
        self.seconds: dict[str, float] = {}
        self.on = True

    @contextlib.contextmanager
    def time(self, part: str) -> Iterator[None]:
        began = self.now()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + self.now() - began

    def now(self) -> float:
        if self.on and self.device != "cpu":
            torch.accelerator.synchronize()
        return self.clock()

    def watch_method(self, owner: object, name: str, part: str) -> None:
        """Time every call of a method."""
        method = getattr(owner, name)

        def timed(*args: Any) -> Any:
            with self.time(part):
                return method(*args)

        setattr(owner, name, timed)

    def watch(self, module: torch.nn.Module, part: str) -> None:
        """Time every forward pass of a module."""
        began = []
        module.register_forward_pre_hook(lambda *_: began.append(self.now()))
        add = self.seconds
        module.register_forward_hook(lambda *_: add.update({part: add.get(part, 0.0) + self.now() - began.pop()}))


def our_step(job: Job, way: Way, watch: Stopwatch) -> Callable[[int], torch.Tensor]:
    """A step as `examples/pretrain.py` takes it."""
    model = our_model(job).to(job.device)
    if way.option:
        OPTIONS[way.option].apply(model)
    elif way.compiled:
        training.compile_layers(model)
    optimizer = make_optimizer(model, OPTIMIZATION)
    clips = job.clips()
    if model._compiled_call_impl is None:  # one graph has no parts
        watch.watch_method(model, "encode_targets", "target")
        watch.watch(model.context_encoder, "context")
        watch.watch(model.vjepa.predictor, "predictor")

    def step(index: int) -> torch.Tensor:
        values = hyperparameters(index, OPTIMIZATION)
        set_hyperparameters(optimizer, values)
        masks = send_to_device(job.masks(index, way), job.device)
        with torch.autocast(torch.device(job.device).type, torch.bfloat16, enabled=way.bf16):
            loss = model(clips, *masks).loss
        with watch.time("backward"):
            loss.backward()
        with watch.time("optimizer"):
            optimizer.step()
            optimizer.zero_grad()
        with watch.time("average"):
            model.update_target_encoder(values["ema_momentum"])
        return loss.detach()

    return step


def our_model(job: Job) -> VJEPAForPreTraining:
    """The weights that all ways start from; the target encoder differs a little: equal ones are a special case."""
    torch.manual_seed(0)
    model = VJEPAForPreTraining(job.config)
    with torch.no_grad():
        for parameter in (*model.vjepa.encoder.parameters(), *model.vjepa.predictor.parameters()):
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def reference_step(job: Job, way: Way, watch: Stopwatch) -> Callable[[int], torch.Tensor]:
    """A step of Meta's modules, in the order and with the statistics of the loop of their `app/vjepa/train.py`."""
    sys.path.insert(0, str(job.reference))
    import src.models.predictor as predictors
    import src.models.vision_transformer as encoders
    from src.masks.utils import apply_masks
    from src.models.utils.multimask import MultiMaskWrapper, PredictorMultiMaskWrapper
    from src.utils.logging import adamw_logger, grad_logger

    config = job.config
    shared = {"img_size": job.image_size, "num_frames": job.num_frames, "tubelet_size": 2, "uniform_power": True}
    encoder = MultiMaskWrapper(getattr(encoders, job.model)(**shared))
    predictor = predictors.vit_predictor(
        embed_dim=config.hidden_size,
        predictor_embed_dim=config.pred_hidden_size,
        depth=config.pred_num_hidden_layers,
        num_heads=config.num_attention_heads,
        use_mask_tokens=True,
        **shared,
    )
    predictor = PredictorMultiMaskWrapper(predictor)
    target_encoder = copy.deepcopy(encoder).requires_grad_(False)
    weights = to_meta(our_model(job).state_dict())
    for part, module in (("encoder", encoder), ("predictor", predictor), ("target_encoder", target_encoder)):
        module.backbone.load_state_dict(weights[part])
        module.to(job.device)
        watch.watch(module, {"encoder": "context", "target_encoder": "target"}.get(part, part))
    groups = [group for module in (encoder, predictor) for group in parameter_groups(module)]
    optimizer = torch.optim.AdamW(groups, eps=OPTIMIZATION.adam_epsilon)
    clips = job.clips().transpose(1, 2)
    on_gpu = job.device != "cpu"
    scaler = torch.amp.GradScaler(job.device, enabled=way.bf16)

    def step(index: int) -> torch.Tensor:
        values = hyperparameters(index, OPTIMIZATION)
        set_hyperparameters(optimizer, values)
        context_masks, target_masks = send_to_device(job.masks(index, way), job.device)
        with torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16, enabled=way.bf16):
            with torch.no_grad():
                targets = target_encoder(clips)
                targets = torch.nn.functional.layer_norm(targets, targets.shape[-1:])
                targets = apply_masks(targets, target_masks, concat=False)
            predictions = predictor(encoder(clips, context_masks), targets, context_masks, target_masks)
            pairs = list(zip(predictions, targets, strict=True))
            loss = sum(torch.mean(torch.abs(p - t) ** 1.0) for p, t in pairs) / len(pairs)
            with watch.time("statistics"):
                spread = sum(torch.sqrt(p.var(dim=1) + 0.0001) for p in predictions) / len(predictions)
                regularizer = torch.mean(torch.relu(1.0 - spread))
            total = loss + 0.0 * regularizer
        with watch.time("backward"):
            scaler.scale(total).backward()
            scaler.unscale_(optimizer)
        with watch.time("optimizer"):
            scaler.step(optimizer)
            scaler.update()
        with watch.time("statistics"):
            grad_logger(encoder.named_parameters())
            grad_logger(predictor.named_parameters())
        with watch.time("optimizer"):
            optimizer.zero_grad()
        with watch.time("statistics"):
            adamw_logger(optimizer)
        with watch.time("average"), torch.no_grad():
            momentum = values["ema_momentum"]
            for trained, average in zip(encoder.parameters(), target_encoder.parameters(), strict=True):
                average.mul_(momentum).add_((1.0 - momentum) * trained)
        with watch.time("statistics"):
            float(loss), float(regularizer)
        return loss.detach()

    return step


# --- processes -----------------------------------------------------------------------------------------------------


def work(job: Job, way: Way, connection: Any) -> None:
    """Take the steps that are asked for and tell loss, seconds, seconds of the parts, memory and compiled graphs."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(job.threads)
    watch = Stopwatch(job)
    torch.randn(8, 8, device=job.device) @ torch.randn(8, 8, device=job.device)
    before = peak_gib(job.device)
    step = (reference_step if way.is_reference else our_step)(job, way, watch)
    while (order := connection.recv()) is not None:
        index, watch.on = order
        watch.seconds.clear()
        wait(job.device)
        began = job.clock()
        loss = step(index)
        wait(job.device)
        seconds = job.clock() - began
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] if way.compiled else 0
        memory = peak_gib(job.device) - before
        connection.send((loss.item(), seconds, dict(watch.seconds), memory, graphs))
        if job.device != "cpu" and not watch.on:
            torch.cuda.empty_cache()  # room for the next way; the step that counts is the second of a turn


def wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def peak_gib(device: str) -> float:
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@dataclass
class Record:
    """What one way did: losses and compiled graphs of all steps; times of those after the warm-up."""

    way: Way
    losses: list[float]
    seconds: list[float]
    parts: list[dict[str, float]]
    memory: float
    graphs: list[int]


def take_turns(
    job: Job, chosen: Sequence[Way], rounds: int, warmup: int
) -> Iterator[tuple[list[Record], dict[torch.dtype, list[float]], range]]:
    """Let every way take each step in turn; after a round: all records, rates of matrix products, numbers of steps."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for way in chosen:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(job, way, there), daemon=True)
        process.start()
        workers.append((way, here, process))
    records = [Record(way, [], [], [], 0.0, []) for way in chosen]
    rates: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for index in range(-warmup, rounds):
        for record, (way, connection, _) in zip(records, workers, strict=True):
            connection.send((index + warmup, True))
            loss, seconds, parts, record.memory, graphs = connection.recv()
            record.losses.append(loss)
            record.graphs.append(graphs)
            print(f"{index:3} {way.name:15} loss {loss:.6f}, {seconds:.2f} s", file=sys.stderr, flush=True)
            if job.device != "cpu":  # without the waits between the parts
                connection.send((index + warmup, False))
                _, seconds, _, record.memory, _ = connection.recv()
            if index < 0:
                continue
            record.parts.append(parts)
            record.seconds.append(seconds)
            for dtype in rates:
                rates[dtype].append(matmul_rate(job.device, dtype, 3, job.clock))
        if index >= 0:
            yield records, rates, range(warmup, warmup + index + 1)
    for _, connection, process in workers:
        connection.send(None)
        process.join()


# --- the page ------------------------------------------------------------------------------------------------------


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    places = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return tuple(torch.tensor(list(values), dtype=torch.float64).quantile(places).tolist())


def figures(job: Job, records: Sequence[Record], rates: dict, steps: range) -> list[str]:
    """The tables of one model."""
    first = records[0]
    ceilings = {dtype: statistics.median(values) for dtype, values in rates.items()}
    rows = []
    for record in records:
        low, middle, high = quartiles(a / b for a, b in zip(first.seconds, record.seconds, strict=True))
        seconds = statistics.median(record.seconds)
        flops = [clip for step in steps for clip in job.flops(step, record.way)]
        needed = sum(clip.total for clip in flops) / len(steps)
        spent = needed + sum(clip.attention for clip in flops) / 2 / len(steps)
        context, target = (
            statistics.mean(k) for k in zip(*(job.tokens(step, record.way) for step in steps), strict=True)
        )
        share = needed / seconds / ceilings[record.way.dtype]
        other_masks = record.way.mask_mode != first.way.mask_mode
        apart = max(abs(a - b) / abs(a) for a, b in zip(first.losses, record.losses, strict=True))
        rows.append([
            record.way.name, f"{seconds:.2f}", f"{middle:.2f} ({low:.2f} to {high:.2f})",
            f"{job.num_clips / seconds:.2f}", f"{share:.0%}", f"{share * spent / needed:.0%}",
            f"{context:.0f} + {target:.0f}", f"{record.memory:.2f}", f"{record.memory / first.memory:.2f}",
            "other masks" if other_masks else f"{apart:.1e}",
            f"{record.graphs[0]} + {record.graphs[-1] - record.graphs[0]}" if record.way.compiled else "",
        ])  # fmt: skip
    header = [
        "way", "s / step", f"{first.way.name} / way", "clips / s", "share of the ceiling", "with recomputed scores",
        "context + target tokens a clip", "GiB", "GiB / first", "loss apart", "graphs: first step + later",
    ]  # fmt: skip
    parts = [part for part in PARTS if any(part in p for record in records for p in record.parts)]
    by_part = [
        [r.way.name, *(f"{statistics.median(p.get(part, 0.0) for p in r.parts):.2f}" for part in parts)]
        for r in records
    ]
    counted = job.flops(steps[0], first.way)[0]
    return [
        f"## {job.model}, {job.num_clips} clip(s) of {job.num_frames} x {job.image_size} x {job.image_size}, beside "
        f"{first.way.name}",
        "",
        f"{len(first.seconds)} rounds. Matrix products, median: fp32 {ceilings[torch.float32] / 1e9:.0f} GFLOP/s, "
        f"bf16 {ceilings[torch.bfloat16] / 1e9:.0f} GFLOP/s. A clip of the first round takes "
        f"{counted.total / 1e9:.0f} GFLOP: target {counted.target / 1e9:.0f}, context {counted.context / 1e9:.0f}, "
        f"predictor {counted.predictor / 1e9:.0f}, backward {counted.backward / 1e9:.0f}.",
        "",
        *table(header, rows),
        "",
        "Seconds by part, medians:",
        "",
        *table(["way", *parts], by_part),
        "",
    ]


def main() -> None:
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of facebookresearch/jepa; without it only our ways")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["vit_small"])
    parser.add_argument("--ways", nargs="+", help="only these of ours, such as fp32 or 'bf16 compiled'")
    parser.add_argument("--options", action="store_true", help="ways of benchmarks/options.py, without a reference")
    parser.add_argument("--num_clips", type=int, default=2)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--num_frames", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1, help="rounds in front that do not count")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    if options.reference and not (options.reference / "src" / "models" / "vision_transformer.py").exists():
        parser.error(f"--reference {options.reference} is no checkout of facebookresearch/jepa")
    torch.set_num_threads(options.threads)
    on_gpu = options.device != "cpu"
    if options.options:
        options.reference = None
        groups = [ways_with_options(options.device, bf16) for bf16 in ([True] if on_gpu else [False, True])]
    else:
        groups = [[way for way in ways(on_gpu) if not way.is_reference or options.reference]]
    if options.ways:
        groups = [[way for way in group if way.is_reference or way.name in options.ways] for group in groups]
    settings = (options.num_clips, options.image_size, options.num_frames, options.threads, options.device)
    reference = f"reference {commit_of(options.reference)}" if options.reference else "no reference"
    lines = opening(
        "A training step beside Meta's code", __file__, __doc__, reference, f"load {os.getloadavg()[0]:.1f}"
    )
    for model, chosen in itertools.product(options.models, filter(None, groups)):
        job = Job(model, *settings, options.reference)
        for measured in take_turns(job, chosen, options.rounds, options.warmup):
            page = figures(job, *measured)
            publish([*lines, *page], options.output)
        lines += page


if __name__ == "__main__":
    main()
