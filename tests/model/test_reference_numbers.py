"""We compute what Meta's code computes: the numbers that it recorded, against ours from the same weights.

Differences are in units of a tensor's largest value and must stay below 2e-5; a float32 run of the reference itself is
about 1e-6 away from its float64 run.
"""

import functools
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.transforms.v2 import functional

from reference_fixtures import (
    FIXTURES,
    MODELS,
    NO_FIXTURES,
    as_clips,
    load,
    masks,
    models_with,
    recording,
    relative_error,
)
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.conversion.meta import from_meta, read_checkpoint, to_meta
from vjepa_hf.data.transforms import normalize
from vjepa_hf.evaluation.features import VideoFeatures
from vjepa_hf.evaluation.probes import head_of, predict
from vjepa_hf.model.tubelets import resize_positions, sincos_positions
from vjepa_hf.training.arguments import OptimizationArguments
from vjepa_hf.training.optimization import (
    clip_gradients,
    hyperparameters,
    learning_rate,
    max_grad_norm,
    parameter_groups,
    set_hyperparameters,
    weight_decay,
)

TOLERANCE = 2e-5

each_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def io(name) -> dict[str, torch.Tensor]:
    return recording(name).tensors()


# --- forward -------------------------------------------------------------------------------------------------------


@each_model
def test_formula_of_the_position_tables(name, io):
    config = load(VJEPAModel, name).config
    for part in ("encoder", "predictor"):
        expected = io[f"pos_embed.{part}_formula"][0]
        ours = sincos_positions(config.grid_size, expected.shape[1], config.uniform_power)
        assert relative_error(ours, expected) <= TOLERANCE


@each_model
def test_position_tables_are_those_of_the_file_and_not_of_the_formula(name, io):
    model = load(VJEPAForPreTraining, name)
    for ours, key in (
        (model.context_encoder.embeddings, "encoder"),
        (model.vjepa.predictor, "predictor"),
        (model.vjepa.encoder.embeddings, "target" if "pos_embed.target" in io else "encoder"),
    ):
        assert torch.equal(ours.position_embeddings, io[f"pos_embed.{key}"][0])


@each_model
@torch.no_grad()
def test_every_hidden_state_of_the_encoder(name, io):
    encoder = load(VJEPAForPreTraining, name).context_encoder
    tubelets, grid = load(VJEPAModel, name).tokenize(as_clips(io["clip"]))
    outputs = encoder(tubelets, grid, output_hidden_states=True)
    positions = encoder.embeddings.position_embeddings
    assert relative_error(outputs.hidden_states[0] - positions, io["encoder.patch_embed"]) <= TOLERANCE
    for index, hidden_states in enumerate(outputs.hidden_states[1:]):
        assert relative_error(hidden_states, io[f"encoder.hidden.{index}"]) <= TOLERANCE
    assert relative_error(outputs.last_hidden_state, io["encoder.out"]) <= TOLERANCE


@each_model
@torch.no_grad()
def test_encoder_at_other_sizes_and_numbers_of_frames(name, io):
    model = load(VJEPAForPreTraining, name)
    sizes = [key for key in io if key.startswith("resize.") and key.endswith(".clip_q")]
    assert sizes
    for key in sizes:
        case = key.removesuffix(".clip_q")
        tubelets, grid = model.vjepa.tokenize(as_clips(io[key]))
        table = model.context_encoder.embeddings.position_embeddings
        positions = resize_positions(table, model.config.grid_size, grid)
        assert relative_error(positions, io[f"{case}.pos_embed"][0]) <= TOLERANCE
        features = model.context_encoder(tubelets, grid).last_hidden_state
        assert relative_error(features, io[f"{case}.encoder.out"]) <= TOLERANCE


@each_model
@torch.no_grad()
def test_target_features_predictions_and_loss(name, io):
    model = load(VJEPAForPreTraining, name)
    clips = as_clips(io["clip"])
    assert relative_error(load(VJEPAModel, name)(clips).last_hidden_state, io["target.out"]) <= TOLERANCE
    outputs = model(clips, masks(io, "enc"), masks(io, "pred"))
    for index, context in enumerate(outputs.context_hidden_states):
        assert relative_error(context, io[f"encoder.out_masked.{index}"]) <= TOLERANCE
        assert relative_error(outputs.predictions[index], io[f"predictor.out.{index}"]) <= TOLERANCE
        assert relative_error(outputs.targets[index], io[f"target.h.{index}"]) <= TOLERANCE
    assert relative_error(outputs.loss[None], io["loss"].reshape(1)) <= TOLERANCE


