"""Parameter groups, schedules over a run, the folder of a run, logs that resume without doubles.

pytest tests/training/test_setup.py
"""

import copy
import json
import math

import pytest
import torch
from accelerate import Accelerator
from torch._functorch import config as compiler_config

from vjepa_hf import VJEPAForPreTraining, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.data.masking import CausalMask, MultiBlockMask
from vjepa_hf.training import setup as training
from vjepa_hf.training.arguments import parse_arguments
from vjepa_hf.training.log import RunLog, Throughput, memory_gib, read_log, run_summary
from vjepa_hf.training.optimization import (
    clip_gradients,
    hyperparameters,
    make_optimizer,
    max_grad_norm,
    parameter_groups,
    set_hyperparameters,
)
from vjepa_hf.training.output import export, prepare_output_dir
from vjepa_hf.training.setup import compile_layers, make_processor, mask_sampler, model_config

TINY = "--image_size 32 --num_frames 4 --patch_size 8 --hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2"
TINY += " --pred_hidden_size 16 --pred_num_hidden_layers 1 --max_steps 10 --warmup_steps 4"


def tiny_arguments(*more: str):
    return parse_arguments([*TINY.split(), *more])


@pytest.fixture
def model() -> VJEPAForPreTraining:
    torch.manual_seed(0)
    return VJEPAForPreTraining(model_config(tiny_arguments().model, num_mask_kinds=2))


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


# --- model and optimizer ---


def test_compiled_code_is_shared_by_layers_and_does_not_depend_on_token_counts():
    torch._dynamo.reset()
    sizes = ("--num_hidden_layers", "5", "--pred_num_hidden_layers", "4")
    config = model_config(tiny_arguments(*sizes).model, num_mask_kinds=2)
    model = VJEPAForPreTraining(config)
    clips = torch.randn(2, 4, 3, 32, 32)
    names = set(model.state_dict())
    compile_layers(model, backend="eager")
    counts = []
    for num_context, num_targets in ((9, 14), (11, 17), (5, 26)):
        context_mask, target_mask = torch.arange(32).expand(2, -1).split([num_context, 32 - num_context], dim=1)
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        model(clips, [context_mask], [target_mask[:, :num_targets]]).loss.backward()
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"] - before)
    assert counts == [4, 0, 0]  # target encoder, context encoder, predictor, and its last layer
    assert set(model.state_dict()) == names


def test_stochastic_depth_is_not_compiled_a_layer_at_a_time():
    config = model_config(tiny_arguments("--drop_path_rate", "0.3").model, num_mask_kinds=2)
    with pytest.raises(ValueError, match="drop_path_rate=0.3 does not go with compile"):
        compile_layers(VJEPAForPreTraining(config))


