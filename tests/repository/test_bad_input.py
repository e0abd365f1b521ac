"""Wrong files, configurations, clips, masks, labels and videos are errors that name them, and no file runs code.

pytest tests/repository/test_bad_input.py
"""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file

from house import sources
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.conversion.meta import convert
from vjepa_hf.data.masking import MaskSampler
from vjepa_hf.data.sources import load_videos
from vjepa_hf.data.videos import decode_video
from vjepa_hf.model.video_io import VideoDecodeError, VideoFile
from vjepa_hf.training import setup as training
from vjepa_hf.training.arguments import parse_arguments

TINY = {
    "hidden_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "tubelet_size": 2,
    "num_frames": 4,
    "pred_hidden_size": 24,
    "pred_num_hidden_layers": 1,
}

# --- YAML files: text, and part of the error message ---

YAML = [
    # not YAML, or not that kind of file
    ("a: b: c\n", "not a YAML file: mapping values are not allowed here"),
    ("\tmax_steps: 1\n", r"not a YAML file: .*character '\\t'"),
    (b"\xff\xfe\x00", "not a YAML file: 'utf-8' codec can't decode"),
    ("- 3\n", "expected lines `key: value`, got a list"),
    ("just words\n", "expected lines `key: value`, got a str"),
    # keys
    ("max_stepz: 3\n", "run.yaml: unknown option 'max_stepz'; did you mean 'max_steps'"),
    ("1: 2\n", "unknown option '1'"),
    ("seed: 1\nseed: 2\n", "seed is given 2 times; keep one"),
    # types
    ("seed:\n", "seed has no value; give one, or delete the line"),
    ("seed: soon\n", "seed: Expected a int. Got value: soon"),
    ("seed: 3.5\n", "seed: Expected a int. Got value: 3.5"),
    ("seed: true\n", "seed: Expected a int. Got value: True"),
    ("seed: [1, 2]\n", r"seed: Expected a int. Got value: \[1, 2\]"),
    ("seed: {a: 1}\n", "seed: Expected a int. Got value: {'a': 1}"),
    ("learning_rate: fast\n", "learning_rate: Expected a float. Got value: fast"),
    ("resume: maybe\n", "resume: Expected a bool. Got value: maybe"),
    ("short_video: loop\n", "short_video: Expected a Literal.* Got value: loop"),
    ("mixed_precision: fp8\n", r"mixed_precision: .*Literal\['no', 'fp16', 'bf16'\]"),
    # values
    ("max_steps: 0\n", "max_steps must be at least 1, got 0"),
    ("warmup_steps: -1\n", "warmup_steps must be 0 or more and finite, got -1"),
    ("learning_rate: .nan\n", "learning_rate must be above 0 and finite, got nan"),
    ("learning_rate: -1\n", "learning_rate must be above 0 and finite, got -1"),
    ("start_learning_rate: .inf\n", "start_learning_rate must be 0 or more and finite, got inf"),
    ("weight_decay: -1\n", "weight_decay must be 0 or more and finite, got -1"),
    ("ema_momentum: 1.5\n", r"ema_momentum must be in \[0, 1\], got 1.5"),
    ("final_ema_momentum: -0.1\n", r"final_ema_momentum must be in \[0, 1\], got -0.1"),
    ("schedule_scale: 0\n", "schedule_scale must be above 0 and finite, got 0"),
    ("max_grad_norm: 0\n", "max_grad_norm must be above 0, got 0"),
    ("predictor_learning_rate_scale: 0\n", "predictor_learning_rate_scale must be above 0"),
    ("gradient_accumulation_steps: 0\n", "gradient_accumulation_steps must be at least 1"),
    ("frame_step: 0\n", "frame_step must be at least 1, got 0"),
    ("fps: 0\n", "fps must be above 0 and finite, got 0"),
    ("num_workers: -2\n", "num_workers must be 0 or more and finite, got -2"),
    ("crop_scale: [0.3]\n", r"crop_scale must be two numbers, lower and upper, got \[0.3\]"),
    ("crop_scale: [0.9, 0.3]\n", r"crop scale must be two increasing fractions in \(0, 1\], got \(0.9, 0.3\)"),
    ("flip_probability: 3\n", r"flip_probability must be in \[0, 1\], got 3"),
    ("rand_augment_magnitude: 11\n", r"magnitude=11.0 in \[0, 10\]"),
    ("color_jitter: [9, 9, 9, 9]\n", r"brightness must lie in \[0, 1\], got 9.0"),
    ("video_weights: [1, -1]\n", r"video_weights must be above 0 and finite, got \[1.0, -1.0\]"),
    ("max_failed_share: 2\n", r"max_failed_share must be in \[0, 1\], got 2"),
    ("videos: [nowhere]\n", "videos 'nowhere' does not exist: give a folder of videos or a list of them"),
    ("cpu_threads: 0\n", "cpu_threads must be at least 1"),
    ("seed: -1\n", "seed must be 0 or more and finite, got -1"),
    # masks
    ("masks: []\n", r"masks must have at least one mask type, got \[\]"),
    ("masks: 8\n", "masks: Expected a list.* Got value: 8"),
    ("masks: [8]\n", "masks.* Expected a dict.* Got value: 8"),
    ("masks: [{num_blocks: 8}]\n", r"masks\[0\]: type=None must be one of multi_block, random_tube"),
    ("masks: [{type: tubes}]\n", "type='tubes' must be one of multi_block, random_tube"),
    ("masks: [{type: multi_block}]\n", r"masks\[0\]: multi_block: .*missing .*'num_blocks'"),
    ("masks: [{type: multi_block, number: 8}]\n", "multi_block has no setting 'number'; its settings are num_blocks"),
    ("masks: [{type: multi_block, num_blocks: -1}]\n", "num_blocks=-1 must be at least 1, or 0 with context_steps"),
    ("masks: [{type: multi_block, num_blocks: many}]\n", "num_blocks='many' must be a number"),
    (
        "masks: [{type: multi_block, num_blocks: 8, spatial_scale: 0.15}]\n",
        "spatial_scale=0.15 must be an increasing pair of numbers",
    ),
    ("masks: [{type: multi_block, num_blocks: 8, spatial_scale: [1.5, 2]}]\n", r"spatial_scale=\(1.5, 2\) must be"),
    ("masks: [{type: multi_block, num_blocks: 8, aspect_ratio: [2, 1]}]\n", r"aspect_ratio=\(2, 1\) must be an incr"),
    (
        "masks: [{type: multi_block, num_blocks: 0, context_steps: 8}]\n",
        "context_steps=8 must be less than the 8 time",
    ),
    ("masks: [{type: random_tube, ratio: 1}]\n", "ratio=1 must lie between 0 and 1"),
    ("mask_group_size: 0\n", "mask_group_size must be at least 1"),
    # the model
    ("model: 3\n", "model: Expected a dict.* Got value: 3"),
    ("model: {hiden_size: 3}\n", "unknown option 'model.hiden_size'; did you mean 'model.hidden_size'"),
    ("model: {hidden_size: wide}\n", "hidden_size"),
    ("model: {hidden_size: 0}\n", "hidden_size=0 must be positive"),
    ("model: {hidden_size: 100}\n", "hidden_size=100 is not a multiple of num_attention_heads=16"),
    ("model: {tubelet_size: 3}\n", "num_frames=16 is not a multiple of tubelet_size=3"),
    ("model: {image_size: 100}\n", "image_size=100 is not a positive multiple of patch_size=16"),
    ("model: {image_size: [1, 2, 3]}\n", r"image_size=.1, 2, 3. must be one number or"),
]