@each_model
@torch.no_grad()
def test_predictor_stream_after_its_first_layer(name, io):
    model = load(VJEPAForPreTraining, name)
    seen = []
    model.vjepa.predictor.layers[0].register_forward_hook(lambda module, given, result: seen.append(result[0]))
    model(as_clips(io["clip"]), masks(io, "enc"), masks(io, "pred"))
    # A predictor of one layer computes what is needed of its last: the target tokens, which come last.
    expected = io["predictor.hidden.0"][:, -seen[0].shape[1] :]
    assert relative_error(seen[0], expected) <= TOLERANCE


@each_model
@torch.no_grad()
def test_probe(name, io):
    model = load(VJEPAForVideoClassification, name)
    assert relative_error(model.pooler(io["target.out"]), io["probe.pooler_out"][:, 0]) <= TOLERANCE
    assert relative_error(model(as_clips(io["clip"])).logits, io["probe.logits"]) <= TOLERANCE


@each_model
def test_gradients(name, io):
    model = load(VJEPAForPreTraining, name)
    model(as_clips(io["clip"]), masks(io, "enc"), masks(io, "pred")).loss.backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    parts = to_meta(gradients)
    recorded = [key for key in io if key.startswith("grad.")]
    assert recorded
    for key in recorded:
        _, part, short = key.split(".", 2)
        expected, ours = without_keys(short, io[key]), without_keys(short, parts[part][short])
        assert relative_error(ours, expected) <= TOLERANCE, key
    norms = recording(name).numbers("io")["grad_l2_per_parameter"]
    for part in ("encoder", "predictor"):
        total = torch.stack([value.double().norm() for value in parts[part].values()]).norm()
        assert relative_error(total[None], io[f"grad_l2.{part}"].reshape(1)) <= TOLERANCE
        assert parts[part].keys() == norms[part].keys()  # the same parameters get a gradient
        for short, value in parts[part].items():
            if not short.endswith("qkv.bias"):
                assert value.double().norm().item() == pytest.approx(norms[part][short], rel=1e-4), short


def without_keys(short: str, bias: torch.Tensor) -> torch.Tensor:
    """A bias of queries, keys and values without the part of the keys: its gradient is zero but for rounding."""
    if short.endswith("qkv.bias"):
        return torch.cat([bias.chunk(3)[0], bias.chunk(3)[2]])
    return bias.chunk(2)[1] if short.endswith("kv.bias") else bias


def test_the_comparison_can_fail():
    assert relative_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0001])) > TOLERANCE
    with pytest.raises(AssertionError, match="instead of"):
        relative_error(torch.ones(2), torch.ones(1))


@pytest.mark.parametrize("field", ["layer_norm_eps", "pooler_layer_norm_eps", "hidden_act"])
@pytest.mark.parametrize("name", [name for name in MODELS if name == "model_C"] or MODELS[:1])
@torch.no_grad()
def test_recordings_tell_small_changes_apart(name, io, field):
    """Model C is built so that another epsilon shows; were this test to fail, the ones above would prove little."""
    config = VJEPAConfig.from_pretrained(load(VJEPAForVideoClassification, name).config._name_or_path)
    changed = {"layer_norm_eps": 1e-5, "pooler_layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"}
    setattr(config, field, changed[field])
    model = load(VJEPAForVideoClassification, name, config=config)
    assert relative_error(model(as_clips(io["clip"])).logits, io["probe.logits"]) > 2 * TOLERANCE


# --- schedules -----------------------------------------------------------------------------------------------------


def optimization_arguments(name: str) -> OptimizationArguments:
    """Meta's settings in ours: epochs become steps."""
    theirs = recording(name).optimization
    return OptimizationArguments(
        max_steps=theirs.ipe * theirs.epochs,
        warmup_steps=int(theirs.ipe * theirs.warmup),
        schedule_scale=theirs.ipe_scale,
        start_learning_rate=theirs.start_lr,
        learning_rate=theirs.lr,
        final_learning_rate=theirs.final_lr,
        weight_decay=theirs.weight_decay,
        final_weight_decay=theirs.final_weight_decay,
        ema_momentum=theirs.ema[0],
        final_ema_momentum=theirs.ema[1],
        max_grad_norm=theirs.clip_grad,
    )


