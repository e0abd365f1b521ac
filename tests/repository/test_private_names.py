"""Private names of other packages that vjepa_hf depends on: one table, and a test for each name.

Any release may move them. The tests import vjepa_hf only inside functions, so that they still run and name the cause
when a missing name breaks `import vjepa_hf`.
"""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from house import sources


@dataclass(frozen=True)
class Private:
    """A name of another package that its documentation does not promise.

    Attributes:
        path: `module:name` or `module:class.name`.
        purpose: what vjepa_hf uses it for, as a verb phrase.
        hook: for a method that vjepa_hf overrides, the parameters that the override reads.
    """

    path: str
    purpose: str
    hook: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path.replace(":", ".").rpartition(".")[2]


MODEL = "transformers:PreTrainedModel"
PROCESSOR = "transformers.video_processing_utils:BaseVideoProcessor"
PRIVATE_NAMES = [
    Private("torch:_foreach_lerp_", "moves all weights of the target encoder at once"),
    Private("torch.serialization:_get_layout", "restores the layouts of tensors in the metadata of sharded weights"),
    Private("transformers:PreTrainedConfig._attn_implementation", "names the attention function of a model"),
    Private(
        "transformers.models.auto.modeling_auto:MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES",
        "tells the video-classification pipeline that our classifier is one",
    ),
    Private("transformers.utils:can_return_tuple", "gives tuples where return_dict=False"),
    Private(f"{MODEL}._init_weights", "gives every module its initial weights", hook=("module",)),
    Private(f"{MODEL}._no_split_modules", "keeps every layer on one device"),
    Private(f"{MODEL}._supports_sdpa", "allows attn_implementation='sdpa'"),
    Private(f"{MODEL}._supports_flash_attn", "allows flash attention"),
    Private(f"{MODEL}._supports_flex_attn", "allows attn_implementation='flex_attention'"),
    Private(
        f"{MODEL}._keys_to_ignore_on_load_unexpected",
        "loads one part of a checkpoint without a warning about the others",
    ),
    Private(
        f"{PROCESSOR}._decode_and_sample_videos",
        "reads videos with our decoder",
        hook=("videos", "video_metadata", "do_sample_frames", "sample_indices_fn"),
    ),
    Private(f"{PROCESSOR}.sample_frames", "chooses the frames of clips", hook=("metadata", "num_frames", "fps")),
    Private(
        f"{PROCESSOR}._prepare_input_videos",
        "puts channels before rows, for several clips of a video too",
        hook=("videos", "input_data_format", "device"),
    ),
    Private(
        f"{PROCESSOR}._validate_preprocess_kwargs",
        "allows a crop without a size",
        hook=("size", "crop_size", "do_center_crop"),
    ),
    Private(
        f"{PROCESSOR}._preprocess",
        "resizes, crops and normalizes as Meta's evaluation does",
        hook=(
            *("videos", "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale"),
            *("rescale_factor", "do_normalize", "image_mean", "image_std", "return_tensors"),
        ),
    ),
    Private("evaluate:EvaluationModule._info", "describes a metric"),
    Private("evaluate:EvaluationModule._compute", "computes a metric", hook=("predictions", "references")),
]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


# --- what other packages have ---


def gone(private: Private) -> list[str]:
    """Return a sentence if the other package no longer has the name."""
    try:
        pkgutil.resolve_name(private.path)
    except (ImportError, AttributeError):
        return [f"{private.path} is gone or has moved. It {private.purpose}. Find its replacement."]
    return []


def hook_violations(private: Private, ours: type) -> list[str]:
    """Return a sentence for each parameter on which the other package and our override disagree."""
    upstream = inspect.signature(pkgutil.resolve_name(private.path)).parameters
    override = inspect.signature(getattr(ours, private.name)).parameters
    named = [name for name, parameter in upstream.items() if parameter.kind is not parameter.VAR_KEYWORD]
    refused = [name for name in named if name not in override]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in override.values()):
        refused = []
    found = [f"no longer has the parameter {name}" for name in private.hook if name not in upstream]
    found += [f"has the parameter {name}, which {ours.__name__} does not accept" for name in refused]
    return [f"{private.path} {line}. It {private.purpose}." for line in found]


@pytest.mark.parametrize("private", PRIVATE_NAMES, ids=lambda private: private.path)
def test_the_other_package_still_has_the_name(private):
    assert gone(private) == []


@pytest.mark.parametrize(
    "private", [private for private in PRIVATE_NAMES if private.hook], ids=lambda private: private.path
)
def test_overridden_hooks_have_the_parameters_that_we_expect(private):
    overriding = [ours for ours in classes_of_ours() if private.name in vars(ours)]
    assert overriding, f"no class of vjepa_hf overrides {private.name}; remove its line"
    assert [line for ours in overriding for line in hook_violations(private, ours)] == []


