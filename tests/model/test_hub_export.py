"""What `register_for_auto_class` writes to the Hub works for a stranger, who has transformers and not vjepa_hf."""

import json
import subprocess
import sys
import textwrap

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from house import PACKAGE, imports
from tiny_models import seeded

EXPORTED = {path.stem for path in (PACKAGE / "model").glob("*.py")} - {"__init__"}


@pytest.fixture(autouse=True)
def _no_trace_of_registration(monkeypatch):
    """`register_for_auto_class` marks the class itself: undo it, or every later save_pretrained copies code."""
    import vjepa_hf

    for name in vjepa_hf.__all__:
        if isinstance(getattr(vjepa_hf, name), type):
            monkeypatch.setattr(getattr(vjepa_hf, name), "_auto_class", None)


@pytest.fixture
def exported(tmp_path, tiny_config, tiny_model, tiny_classifier):
    """Folders `model` and `classifier` with weights, processor and the code of both."""
    from vjepa_hf import VJEPAVideoProcessor

    type(tiny_config).register_for_auto_class()
    type(tiny_model).register_for_auto_class("AutoModel")
    type(tiny_classifier).register_for_auto_class("AutoModelForVideoClassification")
    VJEPAVideoProcessor.register_for_auto_class("AutoVideoProcessor")
    processor = VJEPAVideoProcessor(
        size={"shortest_edge": 36},
        crop_size={"height": 32, "width": 32},
        num_frames=tiny_config.num_frames,
        frame_step=2,
        patch_size=tiny_config.patch_size,
        tubelet_size=tiny_config.tubelet_size,
        resample="opencv",
    )
    for name, model in {"model": tiny_model, "classifier": tiny_classifier}.items():
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    return tmp_path


def run_as_stranger(program: str, folder) -> dict:
    """Run a program that ends by printing one JSON line, in a process where `import vjepa_hf` fails."""
    hide = """
        import json, sys
        sys.modules["vjepa_hf"] = None  # makes every import of it an ImportError
        try:
            import vjepa_hf
        except ImportError:
            pass
        else:
            raise SystemExit("vjepa_hf can be imported: this proves nothing")
    """
    environment = {"HF_HOME": str(folder / "hf_home"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(hide) + textwrap.dedent(program)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_stranger_loads_model_and_processor_and_gets_the_same_features(exported, tiny_model, toy_video_path):
    import torch

    from vjepa_hf import VJEPAVideoProcessor

    answer = run_as_stranger(
        f"""
        import torch
        from transformers import AutoModel, AutoVideoProcessor
        model = AutoModel.from_pretrained("model", trust_remote_code=True)
        processor = AutoVideoProcessor.from_pretrained("model", trust_remote_code=True)
        with torch.no_grad():
            features = model(**processor({str(toy_video_path)!r}, return_tensors="pt")).last_hidden_state
        print(json.dumps([type(model).__name__, type(processor).__name__, features.tolist()]))
        """,
        exported,
    )
    clip = VJEPAVideoProcessor.from_pretrained(exported / "model")(str(toy_video_path), return_tensors="pt")
    with torch.no_grad():
        features = tiny_model(**clip).last_hidden_state
    assert answer[:2] == ["VJEPAModel", "VJEPAVideoProcessor"]
    torch.testing.assert_close(torch.tensor(answer[2]), features)


def test_stranger_runs_the_pipeline_on_a_file(exported, toy_video_path):
    answer = run_as_stranger(
        f"""
        from transformers import pipeline
        classify = pipeline("video-classification", model="classifier", trust_remote_code=True)
        print(json.dumps(classify({str(toy_video_path)!r}, top_k=2)))
        """,
        exported,
    )
    assert len(answer) == 2
    assert all(set(row) == {"label", "score"} and 0 <= row["score"] <= 1 for row in answer)


def test_export_carries_the_whole_closure_and_nothing_else(exported):
    for name in ("model", "classifier"):
        copied = {path.stem for path in (exported / name).glob("*.py")} - {"__init__"}
        assert copied == EXPORTED


def test_stranger_loads_a_detector_of_actions_and_gets_the_same_scores(tmp_path, tiny_config, tiny_clip):
    import torch

    from vjepa_hf import VJEPAForActionDetection

    tiny_config.num_labels = 3
    type(tiny_config).register_for_auto_class()
    VJEPAForActionDetection.register_for_auto_class("AutoModel")
    detector = seeded(VJEPAForActionDetection, tiny_config)
    detector.save_pretrained(tmp_path / "detector")
    copied = {path.stem for path in (tmp_path / "detector").glob("*.py")} - {"__init__"}
    reading = {"frame_sampling", "names", "video_inputs", "video_io", "video_processing_vjepa", "video_sources"}
    assert copied == EXPORTED - reading
    torch.save(tiny_clip, tmp_path / "clip.pt")
    answer = run_as_stranger(
        """
        import torch
        from transformers import AutoModel
        model = AutoModel.from_pretrained("detector", trust_remote_code=True)
        boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5]], [[0.2, 0.3, 0.9, 0.8]]])
        with torch.no_grad():
            print(json.dumps(model(torch.load("clip.pt"), boxes).logits.tolist()))
        """,
        tmp_path,
    )
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5]], [[0.2, 0.3, 0.9, 0.8]]])
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(answer), detector(tiny_clip, boxes).logits)


def test_saving_without_registration_copies_no_code(tmp_path, tiny_model):
    tiny_model.save_pretrained(tmp_path)
    assert list(tmp_path.glob("*.py")) == []


@pytest.mark.parametrize("name", sorted(EXPORTED))
def test_exporter_reads_the_same_imports_as_python(name):
    """The exporter finds imports by a regular expression, which also sees docstrings and misses `from . import x`."""
    path = PACKAGE / "model" / f"{name}.py"
    assert {f".{name}" for name in get_relative_imports(path)} == imports(path.read_text())[0]


def test_exporter_comparison_catches_a_violation(tmp_path):
    file = tmp_path / "x.py"
    for text in ('"""\nfrom .ghost import z\n"""\n', "from . import masking\n"):
        file.write_text(text)
        assert {f".{name}" for name in get_relative_imports(file)} != imports(text)[0], text


def test_exporter_demands_only_what_a_stranger_has():
    """Names the exporter will insist on, which leaves out imports inside `try`."""
    demanded = {name for module in EXPORTED for name in get_imports(PACKAGE / "model" / f"{module}.py")}
    stranger_has = {"av", "huggingface_hub", "numpy", "PIL", "safetensors", "torch", "torchvision", "transformers"}
    assert demanded
    assert demanded - set(sys.stdlib_module_names) <= stranger_has