@pytest.mark.parametrize("name", models_with("train.json"))
def test_learning_rate_weight_decay_and_momentum_of_every_step(name):
    recorded = recording(name).numbers("train")
    ours = [hyperparameters(step, optimization_arguments(name)) for step in range(len(recorded["steps"]))]
    for values, step in zip(ours, recorded["steps"], strict=True):
        assert values["learning_rate"] == pytest.approx(step["lr"], rel=1e-12)
        assert values["weight_decay"] == pytest.approx(step["wd"], rel=1e-12)
        assert values["ema_momentum"] == pytest.approx(step["momentum"], rel=1e-12)


@pytest.mark.parametrize("name", models_with("train.json"))
def test_past_their_end_schedules_stay_at_their_final_value_where_the_references_turn_back(name):
    recorded = recording(name).numbers("train")
    schedule, end = recorded["schedule_45"], recorded["T_max"]["lr_and_wd"]
    arguments = optimization_arguments(name)
    for step, (lr, wd) in enumerate(zip(schedule["lr"], schedule["wd"], strict=True)):
        values = hyperparameters(step, arguments)
        if step < end:
            assert values["learning_rate"] == pytest.approx(lr, rel=1e-9)
            assert values["weight_decay"] == pytest.approx(wd, rel=1e-9)
        else:
            assert values["learning_rate"] == arguments.final_learning_rate < lr
            assert values["weight_decay"] == arguments.final_weight_decay > wd


# --- training ------------------------------------------------------------------------------------------------------


class Run:
    """Training steps on the recorded batch, made of the functions that the training loop is made of."""

    def __init__(self, name: str, max_grad_norm: float | None = None):
        self.source, self.arguments = recording(name), optimization_arguments(name)
        # In float64, because float32 rounding moves the late gradient norms by up to 5 %, depending on the CPU.
        self.model = load(VJEPAForPreTraining, name).double().train()
        io = self.source.tensors()
        self.batch = as_clips(io["clip"]).double(), masks(io, "enc"), masks(io, "pred")
        self.max_grad_norm = max_grad_norm or self.arguments.max_grad_norm
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model))

    def step(self, step: int) -> dict[str, float]:
        theirs = self.source.optimization
        values = hyperparameters(step, self.arguments)
        set_hyperparameters(self.optimizer, values)
        loss = self.model(*self.batch).loss
        loss.backward()
        # Meta's code clips once its 0-based epoch exceeds the number of warm-up epochs.
        clips = step // theirs.ipe > theirs.warmup
        norms = clip_gradients(self.model, self.max_grad_norm if clips else math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.update_target_encoder(values["ema_momentum"])
        return {"loss": loss.item()} | {key: norm.item() for key, norm in norms.items()}

    def parts(self) -> dict[str, dict[str, torch.Tensor]]:
        """Weights in Meta's names, as `encoder`, `predictor` and `target`."""
        parts = to_meta(self.model.state_dict())
        return {"encoder": parts["encoder"], "predictor": parts["predictor"], "target": parts["target_encoder"]}


def check_weights(parts: dict, expected: dict[str, torch.Tensor], noise: dict[str, float]) -> None:
    """Compare weights with recorded ones; `noise` is the distance of the recorded run to its float64 run."""
    for key, theirs in expected.items():
        part, short = key.split(".", 1)
        allowed = 10 * noise.get(key, 0.0) + TOLERANCE * theirs.abs().max().item()
        distance = (without_keys(short, parts[part][short]) - without_keys(short, theirs)).abs().max().item()
        assert distance <= allowed, f"{key}: {distance:.1e} is more than {allowed:.1e}"


def check_checksums(parts: dict, expected: dict, rel: float) -> None:
    for part, checksums in expected.items():
        assert parts[part].keys() == checksums.keys()
        for short, checksum in checksums.items():
            if not short.endswith("qkv.bias"):
                assert list(parts[part][short].shape) == checksum["shape"]
                assert parts[part][short].double().norm().item() == pytest.approx(checksum["l2"], rel=rel), short


@pytest.mark.parametrize("name", models_with("train.json"))
def test_weights_after_training_steps(name):
    recorded, run = recording(name).numbers("train"), Run(name)
    tensors = recording(name).tensors("train")
    for step, theirs in enumerate(recorded["steps"]):
        ours = run.step(step)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=TOLERANCE), step
        if theirs["enc_norm_returned_by_clipping"]:
            assert ours["context_encoder_grad_norm"] == pytest.approx(
                theirs["enc_norm_returned_by_clipping"], rel=2e-2
            )
            assert ours["predictor_grad_norm"] == pytest.approx(theirs["pred_norm_returned_by_clipping"], rel=2e-2)
        if step + 1 == 3:
            third = {key.removeprefix("step3."): value for key, value in tensors.items() if key.startswith("step3.")}
            assert third
            check_weights(run.parts(), third, recorded["fp32_vs_fp64_after_step"]["3"])
        if str(step + 1) in recorded["checksums_after_step"]:
            check_checksums(run.parts(), recorded["checksums_after_step"][str(step + 1)], rel=1e-4)