def prepare(config: Path) -> None:
    """Read a run file and build everything that a run builds before it opens a video."""
    args = parse_arguments(["--config", str(config)])
    model = training.model_config(args)
    training.mask_sampler(args.masking, model.grid_size, seed=0)
    training.make_transform(model.frame_size, args.data)
    training.make_processor(model, args.data)
    for source in args.data.videos:
        load_videos(source)


@pytest.mark.parametrize("text, message", YAML, ids=[str(text).strip()[:40] for text, _ in YAML])
def test_a_wrong_run_file_is_an_error_that_names_it(tmp_path, text, message):
    config = tmp_path / "run.yaml"
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        prepare(config)


def test_a_correct_run_file_is_not_an_error(tmp_path):
    (tmp_path / "run.yaml").write_text("seed: 1\nmax_grad_norm: .inf\nfps: null\nmask_group_size:\n")
    prepare(tmp_path / "run.yaml")


@pytest.mark.parametrize("name", ["gone.yaml", "."])
def test_a_run_file_that_does_not_exist_is_an_error(tmp_path, name):
    with pytest.raises(ValueError, match="no such file; give the YAML file of a run"):
        parse_arguments(["--config", str(tmp_path / name)])


# --- configurations ---


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_frames": "four"}, "'num_frames' expected int, got str"),
        ({"hidden_size": 4.5}, "'hidden_size' expected int, got float"),
        ({"hidden_size": True}, "'hidden_size' expected int, got bool"),
        ({"hiden_size": 3}, "unknown field hiden_size=3 in VJEPAConfig; did you mean hidden_size?"),
        ({"hidden_act": "gleu"}, "hidden_act='gleu' is no activation of transformers; did you mean 'gelu'?"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio=nan must be positive"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps=-1.0 must be positive"),
        ({"initializer_range": float("inf")}, "initializer_range=inf must be finite"),
        ({"image_size": [32, 32, 32]}, "image_size=.* must be one number or"),
        ({"num_channels": 0}, "num_channels=0 must be positive"),
        ({"num_labels": 0}, "num_labels=0 must be at least 1"),
        ({"problem_type": "guess"}, "problem_type='guess' must be one of|'problem_type' with value 'guess'"),
        ({"model_type": "vjepa2"}, "convert it once with `vjepa-hf convert"),
        ({"model_type": "vit"}, "model_type='vit' is another kind of model than 'vjepa'"),
    ],
)
def test_a_wrong_configuration_is_an_error_that_names_it(change, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        VJEPAConfig(**TINY | change)


def test_an_attention_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match='attn_implementation="flash9"'):
        VJEPAModel(VJEPAConfig(**TINY, attn_implementation="flash9"))