def test_compiled_layers_give_the_same_loss_and_gradients_packed_or_not():
    torch._dynamo.reset()
    arguments = tiny_arguments("--num_hidden_layers", "2", "--pred_num_hidden_layers", "2")
    plain = VJEPAForPreTraining(model_config(arguments.model, num_mask_kinds=2))
    compiled = copy.deepcopy(plain)
    compile_layers(compiled, backend="eager")
    clips = torch.randn(2, 4, 3, 32, 32)
    for mode in ("subsample", "packed"):
        arguments.masks.mask_mode = mode
        masks = mask_sampler(arguments.masks, (2, 4, 4), seed=0)([(0, 0), (0, 1)])
        gradients = []
        for model in (plain, compiled):
            model.zero_grad()
            model(clips, *masks).loss.backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_compiled_layers_keep_less_than_the_compiler_would(monkeypatch):
    arguments = tiny_arguments("--hidden_size", "64", "--num_hidden_layers", "3", "--pred_num_hidden_layers", "3")
    clips = torch.randn(2, 4, 3, 32, 32)
    masks = mask_sampler(arguments.masks, (2, 4, 4), seed=0)([(0, 0), (0, 1)])

    def kept_elements(share: float) -> int:
        torch._dynamo.reset()
        monkeypatch.setattr(training, "KEPT_ACTIVATIONS", share)
        model = VJEPAForPreTraining(model_config(arguments.model, num_mask_kinds=2))
        compile_layers(model, backend="aot_eager_decomp_partition")
        weights = {weight.data_ptr() for weight in model.parameters()}
        kept = {}

        def remember(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in weights:
                kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            loss = model(clips, *masks).loss
        loss.backward()
        return sum(kept.values())

    monkeypatch.setattr(compiler_config, "activation_memory_budget", compiler_config.activation_memory_budget)
    assert kept_elements(training.KEPT_ACTIVATIONS) < 0.85 * kept_elements(1.0)


def test_the_run_decides_model_processor_and_masks():
    args = tiny_arguments("--image_size", "32", "48", "--frame_step", "3", "--mask_num_blocks", "4", "1")
    config = model_config(args.model, num_mask_kinds=2)
    assert config.grid_size == (2, 4, 6) and config.pred_num_mask_tokens == 2
    processor = make_processor(config, args.data)
    assert (processor.num_frames, processor.frame_step) == (4, 3)
    assert (processor.crop_size.height, processor.crop_size.width) == (32, 48)
    sampler = mask_sampler(args.masks, config.grid_size, seed=0)
    assert [mask.num_blocks for mask in sampler.masks] == [4, 1]


def test_a_run_may_hide_the_future_with_or_without_blocks():
    future = tiny_arguments("--mask_num_blocks", "0", "2", "--mask_context_steps", "1").masks
    plain, blocks = mask_sampler(future, grid_size=(2, 4, 4), seed=0).masks
    assert plain == CausalMask(1) and blocks == CausalMask(1, MultiBlockMask(2, (0.7, 0.7)))
    context_masks, target_masks = mask_sampler(future, grid_size=(2, 4, 4), seed=0)([(0, 0), (0, 1)])
    assert (
        context_masks[0].max() == 15 and target_masks[0].min() == 16
    )  # all of the first step, then all of the second
    assert context_masks[1].max() <= 15 and context_masks[1].shape[1] < 16
    with pytest.raises(ValueError, match="mask_context_steps 1 must be less than the 1 time steps of a clip"):
        mask_sampler(future, grid_size=(1, 4, 4), seed=0)


def test_biases_and_vectors_are_not_decayed_and_the_target_encoder_is_not_trained(model):
    decayed, plain = parameter_groups(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(names[id(parameter)].endswith("bias") or parameter.ndim == 1 for parameter in plain["params"])
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    found = {names[id(parameter)] for group in (decayed, plain) for parameter in group["params"]}
    assert found == {name for name in names.values() if not name.startswith("vjepa.encoder.")}


def test_every_step_sets_its_own_values(model):
    optimization = tiny_arguments().optimization
    optimizer = make_optimizer(model, optimization)
    values = hyperparameters(3, optimization)
    set_hyperparameters(optimizer, values)
    assert values["learning_rate"] == optimization.learning_rate
    for decayed, plain in (optimizer.param_groups[:2], optimizer.param_groups[2:]):
        assert decayed["lr"] == plain["lr"] == values["learning_rate"]
        assert decayed["weight_decay"] == values["weight_decay"] > 0 == plain["weight_decay"]


def test_the_predictor_learns_faster_where_asked(model):
    optimization = tiny_arguments("--predictor_learning_rate_scale", "5").optimization
    optimizer = make_optimizer(model, optimization)
    set_hyperparameters(optimizer, hyperparameters(3, optimization))
    rate = optimization.learning_rate
    assert [group["lr"] for group in optimizer.param_groups] == [rate, rate, 5 * rate, 5 * rate]
    predictor = {id(parameter) for parameter in model.vjepa.predictor.parameters()}
    assert {id(parameter) for group in optimizer.param_groups[2:] for parameter in group["params"]} == predictor


def test_clipping_starts_after_the_warmup_unless_told_otherwise():
    optimization = tiny_arguments("--max_grad_norm", "3").optimization
    assert [max_grad_norm(step, optimization) for step in (0, 3, 4)] == [math.inf, math.inf, 3.0]
    assert max_grad_norm(0, tiny_arguments("--clip_after_warmup", "false").optimization) == 10.0


def test_encoder_and_predictor_are_clipped_each_by_itself(model):
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 1e-6 if name.startswith("vjepa.predictor") else 1.0)
    norms = clip_gradients(model, max_norm=1.0)
    assert norms["context_encoder_grad_norm"] > 1.0 > norms["predictor_grad_norm"]
    after = clip_gradients(model, max_norm=math.inf)
    assert after["context_encoder_grad_norm"].item() == pytest.approx(1.0, abs=1e-4)
    assert after["predictor_grad_norm"].item() == pytest.approx(norms["predictor_grad_norm"].item())


# --- output folder ---


def test_an_occupied_folder_is_left_alone_unless_told(accelerator, tmp_path):
    folder = tmp_path / "run"
    prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(folder)))
    assert (folder / "arguments.yaml").exists()
    with pytest.raises(ValueError, match="is not empty: add --resume"):
        prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(folder)))
    (folder / "old.txt").write_text("old")
    prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(folder), "--overwrite_output_dir"))
    assert not (folder / "old.txt").exists()