@pytest.mark.parametrize("name", models_with("train.json"))
def test_training_with_a_clipping_threshold_that_bites(name):
    recorded = recording(name).numbers("train")["small_clip"]
    run = Run(name, max_grad_norm=recorded["clip_grad"])
    first = recorded["steps_21_to_30"][0]["step"] - 1
    for step in range(first):
        run.step(step)
    for theirs in recorded["steps_21_to_30"]:
        ours = run.step(theirs["step"] - 1)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=TOLERANCE)
        assert ours["context_encoder_grad_norm"] == pytest.approx(theirs["enc_norm_returned_by_clipping"], rel=2e-2)


@pytest.mark.parametrize("name", models_with("train.json"))
def test_clipping_begins_one_epoch_before_the_references(name):
    arguments, theirs = optimization_arguments(name), recording(name)
    recorded = theirs.numbers("train")["steps"]
    first = next(step for step, values in enumerate(recorded) if values["enc_norm_returned_by_clipping"])
    ours = next(step for step in range(arguments.max_steps) if math.isfinite(max_grad_norm(step, arguments)))
    assert ours == arguments.warmup_steps == first - theirs.optimization.ipe


def names_with_resume() -> list:
    found = [
        name
        for name in MODELS
        if isinstance(name, str)
        and (FIXTURES / name / "train.json").exists()
        and "resume" in recording(name).numbers("train")
    ]
    return found or [pytest.param("none", marks=pytest.mark.skip(reason=NO_FIXTURES))]


@pytest.mark.parametrize("name", names_with_resume())
def test_resuming_with_the_references_optimizer_state(name):
    recorded, run = recording(name).numbers("train"), Run(name)
    opt = torch.load(recording(name).checkpoint, weights_only=True)["opt"]["state"]
    order = [key.split(".", 1) for group in recorded["param_groups"] for key in group]
    parameters = dict(run.model.named_parameters())
    moments = {}
    for moment in ("exp_avg", "exp_avg_sq"):
        parts = {"encoder": {}, "predictor": {}}
        for index, state in opt.items():
            part, short = order[index]
            parts[part][short] = state[moment]
        moments[moment] = from_meta(parts)
    for key in moments["exp_avg"]:
        step = torch.tensor(float(next(iter(opt.values()))["step"]))
        run.optimizer.state[parameters[key]] = {"step": step} | {m: moments[m][key].double() for m in moments}
    tensors = recording(name).tensors("train")
    for count, theirs in enumerate(recorded["resume"]["steps"], start=1):
        ours = run.step(theirs["step"] - 1)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=TOLERANCE)
        if count == 3:
            third = {key.removeprefix("resume_step3."): v for key, v in tensors.items() if key.startswith("resume_")}
            check_weights(run.parts(), third, recorded["fp32_vs_fp64_after_step"]["3"])


