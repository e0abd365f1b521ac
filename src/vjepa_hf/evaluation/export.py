"""Export encoders and classifiers to one file, and compare its outputs with those of the eager model.

- `onnx` runs in ONNX Runtime, without PyTorch. `int8` quantizes weights and activations (dynamic quantization).
- `torch-export` runs in PyTorch alone. `int8` quantizes weights, which are converted to float32 when they are used.
"""

import copy
import importlib.util
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ..data.videos import VideoFailure
from ..files import named_damage
from ..model.configuration_vjepa import VJEPAConfig
from ..model.modeling_vjepa import VJEPAForVideoClassification, VJEPAModel, average_views
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from ..model_card import read_origin
from .views import RegularClips, ViewDataset

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
# (format, int8) -> packages that an export needs; the extra `export` installs them.
PACKAGES = {
    ("onnx", False): ("onnx", "onnxscript", "onnxruntime"),
    ("onnx", True): ("onnx", "onnxscript", "onnxruntime"),
    ("torch-export", False): (),
    ("torch-export", True): ("torchao",),
}
INPUT = "pixel_values_videos"
METADATA = "vjepa_hf"  # key of the JSON text with class names and normalization in an exported file

# Bounds of the mean absolute difference, in standard deviations of the eager outputs. Rounding of float32 gives up to
# 2e-6 with 32 layers; the tanh approximation in place of GELU gives 2e-5 with 4 layers, and 2e-4 with 24.
FLOAT_DRIFT = 1e-5
# Rounding to 8 bits gives 3e-3 with 4 layers. At 0.1, features still have a cosine of 0.99 with those of the model.
INT8_DRIFT = 0.1
# Lowest fraction of videos with the same class, so that accuracy changes by at most one percentage point.
AGREEMENT = 0.99

# A protobuf file is smaller than 2 GiB. The graph takes a few MiB, the weights of larger models get their own file.
ONNX_WEIGHT_BYTES = 2**31 - 2**26

Exportable = VJEPAModel | VJEPAForVideoClassification
Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Drift:
    """Differences of an exported file from the eager model, on real clips.

    Attributes:
        num_videos: compared videos.
        mean_difference: mean absolute difference, in standard deviations of the eager outputs.
        max_difference: maximum absolute difference, in the same unit.
        agreement: fraction of videos with the same most likely class; None for an encoder.
        eager_ms: median time of the eager model per clip, in milliseconds.
        exported_ms: the same of the exported file.
    """

    num_videos: int
    mean_difference: float
    max_difference: float
    agreement: float | None
    eager_ms: float
    exported_ms: float

    def table(self, output: str, threads: int) -> str:
        """Return the printed report; `output` names what was compared."""
        rows = [
            (f"mean difference of {output}", f"{self.mean_difference:.2e} standard deviations"),
            (f"max difference of {output}", f"{self.max_difference:.2e} standard deviations"),
        ]
        if self.agreement is not None:
            same = round(self.agreement * self.num_videos)
            rows.append(("top-1 agreement", f"{self.agreement:.2%} ({same} of {self.num_videos} videos)"))
        rows.append(("eager latency", f"{self.eager_ms:.1f} ms per clip, {threads} CPU threads"))
        rows.append(("exported latency", f"{self.exported_ms:.1f} ms per clip, {threads} CPU threads"))
        return "\n".join(f"{name:<30}{value}" for name, value in [("videos", str(self.num_videos)), *rows])

    def check(self, int8: bool) -> None:
        """Check the bounds.

        Raises:
            ValueError: the outputs differ by more than the bound, or too many videos change their class.
        """
        bound = INT8_DRIFT if int8 else FLOAT_DRIFT
        advice = "export without int8" if int8 else "export with another version of torch"
        if not self.mean_difference <= bound:  # also NaN
            raise ValueError(
                f"the exported model drifts by {self.mean_difference:.2e} standard deviations on average, but at most "
                f"{bound:.0e} is allowed, so no file was written; {advice}."
            )
        if self.agreement is not None and self.agreement < AGREEMENT:
            raise ValueError(
                f"the exported model agrees with the eager one on {self.agreement:.1%} of {self.num_videos} videos, "
                f"but at least {AGREEMENT:.0%} is required, so no file was written; {advice}, or compare more videos."
            )