def test_a_missing_name_is_reported_in_a_sentence():
    for path in ("torch:_foreach_nothing_", "torch._nothing.config:budget", "transformers:PreTrainedModel._nothing"):
        (sentence,) = gone(Private(path, "moves weights"))
        assert sentence == f"{path} is gone or has moved. It moves weights. Find its replacement."


def test_a_hook_with_other_parameters_is_reported_in_a_sentence():
    class Ours:
        def _init_weights(self, layer): ...

    class Fine:
        def _init_weights(self, module, **kwargs): ...

    hook = Private("transformers:PreTrainedModel._init_weights", "initializes", hook=("module",))
    (sentence,) = hook_violations(hook, Ours)
    assert sentence.endswith("has the parameter module, which Ours does not accept. It initializes.")
    assert hook_violations(hook, Fine) == []
    hook = Private("transformers:PreTrainedModel._init_weights", "initializes", hook=("module", "depth"))
    (sentence,) = hook_violations(hook, Fine)
    assert "no longer has the parameter depth" in sentence


def unbound(sample_indices_fn: object, fps: float) -> list[str]:
    """Return a sentence if `fps` is not among the settings of a call that transformers binds to `sample_frames`."""
    if getattr(sample_indices_fn, "keywords", {}).get("fps") == fps:
        return []
    return [
        "transformers no longer passes functools.partial(self.sample_frames, fps=...) to _decode_and_sample_videos, "
        "so VJEPAVideoProcessor cannot see that frames are chosen by time. Find where fps is now."
    ]


def test_settings_of_a_call_are_bound_to_the_function_that_chooses_frames():
    from vjepa_hf import VJEPAVideoProcessor

    class Recorder(VJEPAVideoProcessor):
        def _decode_and_sample_videos(self, *args, sample_indices_fn=None, **kwargs):
            self.recorded = sample_indices_fn
            return super()._decode_and_sample_videos(*args, sample_indices_fn=sample_indices_fn, **kwargs)

    frames = np.zeros((30, 32, 32, 3), np.uint8)
    processor = Recorder(num_frames=2, crop_size=32)
    processor(frames, fps=5, video_metadata={"total_num_frames": 30, "fps": 10})
    assert unbound(processor.recorded, fps=5) == []
    (sentence,) = unbound(lambda metadata: processor.sample_frames(metadata, fps=5), fps=5)
    assert "cannot see that frames are chosen by time" in sentence


# --- what we use ---


def private_names_used(texts: Iterable[str]) -> set[str]:
    """Return the private names that are read or imported, and that no text defines."""
    used, defined = set(), set()
    for node in (node for text in texts for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute):
            (defined if isinstance(node.ctx, ast.Store) else used).add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            used |= {part for alias in node.names for part in f"{node.module}.{alias.name}".split(".")}
    return {name for name in used - defined if is_private(name)}


def private_names_overridden(types: Iterable[type]) -> set[str]:
    """Return the private names in class bodies that a base class of another package has too."""
    return {
        name
        for ours in types
        for base in ours.__mro__
        if base.__module__.split(".")[0] != ours.__module__.split(".")[0]
        for name in set(vars(ours)) & set(vars(base))
        # Written by Python into every abstract class, and by torch into every autograd function.
        if is_private(name) and name not in ("_abc_impl", "_backward_cls")
    }


def classes_of_ours() -> list[type]:
    """Return every class that vjepa_hf defines."""
    import vjepa_hf

    names = [module.name for module in pkgutil.walk_packages(vjepa_hf.__path__, "vjepa_hf.")]
    modules = [importlib.import_module(name) for name in names if not name.startswith("vjepa_hf.examples")]
    found = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    return [each for each in found if each.__module__.split(".")[0] == "vjepa_hf"]


def test_the_table_holds_every_private_name_in_use_and_no_other():
    parts = {part for private in PRIVATE_NAMES for part in private.path.replace(":", ".").split(".")}
    texts = sources("src/**/*.py", "examples/*.py").values()
    assert [private.path for private in PRIVATE_NAMES if not any(private.name in text for text in texts)] == []
    in_use = private_names_used(texts)
    in_use |= private_names_overridden(classes_of_ours())
    assert in_use == {part for part in parts if is_private(part)}


def test_private_names_catch_a_violation():
    assert private_names_used(["def f(model):\n    return model._tied"]) == {"_tied"}
    assert private_names_used(["from torch._functorch import config"]) == {"_functorch"}
    assert private_names_used(["import torch\ntorch._foreach_add_([], [])"]) == {"_foreach_add_"}
    assert (
        private_names_used(["class A:\n    def _own(self):\n        self.x = self._own()\n        self.__dict__"])
        == set()
    )
    override = type("Ours", (ast.NodeVisitor,), {"_private": 1, "__module__": "vjepa_hf.x"})
    assert private_names_overridden([override]) == set()
    base = type("Base", (), {"_private": 1, "__module__": "transformers.x"})
    override = type("Ours", (base,), {"_private": 2, "_other": 3, "__module__": "vjepa_hf.x"})
    assert private_names_overridden([override]) == {"_private"}