# --- clips, masks, labels ---

CLIPS = torch.zeros(2, 4, 3, 32, 32)


@pytest.fixture(scope="module")
def models():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = VJEPAConfig(**TINY, num_labels=3)
        return VJEPAForPreTraining(config).eval(), VJEPAForVideoClassification(config).eval()


@pytest.mark.parametrize(
    "clips, message",
    [
        (CLIPS.to(torch.uint8), "floating point numbers, got torch.uint8; VJEPAVideoProcessor makes it"),
        (CLIPS.long(), "got torch.int64"),
        (CLIPS.cfloat(), "got torch.complex64"),
        (CLIPS.numpy(), "got float32"),
        ([CLIPS], "got list"),
        (CLIPS[0], r"\(B, T, C, H, W\) with C = num_channels = 3 .*got \(4, 3, 32, 32\)"),
        (CLIPS[:, :, :1], r"got \(2, 4, 1, 32, 32\)"),
        (CLIPS.transpose(1, 2), r"got \(2, 3, 4, 32, 32\)"),
        (CLIPS[:0], r"at least one clip, got \(0, 4, 3, 32, 32\)"),
        (CLIPS[:, :3], "num_frames=3 is not a positive multiple of tubelet_size=2"),
        (CLIPS[..., :30], "width=30 is not a positive multiple of patch_size=8; pad or crop the clip"),
        (None, "exactly one of pixel_values_videos and tubelets|got NoneType"),
    ],
)
def test_wrong_clips_are_errors_in_every_model(models, clips, message):
    masks = [torch.tensor([[0], [1]])], [torch.tensor([[2], [3]])]
    pretraining, classifier = models
    for call in (lambda: pretraining.vjepa(clips), lambda: classifier(clips), lambda: pretraining(clips, *masks)):
        with pytest.raises(ValueError, match=message):
            call()