class SingleOutput(torch.nn.Module):
    """A model from clips to one tensor: features `(B, N, D)` of an encoder, logits `(B, L)` of a classifier."""

    def __init__(self, model: Exportable) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values_videos, return_dict=False)[0]


# --- before the export ---------------------------------------------------------------------------------------------


def check_format(to: str, int8: bool) -> None:
    """Check that a format exists and that its packages are installed.

    Raises:
        ValueError: the format is unknown, or a package is missing.
    """
    if to not in SUFFIXES:
        raise ValueError(f"format {to!r} must be one of {', '.join(SUFFIXES)}")
    missing = [package for package in PACKAGES[to, int8] if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(
            f"this export needs {', '.join(missing)}: pip install 'vjepa_hf[export]' or the package itself"
        )


def load_exportable(folder: str) -> tuple[Exportable, VJEPAVideoProcessor]:
    """Load the classifier of a folder, or else its encoder, in float32 on the CPU, and its processor.

    Raises:
        OSError: the model does not exist.
        ValueError: the model is damaged, or detects actions.
    """
    with named_damage(folder):
        processor = VJEPAVideoProcessor.from_pretrained(folder)
        architecture = (VJEPAConfig.from_pretrained(folder).architectures or ["VJEPAModel"])[0]
        if architecture == "VJEPAForActionDetection":
            raise ValueError(f"{folder} detects actions in boxes, which cannot be exported; give another model")
        if architecture == "VJEPAForVideoClassification":
            return VJEPAForVideoClassification.from_pretrained(folder, dtype=torch.float32).eval(), processor
        return VJEPAModel.from_pretrained(folder, dtype=torch.float32, add_predictor=False).eval(), processor


def model_inputs(model: Exportable, clips: torch.Tensor) -> torch.Tensor:
    """Group the clips `(V, T, C, H, W)` of a video: `(V / P, P, T, C, H, W)` if a classifier pools P > 1 clips."""
    num_clips = model.config.pooler_num_clips if isinstance(model, VJEPAForVideoClassification) else 1
    return clips.unflatten(0, (-1, num_clips)) if num_clips > 1 else clips


def readable_inputs(
    model: Exportable, processor: VJEPAVideoProcessor, videos: Sequence[Any]
) -> Iterator[torch.Tensor]:
    """Yield the inputs of each readable video, see `model_inputs`."""
    views = ViewDataset(videos, RegularClips(processor))
    for row in range(len(views)):
        _, clips = views[row]
        if not isinstance(clips, VideoFailure):
            yield model_inputs(model, clips)


def linear_layers(model: torch.nn.Module) -> int:
    """Count the linear layers, which int8 must quantize."""
    return sum(isinstance(module, torch.nn.Linear) for module in model.modules())


@contextmanager
def weights_file(output: Path) -> Iterator[None]:
    """Delete `NAME.data`, the weights of a large ONNX file, if the block fails.

    Raises:
        ValueError: the file exists before the block.
    """
    data = output.with_name(f"{output.name}.data")
    if data.exists():
        raise ValueError(f"{data} exists, and may be the weights of {output}; delete it or choose another name")
    try:
        yield
    except BaseException:
        data.unlink(missing_ok=True)
        raise


# --- the file ------------------------------------------------------------------------------------------------------


def write_exported(
    model: Exportable, processor: VJEPAVideoProcessor, inputs: torch.Tensor, path: Path, name: str, to: str, int8: bool
) -> int:
    """Write an exported model for any batch size, and return the number of layers in int8.

    Args:
        model: encoder without predictor, or classifier, in float32; it is not changed.
        processor: its normalization is stored in the file.
        inputs: clips of one video, see `model_inputs`; all but their number is fixed.
        path: file to write.
        name: final name of `path`; ONNX weights of more than 2 GiB go to `NAME.data` in its folder.
        to: `onnx` or `torch-export`.
        int8: whether to quantize every linear layer.

    Raises:
        ValueError: a linear layer was not quantized.
    """
    metadata = json.dumps(about(model, processor))
    num_linear = linear_layers(model)
    num_int8 = 0
    if int8 and to == "torch-export":
        model = copy.deepcopy(model)
        num_int8 = _quantize_weights(model)
    example = inputs[:1].expand(2, *inputs.shape[1:]).contiguous()  # one clip would fix the batch size
    with torch.no_grad():
        program = torch.export.export(
            SingleOutput(model), (example,), dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}}
        )
    if to == "torch-export":
        with path.open("wb") as file:
            torch.export.save(program, file, extra_files={METADATA: metadata})
    else:
        num_int8 = _write_onnx(program, path, name, int8, metadata)
    if int8 and num_int8 < num_linear:
        raise ValueError(f"only {num_int8} of {num_linear} linear layers are in int8; export without int8.")
    return num_int8