def test_a_folder_that_holds_no_run_is_never_deleted(accelerator, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds no run"):
        prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(tmp_path), "--overwrite_output_dir"))
    assert (tmp_path / "thesis.tex").exists()


def test_resume_without_a_checkpoint_is_an_error_and_no_fresh_start(accelerator, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(tmp_path), "--resume"))


def test_processes_that_do_not_know_each_other_are_refused(accelerator, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were launched but each knows of 1"):
        prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(tmp_path / "run")))


def test_the_export_loads_as_the_target_encoder(model, accelerator, tmp_path):
    args = tiny_arguments()
    model.update_target_encoder(0.5)
    export(accelerator, model, make_processor(model.config, args.data), tmp_path)
    loaded = VJEPAModel.from_pretrained(tmp_path)
    target = model.vjepa.encoder.state_dict()
    assert all(torch.equal(value, target[name]) for name, value in loaded.encoder.state_dict().items())
    assert VJEPAVideoProcessor.from_pretrained(tmp_path).num_frames == 4
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("unfinished")]


# --- log ---


def test_a_resumed_log_drops_the_steps_it_will_write_again(accelerator, tmp_path):
    args = tiny_arguments("--output_dir", str(tmp_path))
    log = RunLog(accelerator, args, first_step=0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0 / step})
    log.close()
    RunLog(accelerator, args, first_step=2).close()
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]


def test_a_new_log_is_empty(accelerator, tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    RunLog(accelerator, tiny_arguments("--output_dir", str(tmp_path)), first_step=0).close()
    assert read_log(tmp_path / "log.jsonl") == []


def test_the_summary_tells_clips_epochs_and_all_three_schedules_at_three_steps(accelerator, model):
    summary = run_summary(accelerator, tiny_arguments("--per_device_batch_size", "8"), num_videos=20, model=model)
    assert "8 clips a step" in summary and "80 clips in 10 steps = 4.0 epochs" in summary
    for name in ("first step", "warm-up end step", "last step"):
        (line,) = (line for line in summary.splitlines() if line.startswith(name))
        assert "lr" in line and "weight decay" in line and "EMA momentum" in line


def test_throughput_passes_every_batch_and_starts_anew_after_a_reading():
    throughput = Throughput()
    assert list(throughput.timed([1, 2, 3])) == [1, 2, 3]
    throughput.clips = 6
    figures = throughput.read()
    assert figures["clips_per_second"] > 0 and 0 <= figures["data_wait"] <= 1
    assert throughput.read()["clips_per_second"] == 0


def test_utilization_is_the_fraction_of_the_matmul_rate():
    throughput = Throughput(lambda: 1e12)
    throughput.started -= 100.0
    throughput.flops = 25 * 10**12
    assert throughput.read()["matmul_utilization"] == pytest.approx(0.25, rel=1e-2)
    assert throughput.read()["matmul_utilization"] == 0.0


def test_a_matmul_rate_that_was_measured_in_a_slow_moment_is_measured_again():
    rates = iter([1e12, 4e12])
    throughput = Throughput(lambda: next(rates))
    for expected in (0.25, 0.5, 0.5):  # of the first rate; twice that is beyond it; the second one stays
        throughput.started -= 100.0
        throughput.flops = 25 * 10**12 if expected == 0.25 else 200 * 10**12
        assert throughput.read()["matmul_utilization"] == pytest.approx(expected, rel=1e-2)


def test_memory_is_a_number_of_gib():
    assert 0.01 < memory_gib(torch.device("cpu")) < 1000