@pytest.mark.parametrize("name", models_with("probe_train.json"))
def test_training_steps_of_a_probe(name):
    source = recording(name)
    recorded, tensors, io = source.numbers("probe_train"), source.tensors("probe_train"), source.tensors()
    model = load(VJEPAForVideoClassification, name)
    model.vjepa.requires_grad_(False)
    optimizer = torch.optim.AdamW(parameter_groups(model))
    labels = torch.tensor(recorded["labels"])
    features = io["target.out"][: len(labels)]
    for step in range(len(recorded["loss"])):
        values = probe_hyperparameters(recorded["hyper"], step, recorded["lr_all"])
        assert values["learning_rate"] == pytest.approx(recorded["lr_all"][step], rel=1e-9)
        assert values["weight_decay"] == pytest.approx(recorded["wd_all"][step], rel=1e-9)
        set_hyperparameters(optimizer, values)
        loss = torch.nn.functional.cross_entropy(model.classifier(model.pooler(features)), labels)
        assert loss.item() == pytest.approx(recorded["loss"][step], rel=5e-5)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert norm.item() == pytest.approx(recorded["clip_norm"][step], rel=1e-4)
        optimizer.step()
        optimizer.zero_grad()
    probe = to_meta({key: value for key, value in model.state_dict().items() if not key.startswith("vjepa.")})
    noise = {f"classifier.{key}": value for key, value in recorded["fp32_vs_fp64_after_step_3"].items()}
    expected = {key.replace("step3.", "classifier."): value for key, value in tensors.items()}
    check_weights(probe, expected, noise)


def probe_hyperparameters(hyper: dict, step: int, lr_all: list[float]) -> dict[str, float]:
    """Our schedules with Meta's settings of a probe: as long as the run, weight decay falling to 1e-6."""
    layout = {"max_steps": len(lr_all), "schedule_scale": 1.0}
    steps_per_epoch = len(lr_all) // hyper["num_epochs"]
    return {
        "learning_rate": learning_rate(
            step,
            warmup_steps=int(hyper["warmup"] * steps_per_epoch),
            start=hyper["start_lr"],
            peak=hyper["lr"],
            final=hyper["final_lr"],
            **layout,
        ),
        "weight_decay": weight_decay(step, start=hyper["weight_decay"], final=1e-6, **layout),
    }


# --- clips and views -----------------------------------------------------------------------------------------------


@functools.cache
def data_numbers(file: str) -> dict:
    if not (FIXTURES / "data" / file).exists():
        pytest.skip(NO_FIXTURES)
    path = FIXTURES / "data" / file
    return load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())


