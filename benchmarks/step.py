"""A training step compared with Meta's: time, losses and peak memory, in float32, compiled and in bfloat16.

    python benchmarks/step.py --reference PATH_TO_JEPA --output benchmarks/results/step.md
    python benchmarks/step.py --reference PATH_TO_JEPA --models vit_large --num_clips 24 --num_clips 128   # on a GPU
    python benchmarks/step.py --num_clips 4 --num_frames 64   # how a step grows; without a reference

A page is printed, and written where `--output` says; `--help` lists the options.
"""

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
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate.utils import send_to_device

from programs import backward
from report import Output, commit_of, make_app, opening, processor_name, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining
from vjepa_hf.conversion.meta import to_meta
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler
from vjepa_hf.training import setup as training
from vjepa_hf.training.arguments import OptimizationArguments
from vjepa_hf.training.flops import clip_flops, matmul_rate
from vjepa_hf.training.optimization import hyperparameters, make_optimizer, parameter_groups, set_hyperparameters

# Width, layers and heads, by the names of Meta's code.
MODELS = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
}
# Dense bfloat16 FLOP/s that the vendor states, by the names that CUDA gives.
PEAKS = {"NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}
OPTIMIZATION = OptimizationArguments(max_steps=1000, warmup_steps=0)
GIB = 2**30
Masks = tuple[list[torch.Tensor], list[torch.Tensor]]  # contexts and targets, one per mask type
Step = Callable[[int, Masks], torch.Tensor]  # (number of the step, masks on the device) -> loss
app = make_app()


@dataclass(frozen=True)
class Way:
    """One way to take a step."""

    name: str
    bf16: bool = False
    compiled: bool = False
    is_reference: bool = False


OURS = [Way("fp32"), Way("fp32 compiled", compiled=True), Way("bf16", bf16=True)]
OURS += [Way("bf16 compiled", bf16=True, compiled=True)]


@dataclass(frozen=True)
class Job:
    """Model, clips and device, the same for all ways."""

    model: str
    num_clips: int
    image_size: int
    num_frames: int
    threads: int
    device: str
    reference: Path | None

    @property
    def config(self) -> VJEPAConfig:
        width, layers, heads = MODELS[self.model]
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        return VJEPAConfig(**sizes, image_size=self.image_size, num_frames=self.num_frames)

    def clips(self) -> torch.Tensor:
        """Return noise `(B, T, C, H, W)` on the device."""
        shape = (self.num_clips, self.num_frames, 3, self.image_size, self.image_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.device)

    def masks(self, step: int) -> Masks:
        """Return context and target masks of a step, cut to one length as in Meta's code."""
        sampler = MaskSampler([SHORT_RANGE, LONG_RANGE], self.config.grid_size, seed=0, mode="reference")
        return sampler([(0, step * self.num_clips + clip) for clip in range(self.num_clips)])

    def flops(self, step: int) -> int:
        """Return the FLOPs of a step that the method needs, counted once."""
        lengths = [[mask.shape[1] for mask in masks] for masks in self.masks(step)]
        return self.num_clips * clip_flops(self.config, *lengths).total

    def clock(self) -> float:
        """Return the time; for one CPU thread the CPU time, which other programs do not affect."""
        if self.device != "cpu":
            torch.accelerator.synchronize()
        return time.process_time() if self.device == "cpu" and self.threads == 1 else time.perf_counter()

    def peak_bytes(self) -> int:
        """Return the peak memory of this process, or what PyTorch allocated on the GPU."""
        if self.device != "cpu":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --- the steps -----------------------------------------------------------------------------------------------------


def initial_model(job: Job) -> VJEPAForPreTraining:
    """Return the weights that all ways start from, with a target encoder that differs from the context encoder."""
    torch.manual_seed(0)
    model = VJEPAForPreTraining(job.config)
    with torch.no_grad():
        for parameter in (*model.vjepa.encoder.parameters(), *model.vjepa.predictor.parameters()):
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def our_step(job: Job, way: Way) -> Step:
    """Return a step as `examples/pretrain.py` takes it."""
    model = initial_model(job).to(job.device)
    if way.compiled:
        training.compile_layers(model)
    optimizer, clips = make_optimizer(model, OPTIMIZATION), job.clips()

    def step(index: int, masks: Masks) -> torch.Tensor:
        values = hyperparameters(index, OPTIMIZATION)
        set_hyperparameters(optimizer, values)
        outputs = backward(model, clips, masks, way.bf16)
        optimizer.step()
        optimizer.zero_grad()
        model.update_target_encoder(values["ema_momentum"])
        return torch.stack([output.loss.detach() for output in outputs]).mean()

    return step


def reference_modules(job: Job) -> dict[str, torch.nn.Module]:
    """Return Meta's encoder, predictor and target encoder on the device, with our initial weights."""
    sys.path.insert(0, str(job.reference))
    import src.models.predictor as predictors
    import src.models.vision_transformer as encoders
    from src.models.utils.multimask import MultiMaskWrapper, PredictorMultiMaskWrapper

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
    modules = {"encoder": encoder, "predictor": PredictorMultiMaskWrapper(predictor)}
    modules["target_encoder"] = copy.deepcopy(encoder).requires_grad_(False)
    weights = to_meta(initial_model(job).state_dict())
    for name, module in modules.items():
        module.backbone.load_state_dict(weights[name])
        module.to(job.device)
    return modules


def reference_step(job: Job, way: Way) -> Step:
    """Return a step of Meta's modules with what their loop, `app/vjepa/train.py`, computes in every step."""
    modules = reference_modules(job)
    from src.masks.utils import apply_masks
    from src.utils.logging import adamw_logger, grad_logger

    encoder, predictor, target_encoder = modules.values()
    groups = [group for module in (encoder, predictor) for group in parameter_groups(module)]
    optimizer, clips = torch.optim.AdamW(groups), job.clips().transpose(1, 2)
    scaler = torch.amp.GradScaler(job.device, enabled=way.bf16)

    def losses(context_masks: list, target_masks: list) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            targets = target_encoder(clips)
            targets = torch.nn.functional.layer_norm(targets, targets.shape[-1:])
            targets = apply_masks(targets, target_masks, concat=False)
        predictions = predictor(encoder(clips, context_masks), targets, context_masks, target_masks)
        errors = [torch.mean(torch.abs(p - t) ** 1.0) for p, t in zip(predictions, targets, strict=True)]
        spread = sum(torch.sqrt(p.var(dim=1) + 1e-4) for p in predictions) / len(predictions)
        return sum(errors) / len(errors), torch.mean(torch.relu(1.0 - spread))

    def step(index: int, masks: Masks) -> torch.Tensor:
        values = hyperparameters(index, OPTIMIZATION)
        set_hyperparameters(optimizer, values)
        with torch.autocast(torch.device(job.device).type, torch.bfloat16, enabled=way.bf16):
            loss, regularizer = losses(*masks)
            total = loss + 0.0 * regularizer
        scaler.scale(total).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        grad_logger(encoder.named_parameters())
        grad_logger(predictor.named_parameters())
        optimizer.zero_grad()
        adamw_logger(optimizer)
        with torch.no_grad():
            momentum = values["ema_momentum"]
            for trained, average in zip(encoder.parameters(), target_encoder.parameters(), strict=True):
                average.mul_(momentum).add_((1.0 - momentum) * trained)
        float(regularizer)
        return loss.detach()

    return step


# --- processes -----------------------------------------------------------------------------------------------------


@dataclass
class Record:
    """Measurements of one way; the losses include those of the warm-up, the times do not."""

    way: Way
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: float = 0.0
    out_of_memory: bool = False


def work(job: Job, way: Way, connection: Connection) -> None:
    """Take steps as `take_steps`; if the GPU has too little memory for one, send None and end."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(job.threads)
    torch.randn(8, 8, device=job.device) @ torch.randn(8, 8, device=job.device)
    try:
        take_steps(job, way, connection)
    except torch.OutOfMemoryError:
        connection.send(None)


def take_steps(job: Job, way: Way, connection: Connection) -> None:
    """Take the steps whose numbers arrive and send loss, seconds and peak GiB of each, until None arrives."""
    before = job.peak_bytes()
    step = (reference_step if way.is_reference else our_step)(job, way)
    while (index := connection.recv()) is not None:
        masks = send_to_device(job.masks(index), job.device)  # in a run, the workers of the loader draw them
        began = job.clock()
        loss = step(index, masks)
        seconds = job.clock() - began
        connection.send((loss.item(), seconds, (job.peak_bytes() - before) / GIB))
        if job.device != "cpu":
            torch.cuda.empty_cache()  # room for the process of the next way


def take_turns(job: Job, ways: Sequence[Way], rounds: int) -> tuple[list[Record], dict[bool, float]]:
    """Let the ways, each in a process of its own, take every step in turn; one round warms up.

    Returns:
        The records, and the median matmul throughput in FLOP/s, measured between the rounds: bf16 or not ->
        throughput.
    """
    context, workers, records = multiprocessing.get_context("spawn"), [], [Record(way) for way in ways]
    for way in ways:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(job, way, there), daemon=True)
        process.start()
        workers.append((here, process))
    throughput: dict[bool, list[float]] = {False: [], True: []}
    for index in range(rounds + 1):
        for record, (connection, _) in zip(records, workers, strict=True):
            if record.out_of_memory:
                continue
            connection.send(index)
            answer = connection.recv()
            if answer is None:
                record.out_of_memory = True
                continue
            loss, seconds, record.memory = answer
            record.losses.append(loss)
            record.seconds += [seconds] if index else []
            print(f"{index:3} {record.way.name:15} loss {loss:.6f}, {seconds:.2f} s", file=sys.stderr, flush=True)
        for bf16, values in throughput.items():
            values.append(matmul_rate(job.device, torch.bfloat16 if bf16 else torch.float32, 3, job.clock))
    for record, (connection, process) in zip(records, workers, strict=True):
        if not record.out_of_memory:
            connection.send(None)
        process.join()
    return records, {bf16: statistics.median(values) for bf16, values in throughput.items()}


# --- the page ------------------------------------------------------------------------------------------------------


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Return median and range of `theirs / ours`, round by round."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def rows(job: Job, records: Sequence[Record], throughput: dict[bool, float]) -> Iterator[list[str]]:
    """Yield a row of the table for each way; the first way is what the others are compared with."""
    first = records[0]
    flops = statistics.mean(job.flops(index) for index in range(1, 1 + num_rounds(records)))
    for record in records:
        if record.out_of_memory:
            yield [record.way.name, "out of memory", *[""] * 6]
            continue
        seconds = statistics.median(record.seconds)
        speed, memory, difference = "", "", ""
        if not first.out_of_memory:
            speed, memory = ratio(first.seconds, record.seconds), f"{record.memory / first.memory:.2f}"
            difference = f"{max(abs(a - b) / abs(a) for a, b in zip(first.losses, record.losses, strict=True)):.1e}"
        utilization = f"{flops / seconds / throughput[record.way.bf16]:.0%}"
        if record.way.bf16 and (peak := PEAKS.get(processor_name())):
            utilization += f" ({flops / seconds / peak:.0%} of the peak)"
        times = f"{seconds:.3g}", speed, f"{job.num_clips / seconds:.2f}"
        yield [record.way.name, *times, utilization, f"{record.memory:.2f}", memory, difference]


def num_rounds(records: Sequence[Record]) -> int:
    """Return how many rounds were measured; a way without memory for a step has fewer."""
    return max(len(record.seconds) for record in records)


def section(job: Job, records: Sequence[Record], throughput: dict[bool, float]) -> list[str]:
    """Return the lines about one model."""
    name = records[0].way.name
    header = ["", "s / step", f"{name} / this", "clips / s", "matmul utilization", "GiB", f"GiB / {name}"]
    shape = f"{job.num_clips} clips of {job.num_frames} x {job.image_size} x {job.image_size}"
    matmuls = ", ".join(
        f"{value / 1e9:.0f} GFLOP/s in {'bf16' if bf16 else 'fp32'}" for bf16, value in throughput.items()
    )
    heading = [f"## {job.model}, {shape}", "", f"{num_rounds(records)} rounds; matmuls reach {matmuls}.", ""]
    return [*heading, *table([*header, "loss difference"], rows(job, records, throughput)), ""]


@app.command()
def step(
    reference: Annotated[Path | None, typer.Option(help="checkout of facebookresearch/jepa")] = None,
    models: Annotated[list[str], typer.Option(help=f"one of {', '.join(MODELS)}; repeat")] = ("vit_small", "vit_base"),
    num_clips: Annotated[list[int], typer.Option(help="clips of a step; repeat")] = (2,),
    image_size: Annotated[int, typer.Option(help="height and width of a clip")] = 224,
    num_frames: Annotated[int, typer.Option(help="frames of a clip")] = 16,
    ways: Annotated[list[str], typer.Option(help="ours; repeat")] = [way.name for way in OURS],  # noqa: B006
    rounds: Annotated[int, typer.Option(help="measured steps of each way, after one that warms up")] = 4,
    threads: Annotated[int, typer.Option(help="CPU threads of each process")] = os.cpu_count() or 1,
    output: Output = None,
) -> None:
    """Compare a training step with Meta's.

    Every way runs in a process of its own, from the same weights, on the same noise and the same masks (short-range
    and long-range blocks, cut to one length as in Meta's code). The ways take turns step by step, so that a slower
    moment of the machine affects all of them. A step contains forward and backward passes, AdamW and the moving
    average; Meta's also gathers the statistics that its loop gathers in every step. Ratios are medians over the
    rounds, with their range. Memory is the peak of the process beyond what it held before it built the model, on a
    GPU the peak that PyTorch allocated. "Matmul utilization" divides the FLOPs that the method needs by the time and
    by the throughput of a plain matmul of the same precision, and for GPUs that the script knows also by the bfloat16
    peak that the vendor states. "Loss difference" is the largest relative difference to the first row over all steps.
    On a CPU the reference is float32, because Meta's mixed precision exists for CUDA only. A way that needs more
    memory than the GPU has left says so; the largest batch of a way is the last one that fits.
    """
    if reference and not (reference / "src" / "models" / "vision_transformer.py").exists():
        raise typer.BadParameter(f"--reference {reference} is not a checkout of facebookresearch/jepa")
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = [Way("reference", bf16=device == "cuda", is_reference=True)] if reference else []
    chosen += [way for way in OURS if way.name in ways]
    versions = f"reference {commit_of(reference)}" if reference else "no reference", f"load {os.getloadavg()[0]:.1f}"
    lines = opening("A training step compared with Meta's", "step.py", step.__doc__, *versions)
    for model, clips in itertools.product(models, num_clips):
        job = Job(model, clips, image_size, num_frames, threads, device, reference)
        lines += section(job, *take_turns(job, chosen, rounds))
        publish(lines, output)


if __name__ == "__main__":
    app()