MASKS = [
    (torch.tensor([[0, 99], [0, 1]]), "has indices from 0 to 99; those of a clip go from 0 to 31"),
    (torch.tensor([[0, -1], [0, 1]]), "has indices from -1 to 1"),
    (torch.tensor([[0, 0], [0, 1]]), "names a token twice in one clip; remove the second"),
    (torch.zeros(2, 0, dtype=torch.long), r"the shape \(2, 0\); .* needs 2 rows of 1 to 32 indices"),
    (torch.arange(33).repeat(2, 1), r"the shape \(2, 33\)"),
    (torch.tensor([[0, 1]]), r"the shape \(1, 2\); for 2 clips"),
    (torch.tensor([0, 1]), r"LongTensor \(B, tokens\) of token indices, got torch.int64 \(2,\)"),
    (torch.tensor([[0], [1]], dtype=torch.int32), r"got torch.int32 \(2, 1\)"),
    (torch.ones(2, 32, dtype=torch.bool), r"got torch.bool \(2, 32\)"),
    (torch.zeros(2, 3), r"got torch.float32 \(2, 3\)"),
    ([[0], [1]], "got list"),
]


@pytest.mark.parametrize("mask, message", MASKS)
def test_wrong_masks_are_errors_that_name_the_mask(models, mask, message):
    model, good = models[0], torch.tensor([[5, 6], [7, 8]])
    with pytest.raises(ValueError, match=f"context_mask .*{message}"):
        model.vjepa(CLIPS, context_mask=mask)
    with pytest.raises(ValueError, match=f"target_mask .*{message}"):
        model.vjepa(CLIPS, context_mask=good, target_mask=mask)
    for masks in (([mask], [good]), ([good], [mask])):
        with pytest.raises(ValueError, match=message):
            model(CLIPS, *masks)


def test_lists_of_masks_must_have_one_entry_per_mask_type(models):
    good = torch.tensor([[0], [1]])
    for masks in (([], []), ([good], []), ([good], [good, good])):
        with pytest.raises(ValueError, match="have one entry per mask type and at least one"):
            models[0](CLIPS, *masks)


@pytest.mark.parametrize(
    "labels, message",
    [
        (torch.tensor([0, 7]), r"labels contains 7, but class indices must be in \[0, 2\] because num_labels=3"),
        (torch.tensor([0, -1]), "labels contains -1"),
        (torch.tensor([0]), r"labels has the shape \(1,\); 2 clips need 2 labels"),
        (torch.tensor(1), r"labels has the shape \(\)"),
        (torch.tensor([[0, 1, 0], [0, 0, 1]]), r"labels \(2, 3\) of torch.int64: several labels of a clip must be"),
        ([0, 1], r"tensor of class indices \(B,\), got list"),
        (["walk", "run"], "got list"),
    ],
)
def test_wrong_labels_are_errors(models, labels, message):
    with pytest.raises(ValueError, match=message):
        models[1](CLIPS, labels=labels)


def test_ignored_labels_are_not_an_error(models):
    assert models[1](CLIPS, labels=torch.tensor([2, -100])).loss.isfinite()


# --- videos: arrays, files, addresses ---


@pytest.fixture(scope="module")
def processor():
    return VJEPAVideoProcessor(num_frames=4, crop_size=32, tubelet_size=2, patch_size=8)