def about(model: Exportable, processor: VJEPAVideoProcessor) -> dict[str, Any]:
    """Return what users of the file need: class names (None for an encoder), license, frames and normalization."""
    labels: Any = model.config.id2label
    names = list(labels.values()) if isinstance(model, VJEPAForVideoClassification) else None
    fields = ("num_frames", "frame_step", "fps", "image_mean", "image_std")
    license = read_origin(model.name_or_path or None).license
    return {"labels": names, "license": license} | {field: getattr(processor, field) for field in fields}


def _quantize_weights(model: torch.nn.Module) -> int:
    """Quantize the weights of all linear layers to int8, one scale per row, and return the number of layers."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    from torchao.utils import unwrap_tensor_subclass

    weights = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    quantize_(model, Int8WeightOnlyConfig())
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    changed = sum(type(layer.weight) is not type(old) for layer, old in zip(layers, weights, strict=True))
    unwrap_tensor_subclass(model)  # plain tensors, so that the file loads without torchao
    return changed


def _write_onnx(program: torch.export.ExportedProgram, path: Path, name: str, int8: bool, metadata: str) -> int:
    """Write an ONNX file and return the number of integer matmuls."""
    import onnx
    import onnx_ir

    exported = torch.onnx.export(program, (), dynamo=True, verbose=False, input_names=[INPUT], output_names=["output"])
    assert exported is not None  # with dynamo=True
    exported.model.metadata_props[METADATA] = metadata
    num_bytes = sum(weight.numel() * weight.element_size() for weight in program.state_dict.values())
    if not int8 and num_bytes <= ONNX_WEIGHT_BYTES:
        onnx_ir.save(exported.model, path)
    elif not int8:
        onnx_ir.save(exported.model, path, external_data=f"{name}.data")
    else:
        # The exporter has optimized the graph; without this mark ONNX Runtime would advise to.
        exported.model.metadata_props["onnx.quant.pre_process"] = "onnxruntime.quant"
        with TemporaryDirectory(dir=path.parent) as folder:
            onnx_ir.save(exported.model, Path(folder, "float.onnx"), external_data="float.onnx.data")
            _quantize_onnx(Path(folder, "float.onnx"), path)
    graph = onnx.load(path, load_external_data=False).graph
    return sum(node.op_type == "MatMulInteger" for node in graph.node)


def _quantize_onnx(source: Path, path: Path) -> None:
    """Quantize the matmuls with constant weights, one scale per output.

    7 bits are used: products of 8 bits overflow on CPUs without VNNI, and the outputs would depend on the machine.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )


def open_exported(path: Path, to: str) -> Run:
    """Load an exported file as a function from clips to outputs; it uses as many threads as PyTorch."""
    if to == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda clips: session.run(None, {INPUT: clips})[0]
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda clips: module(torch.from_numpy(clips)).detach().numpy()


