"""`import vjepa_hf` registers Auto classes and leaves everything else in the process as it was."""

import json
import subprocess
import sys
import textwrap

import pytest

import vjepa_hf

# torch and transformers are imported first: what *they* do to a process is not ours to answer for.
WATCH = """
    import json, logging, os, random, sys, warnings
    import numpy, torch, transformers
    from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoVideoProcessor

    def state():
        return {
            "environment": sorted(os.environ.items()),
            "warning filters": repr(warnings.filters),
            "random state": hash(random.getstate()),
            "numpy state": repr(numpy.random.get_state(legacy=False)["state"]["pos"]),
            "torch state": torch.get_rng_state().sum().item(),
            "torch settings": [torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled()],
            "log levels": [logging.root.level, transformers.logging.get_verbosity(), len(logging.root.handlers)],
            "decoders": sorted({"av", "torchcodec", "decord", "cv2"} & set(sys.modules)),
            "drawing": "matplotlib" in sys.modules,
            "working directory": os.getcwd(),
        }

    answer = []
    for statement in json.loads(sys.argv[1]):
        before = state()
        exec(statement)
        after = state()
        answer.append([name for name in before if before[name] != after[name]])
    print(json.dumps(answer))
"""
VIOLATIONS = {
    "os.environ['X_NEW'] = '1'": "environment",
    "warnings.filterwarnings('ignore')": "warning filters",
    "random.random()": "random state",
    "numpy.random.rand()": "numpy state",
    "torch.manual_seed(1)": "torch state",
    "torch.set_grad_enabled(False)": "torch settings",
    "transformers.logging.set_verbosity_info()": "log levels",
    "sys.modules['decord'] = sys": "decoders",  # older torchvision has imported av
    "import matplotlib": "drawing",
}


@pytest.fixture(scope="module")
def side_effects() -> dict[str, list[str]]:
    """Statement -> what it changed, run one after another in a fresh process."""
    statements = ["import vjepa_hf", *VIOLATIONS]
    command = [sys.executable, "-c", textwrap.dedent(WATCH), json.dumps(statements)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return dict(zip(statements, json.loads(result.stdout.splitlines()[-1]), strict=True))


def test_public_names_are_listed():
    assert set(vjepa_hf.__all__) <= set(dir(vjepa_hf))


def test_import_has_no_side_effect(side_effects):
    assert side_effects["import vjepa_hf"] == []


def test_import_watch_catches_a_violation(side_effects):
    for statement, effect in VIOLATIONS.items():
        assert effect in side_effects[statement], statement


def test_import_registers_the_auto_classes(tiny_config):
    from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForVideoClassification

    import vjepa_hf

    fields = {"hidden_size": tiny_config.hidden_size, "num_attention_heads": tiny_config.num_attention_heads}
    assert type(AutoConfig.for_model("vjepa", **fields)) is vjepa_hf.VJEPAConfig
    assert type(AutoModel.from_config(tiny_config)) is vjepa_hf.VJEPAModel
    assert type(AutoModelForPreTraining.from_config(tiny_config)) is vjepa_hf.VJEPAForPreTraining
    classifier = AutoModelForVideoClassification.from_config(tiny_config)
    assert type(classifier) is vjepa_hf.VJEPAForVideoClassification


def test_auto_processor_is_found_beside_a_config(tmp_path, tiny_config):
    from transformers import AutoVideoProcessor

    import vjepa_hf

    tiny_config.save_pretrained(tmp_path)
    vjepa_hf.VJEPAVideoProcessor().save_pretrained(tmp_path)
    assert type(AutoVideoProcessor.from_pretrained(tmp_path)) is vjepa_hf.VJEPAVideoProcessor