FRAMES = np.zeros((4, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "video, message",
    [
        (None, "videos=NoneType is not a path, URL"),
        (7, "videos=int is not a path, URL"),
        ([], "videos=list is not a path, URL"),
        (np.array([None]), "videos=ndarray is not a path, URL"),
        (FRAMES[..., :2], r"shape \(4, 32, 32, 2\) has no axis of 3 channels"),
        (FRAMES.astype(bool), "a video of bool contains no pixels"),
        (FRAMES.astype(complex), "a video of complex128 contains no pixels"),
        (FRAMES.astype(object), "a video of object contains no pixels"),
        (np.full(FRAMES.shape, np.nan), "a video contains nan or inf"),
        (
            np.full(FRAMES.shape, 999),
            r"a video of torch.int64 contains values from 999 to 999; pixels are in \[0, 255\]",
        ),
        (np.full(FRAMES.shape, -1), "contains values from -1 to -1"),
        (np.full(FRAMES.shape, 0.5), r"are already in \[0, 1\]; pass do_rescale=False"),
        ([FRAMES[0], FRAMES[0, :16]], "frames of a video differ in size"),
    ],
)
def test_wrong_arrays_are_errors(processor, video, message):
    with pytest.raises(ValueError, match=message):
        processor(video)


@pytest.mark.parametrize(
    "video, message",
    [
        ("gone.mp4", "gone.mp4: cannot read .*No such file"),
        (b"abc", "<3 bytes>: cannot read .*Invalid data"),
        (b"", "<0 bytes>: cannot read the file: "),
        (".", r"\.: cannot read the f"),
        ("file:///nowhere/gone.mp4", "file:///nowhere/gone.mp4: cannot read .*No such file"),
        ("http://127.0.0.1:9/x.mp4", "http://127.0.0.1:9/x.mp4: cannot read .*refused"),
        ("ftp://nowhere.invalid/x.mp4", "ftp://nowhere.invalid/x.mp4: cannot read the file: "),
        ("s3://bucket/x.mp4", "s3://bucket/x.mp4: cannot read the file: "),
        ("c://x.mp4", "c://x.mp4: cannot read"),
    ],
)
def test_a_file_or_address_that_cannot_be_read_is_named(processor, video, message):
    for read in (processor, VideoFile):
        with pytest.raises(VideoDecodeError, match=message):
            read(video)


@pytest.mark.parametrize("address", ["nonsense://x.mp4", "hf://datasets/nobody/nothing/x.mp4", "zip://a.mp4"])
def test_an_address_in_a_list_that_cannot_be_read_is_named(address):
    videos = load_videos(address)
    with pytest.raises(VideoDecodeError, match=re.escape(address)):
        decode_video(videos[0]["video"], [0])


# --- checkpoints ---


class Evil:
    """Object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def saved(models, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    models[0].save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of a saved model, for damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


CLASSES = (VJEPAModel, VJEPAForPreTraining, VJEPAForVideoClassification)


def edit_config(folder: Path, **changes) -> None:
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))


def edit_weights(folder: Path, change: Callable[[dict], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def truncate(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


DAMAGES = {
    "half of the weights file": (
        lambda folder: truncate(folder / "model.safetensors", 20_000),
        "model holds a damaged .safetensors file .*copy it here again",
    ),
    "four bytes of it": (lambda folder: truncate(folder / "model.safetensors", 4), "damaged .safetensors file"),
    "an empty weights file": (lambda folder: truncate(folder / "model.safetensors", 0), "damaged .safetensors file"),
    "text as weights": (
        lambda folder: (folder / "model.safetensors").write_text("words " * 99),
        "damaged .safetensors file",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
    "a weight is missing": (
        lambda folder: edit_weights(folder, lambda weights: weights.pop("vjepa.encoder.norm.weight")),
        "model has only some weights of .*encoder; it lacks .*encoder.norm.weight",
    ),
    "a weight of another shape": (
        lambda folder: edit_weights(
            folder, lambda weights: weights.update({"vjepa.encoder.norm.bias": torch.ones(2)})
        ),
        "ignore_mismatched_sizes",
    ),
    "another model": (
        lambda folder: edit_config(folder, model_type="videomae"),
        "model_type='videomae' is another kind of model than 'vjepa'",
    ),
    "another size": (lambda folder: edit_config(folder, num_hidden_layers=2), "only some weights of .*encoder"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "model has no config.json"),
    "half a configuration": (lambda folder: truncate(folder / "config.json", 9), "config.json' is not a valid JSON"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_an_error_that_names_the_damage(folder, damage):
    spoil, message = DAMAGES[damage]
    spoil(folder)
    for model_class in CLASSES:
        with pytest.raises((ValueError, OSError, RuntimeError), match=message):
            model_class.from_pretrained(folder)


def test_a_missing_predictor_gets_random_weights(folder):
    edit_weights(folder, lambda weights: [weights.pop(name) for name in list(weights) if "predictor" in name])
    model, info = VJEPAModel.from_pretrained(folder, output_loading_info=True)
    assert model.predictor is not None and all("predictor" in name for name in info["missing_keys"])


def write_pickles(folder: Path, evil: Evil) -> None:
    """Replace the weights by a pickle."""
    (folder / "model.safetensors").unlink()
    torch.save({"vjepa.encoder.norm.weight": evil}, folder / "pytorch_model.bin")


def write_old_pickles(folder: Path, evil: Evil) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": evil}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def write_plain_pickles(folder: Path, evil: Evil) -> None:
    for name in ("model.safetensors", "pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps(evil))


@pytest.mark.parametrize("write", [write_pickles, write_old_pickles, write_plain_pickles])
def test_no_pickle_in_a_folder_is_executed(folder, tmp_path, write):
    mark = tmp_path / "executed"
    write(folder, Evil(mark))
    for model_class in CLASSES:
        for options in ({}, {"use_safetensors": False}):
            with pytest.raises((ValueError, OSError, pickle.UnpicklingError)):
                model_class.from_pretrained(folder, **options)
    assert not mark.exists()


def test_the_code_of_the_test_above_would_run(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_no_pickle_is_executed_while_converting(tmp_path, old):
    mark, file = tmp_path / "executed", tmp_path / "checkpoint.pth.tar"
    torch.save({"encoder": {}, "epoch": Evil(mark)}, file, _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match="checkpoint.pth.tar is not a"):
        convert(file, tmp_path / "model")
    file.write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(ValueError, match="checkpoint.pth.tar is not a"):
        convert(file, tmp_path / "model")
    with pytest.raises(ValueError, match="is neither a file nor one of the released"):
        convert(tmp_path / "gone.pth.tar", tmp_path / "model")
    assert not mark.exists() and not (tmp_path / "model").exists()


def careless_loads(texts: dict[str, str]) -> list[str]:
    """Return the lines that could run code in a file."""
    risky = re.compile(
        r"torch\.load\((?!.*weights_only=True)|weights_only=False|pickle\.loads?\(|yaml\.(full_|unsafe_)?load\("
    )
    return [
        f"{file}: {line.strip()}" for file, text in texts.items() for line in text.splitlines() if risky.search(line)
    ]


def test_no_source_loads_files_unsafely():
    assert careless_loads(sources("src/**/*.py", "examples/*.py", "benchmarks/*.py", "studies/**/*.py")) == []


def test_careless_loads_catch_a_violation():
    for line in ("torch.load(path)", "torch.load(path, weights_only=False)", "pickle.load(file)", "yaml.load(text)"):
        assert len(careless_loads({"a.py": line})) == 1, line
    for line in ("torch.load(path, weights_only=True)", "yaml.safe_load(text)", "json.loads(text)"):
        assert careless_loads({"a.py": line}) == [], line


# --- masks ---


def test_a_sampler_without_mask_types_is_an_error():
    with pytest.raises(ValueError, match="masks is empty; give at least one mask type"):
        MaskSampler([], (2, 4, 4), seed=0)