def grey_levels(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest distance of normalized frames (T, C, H, W) in grey levels."""
    std = torch.tensor(VJEPAVideoProcessor.image_std).view(3, 1, 1)
    assert ours.shape == theirs.shape
    return ((ours - theirs) * std * 255).abs().max().item()


def eval_cases(num_views: int) -> list[str]:
    path = FIXTURES / "data" / "transforms.json"
    cases = json.loads(path.read_text())["eval"] if path.exists() else {}
    found = [case for case in cases if case.endswith(f"views{num_views}")]
    return found or [pytest.param("none", marks=pytest.mark.skip(reason=NO_FIXTURES))]


@pytest.mark.parametrize("case", eval_cases(1))
def test_evaluation_transform_with_one_view(case):
    tensors, settings = data_numbers("transforms.safetensors"), data_numbers("transforms.json")["eval"][case]
    frames = tensors[f"eval.{case.split('.')[0]}.input"].permute(0, 3, 1, 2)
    processor = VJEPAVideoProcessor(crop_size=settings["crop_size"], do_sample_frames=False)
    theirs = tensors[f"eval.{case}.view0"].transpose(0, 1)
    assert grey_levels(processor(frames, resample="opencv")["pixel_values_videos"][0], theirs) < 1e-3
    assert 0.9 < grey_levels(processor(frames)["pixel_values_videos"][0], theirs) < 1.1


@pytest.mark.parametrize("case", eval_cases(3))
def test_evaluation_transform_with_three_views(case):
    tensors, settings = data_numbers("transforms.safetensors"), data_numbers("transforms.json")["eval"][case]
    frames = tensors[f"eval.{case.split('.')[0]}.input"].permute(0, 3, 1, 2)
    settings = {"crop_size": settings["crop_size"], "num_crops": 3, "resample": "opencv"}
    processor = VJEPAVideoProcessor(**settings, do_sample_frames=False)
    views = processor(frames)["pixel_values_videos"][0]
    assert len(views) == 3
    for number, view in enumerate(views):
        assert grey_levels(view, tensors[f"eval.{case}.view{number}"].transpose(0, 1)) < 1e-3


@pytest.mark.parametrize("name", models_with("aggregation.safetensors"))
@torch.no_grad()
def test_clips_and_views_are_averaged_as_probabilities(name):
    recorded, model = recording(name).tensors("aggregation"), load(VJEPAForVideoClassification, name)
    keys = sorted(key for key in recorded if key.startswith("clip_q."))
    views = torch.stack([as_clips(recorded[key]) for key in keys], dim=1)  # (B, V, T, C, H, W)
    outputs = model(views, labels=recorded["labels"])
    for index, key in enumerate(keys):
        clip, view = key.split(".")[1:]
        logits = model(views[:, index]).logits
        assert relative_error(logits, recorded[f"separate.logits.{view}.{clip}"]) <= TOLERANCE
    assert relative_error(outputs.logits.softmax(-1), recorded["separate.mean_probs"]) <= TOLERANCE
    assert outputs.loss.item() == pytest.approx(recorded["separate.loss"].item(), rel=TOLERANCE)


@pytest.mark.parametrize("name", models_with("aggregation.safetensors"))
@torch.no_grad()
def test_a_probe_may_attend_over_the_tokens_of_all_clips(name):
    recorded, model = recording(name).tensors("aggregation"), load(VJEPAForVideoClassification, name)
    keys = sorted((key for key in recorded if key.startswith("clip_q.")), key=lambda key: key.split(".")[::-1])
    videos = torch.stack([as_clips(recorded[key]) for key in keys], dim=1)  # all clips of a view, then of the next
    model.config.pooler_num_clips = num_clips = len({key.split(".")[1] for key in keys})
    for view, clips in enumerate(videos.split(num_clips, dim=1)):
        assert relative_error(model(clips).logits, recorded[f"joint.logits.view{view}"]) <= TOLERANCE
    outputs = model(videos, labels=recorded["labels"])
    assert relative_error(outputs.logits.softmax(-1), recorded["joint.mean_probs"]) <= TOLERANCE
    assert outputs.loss.item() == pytest.approx(recorded["joint.loss"].item(), rel=TOLERANCE)


@pytest.mark.parametrize("name", models_with("aggregation.safetensors"))
def test_scores_from_kept_features_are_the_recorded_ones(name):
    recorded, model = recording(name).tensors("aggregation"), load(VJEPAForVideoClassification, name)
    keys = sorted((key for key in recorded if key.startswith("clip_q.")), key=lambda key: key.split(".")[::-1])
    with torch.no_grad():
        tokens = torch.stack([model.vjepa(as_clips(recorded[key])).last_hidden_state for key in keys], dim=1)
    for num_clips, kind in ((1, "separate"), (len({key.split(".")[1] for key in keys}), "joint")):
        model.config.pooler_num_clips = num_clips
        features = VideoFeatures(tokens.numpy())
        _, logits = predict(model, [head_of(model)], features, np.arange(len(tokens)), batch_size=2)
        assert relative_error(torch.from_numpy(logits[0]).softmax(-1), recorded[f"{kind}.mean_probs"]) <= TOLERANCE


@pytest.mark.parametrize("case", ["a.flip0", "a.flip1", "b.flip0", "b.flip1"])
def test_pretraining_transform_is_the_references_to_one_grey_level(case):
    tensors, settings = data_numbers("transforms.safetensors"), data_numbers("transforms.json")["pretrain"][case]
    frames = tensors[f"pretrain.{case.split('.')[0]}.input"].permute(0, 3, 1, 2)
    top, left, height, width = settings["box_top_left_height_width"]
    size = [settings["crop_size"]] * 2
    ours = functional.resized_crop(frames, top, left, height, width, size, antialias=False)
    ours = functional.horizontal_flip(ours) if settings["flipped"] else ours
    ours = normalize(ours, VJEPAVideoProcessor.image_mean, VJEPAVideoProcessor.image_std)
    # Ours are whole numbers until they are on the device, theirs are not.
    assert 0 < grey_levels(ours, tensors[f"pretrain.{case}.output"].transpose(0, 1)) < 1.001


@each_model
def test_reading_a_checkpoint_changes_no_weight(name):
    parts, _ = read_checkpoint(recording(name).checkpoint)
    back = to_meta(from_meta(parts))
    for part in parts:
        assert parts[part].keys() == back[part].keys()
        assert all(torch.equal(parts[part][key], back[part][key]) for key in parts[part])
