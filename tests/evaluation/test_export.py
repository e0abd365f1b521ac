"""Exported files: the outputs of the eager model for any batch, bounds of their drift, and int8 in every linear layer.

pytest tests/evaluation/test_export.py; the extra `export`, and bitsandbytes, make all tests run.
"""

import copy
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tiny_models import seeded
from vjepa_hf import VJEPAConfig, VJEPAForActionDetection, VJEPAForVideoClassification, VJEPAModel, cli
from vjepa_hf.evaluation import export
from vjepa_hf.evaluation.export import (
    FLOAT_DRIFT,
    Drift,
    SingleOutput,
    check_format,
    linear_layers,
    load_exportable,
    measure_drift,
    model_inputs,
    open_exported,
    readable_inputs,
    run_lines,
    weights_file,
    write_exported,
)

ONNX = ("onnx", "onnxscript", "onnxruntime")


def needs(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


FORMATS = [pytest.param("torch-export"), pytest.param("onnx", marks=needs(*ONNX))]
INT8_FORMATS = [pytest.param("torch-export", marks=needs("torchao")), pytest.param("onnx", marks=needs(*ONNX))]


def make_model(kind, config):
    config.num_labels = 3
    if kind == "rotary encoder":
        config = VJEPAConfig(**config.to_diff_dict() | {"position_embedding_type": "rope"})
    if "encoder" in kind:
        model = seeded(VJEPAModel, config)
        model.predictor = None
        return model
    config.pooler_num_clips = {"classifier": 1, "two clips": 2}[kind]
    return seeded(VJEPAForVideoClassification, config)


def clips(model, num_videos):
    generator = torch.Generator().manual_seed(num_videos)
    num_clips = getattr(model.config, "pooler_num_clips", 1)
    pixels = torch.randn(num_videos * num_clips, 4, 3, 32, 32, generator=generator)
    return model_inputs(model, pixels)


def write(model, processor, path, to, int8=False, name=None):
    return write_exported(model, processor, clips(model, 1), path, name or path.name, to, int8)


def outputs_of(model, add=lambda inputs: 0):
    """A model as the function of an exported file, with something added to its outputs."""
    return lambda inputs: SingleOutput(model)(torch.from_numpy(inputs)).numpy() + add(inputs)


@pytest.fixture
def saved(tiny_classifier, processor, tmp_path) -> Path:
    tiny_classifier.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run_cli(*words, exit_code=0):
    result = CliRunner().invoke(cli.app, ["export", *map(str, words)])
    assert result.exit_code == exit_code, result.output
    return result.output


# --- the same outputs ---


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("kind", ["encoder", "rotary encoder", "classifier", "two clips"])
def test_an_exported_file_has_the_outputs_of_the_model_for_any_batch(kind, to, tiny_config, processor, tmp_path):
    model = make_model(kind, tiny_config)
    assert write(model, processor, tmp_path / "file", to) == 0
    run = open_exported(tmp_path / "file", to)
    for num_videos in (1, 2, 5):
        inputs = clips(model, num_videos)
        with torch.no_grad():
            expected = SingleOutput(model)(inputs).numpy()
        np.testing.assert_allclose(run(inputs.numpy()), expected, atol=1e-5)


def test_the_model_of_a_folder_is_its_classifier_or_its_encoder(tiny_pretraining_model, saved, processor, tmp_path):
    assert isinstance(load_exportable(str(saved))[0], VJEPAForVideoClassification)
    tiny_pretraining_model.to(torch.bfloat16).save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    encoder, _ = load_exportable(str(tmp_path / "run"))
    assert isinstance(encoder, VJEPAModel) and encoder.predictor is None and encoder.dtype == torch.float32


def test_action_detection_is_refused(tiny_config, processor, tmp_path):
    seeded(VJEPAForActionDetection, tiny_config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be exported"):
        load_exportable(str(tmp_path))


@pytest.mark.parametrize("to", FORMATS)
def test_the_printed_lines_run_without_this_package(to, saved, processor, tmp_path):
    # in a process that cannot import transformers and vjepa_hf, nor torch if the file is ONNX
    model, processor = load_exportable(str(saved))
    write(model, processor, tmp_path / "file", to)
    lines = run_lines(tmp_path / "file", to, clips(model, 1), ["a", "b", "c"])
    forbidden = {"transformers", "vjepa_hf", "torchao"} | ({"torch"} if to == "onnx" else set())
    program = f"import sys\nsys.modules.update(dict.fromkeys({sorted(forbidden)}))\n{lines}"
    program += f"\nnp.save({str(tmp_path / 'logits.npy')!r}, logits)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    frames = torch.zeros(1, 4, 3, 32, 32).sub(torch.tensor(processor.image_mean).view(3, 1, 1))
    with torch.no_grad():
        expected = model(frames / torch.tensor(processor.image_std).view(3, 1, 1)).logits
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-5)
    assert result.stdout.splitlines()[-1] == f"['LABEL_{expected.argmax()}']"


@needs(*ONNX)
def test_weights_beyond_the_size_of_an_onnx_file_get_their_own(saved, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "ONNX_WEIGHT_BYTES", 0)
    model, _ = load_exportable(str(saved))
    write(model, processor, tmp_path / "model.onnx.unfinished", "onnx", name="model.onnx")
    (tmp_path / "model.onnx.unfinished").rename(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").stat().st_size > (tmp_path / "model.onnx").stat().st_size
    assert open_exported(tmp_path / "model.onnx", "onnx")(clips(model, 2).numpy()).shape == (2, 3)


def test_weights_next_to_a_file_are_deleted_with_it_and_never_replaced(tmp_path):
    data = tmp_path / "model.onnx.data"
    with pytest.raises(KeyError), weights_file(tmp_path / "model.onnx"):
        data.touch()
        raise KeyError
    assert not data.exists()
    data.touch()
    with pytest.raises(ValueError, match="exists"), weights_file(tmp_path / "model.onnx"):
        pass
    assert data.exists()


# --- the drift ---


def test_drift_is_in_standard_deviations_and_counts_every_video(tiny_classifier):
    videos = [clips(tiny_classifier, 1) for _ in range(4)]
    with torch.no_grad():
        logits = tiny_classifier(videos[0]).logits.numpy()
    run = outputs_of(tiny_classifier, lambda inputs: np.array([0, 0, 6], np.float32))
    drift = measure_drift(tiny_classifier, run, videos)
    assert drift.num_videos == 4 and drift.agreement == (1.0 if logits.argmax() == 2 else 0.0)
    assert drift.max_difference == pytest.approx(6 / logits.std(), rel=1e-4)
    assert drift.mean_difference == pytest.approx(2 / logits.std(), rel=1e-4)


def test_a_batch_of_several_videos_counts_too(tiny_model):
    run = outputs_of(tiny_model, lambda inputs: len(inputs) > 1)
    assert measure_drift(tiny_model, run, [clips(tiny_model, 1)] * 2).mean_difference > 0.1
    with pytest.raises(ValueError, match="no readable video"):
        measure_drift(tiny_model, run, [])


@pytest.mark.parametrize("int8", [False, True])
def test_bounds_of_the_drift(int8):
    def drift(mean, agreement=None):
        return Drift(200, mean, 1.0, agreement, 1.0, 1.0)

    bound = export.INT8_DRIFT if int8 else FLOAT_DRIFT
    for good in (drift(bound), drift(0.0, 0.99)):
        good.check(int8)
    for bad in (drift(bound * 1.01), drift(float("nan")), drift(0.0, 0.985)):
        with pytest.raises(ValueError, match="no file was written"):
            bad.check(int8)


def test_an_approximate_gelu_is_beyond_the_bound(tiny_config, toy_videos, processor):
    # a wrong operator must not pass as rounding; toy weights are small, so they are scaled up to act
    model = seeded(VJEPAModel, tiny_config)
    for layer in model.encoder.layers:
        layer.mlp.fc1.weight.data *= 10
        layer.mlp.fc2.weight.data *= 10
    changed = copy.deepcopy(model)
    for layer in changed.encoder.layers:
        layer.mlp.activation = nn.GELU(approximate="tanh")
    videos = [str(path) for path in sorted(toy_videos.rglob("*.mp4"))[:2]]
    for other, is_good in ((model, True), (changed, False)):
        drift = measure_drift(model, outputs_of(other), readable_inputs(model, processor, videos))
        assert (drift.mean_difference <= FLOAT_DRIFT) == is_good


# --- the command ---


def test_the_command_writes_a_file_and_prints_drift_latency_and_a_program(saved, lists):
    output = run_cli(saved, "--to", "torch-export", "--videos", lists[1], "--num_videos", 3)
    path = saved / "torch-export" / "model.pt2"
    assert open_exported(path, "torch-export")(np.zeros((4, 4, 3, 32, 32), np.float32)).shape == (4, 3)
    for words in (
        "top-1 agreement               100.00% (3 of 3 videos)",
        "mean difference of logits",
        "eager latency",
    ):
        assert words in output
    assert f"torch.export.load({json.dumps(str(path))}" in output


def test_a_file_that_drifts_is_not_written(saved, lists, monkeypatch):
    def drifting(path, to):
        run = open_exported(path, to)
        return lambda inputs: run(inputs) * 1.01

    monkeypatch.setattr(cli, "open_exported", drifting)
    output = run_cli(saved, "--to", "torch-export", "--videos", lists[1], exit_code=2)
    assert "mean difference" in output  # the table is printed in any case
    assert not (saved / "torch-export").exists()


def test_mistakes_exit_before_the_work(saved, lists, tmp_path):
    for words in (
        ("--to", "tflite"),
        ("--to", "torch-export", "--videos", "nowhere.csv"),
        ("--to", "torch-export", "-o", saved / "model.safetensors"),
    ):
        run_cli(saved, "--videos", lists[1], *words, exit_code=2)
    run_cli(tmp_path / "nowhere", "--to", "torch-export", "--videos", lists[1], exit_code=2)
    assert sorted(path.name for path in saved.iterdir()) == [
        "config.json",
        "model.safetensors",
        "video_preprocessor_config.json",
    ]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"onnx, onnxscript, onnxruntime: pip install 'vjepa_hf\[export\]'"):
        check_format("onnx", False)
    check_format("torch-export", False)


# --- int8 ---


@pytest.mark.parametrize("to", INT8_FORMATS)
@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_int8_is_in_every_linear_layer_and_drifts_within_its_bound(kind, to, tiny_config, processor, tmp_path):
    model = make_model(kind, tiny_config)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert write(model, processor, tmp_path / "int8", to, int8=True) == linear_layers(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    drift = measure_drift(model, open_exported(tmp_path / "int8", to), [clips(model, n) for n in (1, 1, 4)])
    assert 0 < drift.mean_difference < export.INT8_DRIFT


@needs("torchao")
def test_a_layer_that_stays_in_float_is_refused(tiny_config, processor, tmp_path, monkeypatch):
    model = make_model("classifier", tiny_config)
    monkeypatch.setattr(export, "_quantize_weights", lambda model: linear_layers(model) - 1)
    with pytest.raises(ValueError, match="only 12 of 13 linear layers"):
        write(model, processor, tmp_path / "int8", "torch-export", int8=True)


def quantized_by_pytorch(model, folder):
    module = pytest.importorskip("torch.ao.quantization")
    if not hasattr(module, "quantize_dynamic"):
        pytest.skip("this PyTorch has no quantize_dynamic")
    return module.quantize_dynamic(model, {nn.Linear}, torch.qint8)


def quantized_by_torchao(model, folder, name="Int8WeightOnlyConfig"):
    module = pytest.importorskip("torchao.quantization")
    module.quantize_(model, getattr(module, name)())
    return model


def quantized_by_torchao_dynamically(model, folder):
    return quantized_by_torchao(model, folder, "Int8DynamicActivationInt8WeightConfig")


def quantized_by_torchao_on_loading(model, folder):
    module, transformers = pytest.importorskip("torchao.quantization"), pytest.importorskip("transformers")
    config = transformers.TorchAoConfig(module.Int8WeightOnlyConfig())
    return type(model).from_pretrained(folder, quantization_config=config)


def quantized_by_bitsandbytes(model, folder, **options):
    pytest.importorskip("bitsandbytes")
    transformers = pytest.importorskip("transformers")
    config = transformers.BitsAndBytesConfig(**options or {"load_in_8bit": True})
    return type(model).from_pretrained(folder, quantization_config=config)


def quantized_by_bitsandbytes_to_4_bit(model, folder):
    return quantized_by_bitsandbytes(model, folder, load_in_4bit=True, bnb_4bit_quant_type="nf4")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "quantize",
    [
        quantized_by_pytorch,
        quantized_by_torchao,
        quantized_by_torchao_dynamically,
        quantized_by_torchao_on_loading,
        quantized_by_bitsandbytes,
        quantized_by_bitsandbytes_to_4_bit,
    ],
)
def test_quantizers_reach_every_linear_layer_of_encoder_and_classifier(quantize, tmp_path):
    # 4-bit quantization on a CPU needs multiples of 64 inputs and of 32 outputs
    config = VJEPAConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        num_frames=4,
        num_labels=32,
    )
    model = seeded(VJEPAForVideoClassification, config)
    model.save_pretrained(tmp_path)
    inputs = clips(model, 2)
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    quantized = quantize(copy.deepcopy(model), tmp_path)
    assert len(names) == 13 and "classifier" in names
    for name in names:
        layer = quantized.get_submodule(name)
        weight = layer.weight() if callable(layer.weight) else layer.weight
        assert type(layer) is not nn.Linear or type(weight) not in (nn.Parameter, torch.Tensor), name
    with torch.no_grad():
        expected = model(inputs).logits
        difference = (quantized(inputs).logits - expected).abs().max() / expected.std()
    assert 0 < difference < 1


@pytest.mark.parametrize("card, license", [("---\nlicense: cc-by-nc-4.0\n---\n", "cc-by-nc-4.0"), (None, "unknown")])
def test_an_exported_file_names_the_license_of_its_weights(saved, card, license):
    if card:
        (saved / "README.md").write_text(card)
    model, processor = load_exportable(str(saved))
    assert export.about(model, processor)["license"] == {"license": license}