def run_lines(path: Path, to: str, inputs: torch.Tensor, labels: Sequence[str] | None) -> str:
    """Return a program that runs an exported file, without this package, and without PyTorch if it is ONNX."""
    *lead, num_channels, height, width = inputs.shape[1:]
    shape = (1, *lead, height, width, num_channels)
    output = "features" if labels is None else "logits"
    if to == "onnx":
        imports = "import json\n\nimport numpy as np\nimport onnxruntime\n"
        load = (
            f"session = onnxruntime.InferenceSession({json.dumps(str(path))})\n"
            f'about = json.loads(session.get_modelmeta().custom_metadata_map["{METADATA}"])'
        )
        call = f'{output} = session.run(None, {{"{INPUT}": pixels}})[0]'
    else:
        imports = "import json\n\nimport numpy as np\nimport torch\n"
        load = (
            f'extra_files = {{"{METADATA}": ""}}\n'
            f"model = torch.export.load({json.dumps(str(path))}, extra_files=extra_files).module()\n"
            f'about = json.loads(extra_files["{METADATA}"])'
        )
        call = f"{output} = model(torch.from_numpy(pixels)).detach().numpy()"
    show = f"print({output}.shape)"
    if labels is not None:
        show = f'print([about["labels"][row.argmax()] for row in {output}])'
    return "\n".join(
        (
            imports,
            load,
            f"frames = np.zeros({shape}, np.uint8)  # any number of clips of RGB frames of this size",
            'pixels = (frames / 255 - about["image_mean"]) / about["image_std"]',
            "pixels = np.moveaxis(pixels, -1, -3).astype(np.float32)  # channels before height and width",
            call,
            show,
        )
    )


# --- the comparison ------------------------------------------------------------------------------------------------


@torch.inference_mode()
def measure_drift(model: Exportable, run: Run, videos: Iterable[torch.Tensor]) -> Drift:
    """Compare an exported file with the eager model, video by video, and last on a batch of several videos.

    Args:
        model: eager model in float32.
        run: see `open_exported`.
        videos: clips of each video, see `model_inputs`.

    Raises:
        ValueError: there is no video.
    """
    eager, differences, times, same = SingleOutput(model), _Differences(), [], []
    batch: list[torch.Tensor] = []
    for inputs in videos:
        start = time.perf_counter()
        expected = eager(inputs).numpy()
        between = time.perf_counter()
        found = run(inputs.numpy())
        times.append(np.array([between - start, time.perf_counter() - between]) / len(inputs))
        differences.add(found, expected)
        if isinstance(model, VJEPAForVideoClassification):
            same.append(_top_1(found, model.config) == _top_1(expected, model.config))
        batch = [*batch, inputs][-3:]
    if not times:
        raise ValueError("there is no readable video to compare the outputs on; give other videos")
    together = torch.cat(batch)
    differences.add(run(together.numpy()), eager(together).numpy())
    eager_ms, exported_ms = 1000 * np.median(times[1:] or times, axis=0)  # the first one also allocates memory
    return Drift(
        num_videos=len(times),
        mean_difference=differences.mean,
        max_difference=differences.maximum,
        agreement=float(np.mean(same)) if same else None,
        eager_ms=float(eager_ms),
        exported_ms=float(exported_ms),
    )


def _top_1(logits: np.ndarray, config: VJEPAConfig) -> int:
    """Return the most likely class of a video with logits `(V, L)` of its views."""
    return int(average_views(torch.from_numpy(logits)[None], config.problem_type).argmax())


class _Differences:
    """Running mean and maximum of absolute differences, in standard deviations of the expected values."""

    def __init__(self) -> None:
        self.count, self.total, self.squares, self.differences, self.highest = 0, 0.0, 0.0, 0.0, 0.0

    def add(self, found: np.ndarray, expected: np.ndarray) -> None:
        expected = expected.astype(np.float64)
        difference = np.abs(found - expected)
        self.count += expected.size
        self.total += expected.sum()
        self.squares += np.square(expected).sum()
        self.differences += difference.sum()
        self.highest = float(np.maximum(self.highest, difference.max()))  # keeps NaN

    @property
    def deviation(self) -> float:
        return float(np.sqrt(max(self.squares / self.count - (self.total / self.count) ** 2, np.finfo(float).tiny)))

    @property
    def mean(self) -> float:
        return float(self.differences / self.count / self.deviation)

    @property
    def maximum(self) -> float:
        return self.highest / self.deviation
