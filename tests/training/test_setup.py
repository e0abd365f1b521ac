"""Model, masks, processor and batches follow the arguments of a run.

pytest tests/training/test_setup.py
"""

import copy
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from tiny_run import tiny_arguments
from vjepa_hf import VJEPAForPreTraining
from vjepa_hf.data.clips import augment_clips
from vjepa_hf.data.masking import MultiBlockMask, RandomTubeMask
from vjepa_hf.data.sources import load_images
from vjepa_hf.data.transforms import normalize
from vjepa_hf.training.arguments import PretrainingArguments
from vjepa_hf.training.checkpoints import Progress
from vjepa_hf.training.setup import (
    compile_layers,
    global_batch_size,
    global_image_batch_size,
    gradient_sync,
    make_image_loader,
    make_processor,
    make_transform,
    mask_sampler,
    mix_modalities,
    model_config,
    ready_batches,
)


def test_compiled_code_is_shared_by_layers_and_does_not_depend_on_token_counts():
    torch._dynamo.reset()
    sizes = ("--model.num_hidden_layers", "5", "--model.pred_num_hidden_layers", "4")
    config = model_config(tiny_arguments(*sizes))
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
    assert counts == [3, 0, 0]  # target encoder, context encoder and predictor
    assert set(model.state_dict()) == names


def test_compiling_with_stochastic_depth_is_an_error():
    config = model_config(tiny_arguments("--model.drop_path_rate", "0.3"))
    with pytest.raises(ValueError, match="drop_path_rate=0.3 does not work with compile"):
        compile_layers(VJEPAForPreTraining(config))


def test_compiled_layers_give_the_same_loss_and_gradients():
    torch._dynamo.reset()
    arguments = tiny_arguments("--model.num_hidden_layers", "2", "--model.pred_num_hidden_layers", "2")
    plain = VJEPAForPreTraining(model_config(arguments))
    compiled = copy.deepcopy(plain)
    compile_layers(compiled, backend="eager")
    clips = torch.randn(2, 4, 3, 32, 32)
    masks = mask_sampler(arguments.masking, (2, 4, 4), seed=0)([(0, 0), (0, 1)])
    gradients = []
    for model in (plain, compiled):
        model(clips, *masks).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_model_processor_and_masks_follow_the_arguments():
    masks = "[{type: multi_block, num_blocks: 4}, {type: random_tube, ratio: 0.9}, {type: random_tube, ratio: 0.5}]"
    args = tiny_arguments("--model.image_size", "[32, 48]", "--frame_step", "3", "--masks", masks)
    config = model_config(args)
    assert config.grid_size == (2, 4, 6) and config.pred_num_mask_tokens == 3
    processor = make_processor(config, args.data)
    assert (processor.num_frames, processor.frame_step) == (4, 3)
    assert (processor.crop_size.height, processor.crop_size.width) == (32, 48)
    sampler = mask_sampler(args.masking, config.grid_size, seed=0)
    assert sampler.masks == (MultiBlockMask(4), RandomTubeMask(0.9), RandomTubeMask(0.5))


def test_every_field_of_the_model_can_be_set():
    args = tiny_arguments("--model.uniform_power", "false", "--model.pred_num_attention_heads", "1")
    config = model_config(args)
    assert config.uniform_power is False and config.pred_num_attention_heads == 1
    assert model_config(tiny_arguments("--model.pred_num_mask_tokens", "1")).pred_num_mask_tokens == 1


def test_batches_are_normalized_and_augmented_as_in_the_workers():
    args = tiny_arguments("--crop_scale", "0.5", "0.5")
    processor = make_processor(model_config(args), args.data)
    augment = make_transform((32, 32), args.data)
    keys = [(0, 0, 0), (0, 1, 0)]
    clips = [torch.randint(0, 256, (4, 3, 40, 40 + size), dtype=torch.uint8) for size in (0, 8)]
    augmented = augment_clips(clips, keys, augment, seed=3)
    on_device = [{"pixel_values_videos": clips, "clip_keys": keys}]
    in_workers = [{"pixel_values_videos": augmented, "clip_keys": keys}]
    cpu = torch.device("cpu")
    (first,) = ready_batches(on_device, cpu, processor, 3, augment)
    (second,) = ready_batches(in_workers, cpu, processor, 3)
    assert first["pixel_values_videos"].dtype == torch.float32
    assert torch.equal(first["pixel_values_videos"], second["pixel_values_videos"])
    assert torch.equal(second["pixel_values_videos"], normalize(augmented, processor.image_mean, processor.image_std))


# --- images ---


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(np.full((40, 48, 3), 20 * number, np.uint8)).save(folder / f"{number}.png")
    return folder


def image_arguments(folder: Path) -> PretrainingArguments:
    words = "--model.image_tokenizer true --image_passes 1 --gradient_accumulation_steps 3 --max_steps 4".split()
    words += "--per_device_image_batch_size 3 --num_workers 0 --seed 5 --images".split()
    return tiny_arguments(*words, str(folder), "--image_masks", "[{type: random_tube, ratio: 0.5}]")


def test_images_are_clips_of_one_frame_with_masks_of_their_own(images, accelerator):
    args = image_arguments(images)
    config = model_config(args)
    loader, seed = make_image_loader(accelerator, args, config, [load_images(images)], Progress())
    assert seed != args.run.seed
    batches = list(loader)
    assert len(batches) == 4
    for batch in batches:
        assert batch["pixel_values_videos"].shape == (3, 1, 3, 32, 32)
        (context,), (target,) = batch["context_masks"], batch["target_masks"]
        assert sorted(torch.cat([context[0], target[0]]).tolist()) == list(range(16)) and target.shape == (3, 8)
    names = [name for batch in batches for name in batch["video_names"]]
    assert len(set(names[:5])) == len(set(names[5:10])) == 5  # each image once per epoch
    resumed, _ = make_image_loader(accelerator, args, config, [load_images(images)], Progress(2, images=6))
    for first, second in zip(resumed, batches[2:], strict=True):
        assert torch.equal(first["pixel_values_videos"], second["pixel_values_videos"])
        assert first["clip_keys"] == second["clip_keys"]


def test_every_step_begins_with_its_passes_over_images(images, accelerator):
    optimization = image_arguments(images).optimization
    videos, stills = [{"clip": index} for index in range(4)], [{"image": index} for index in range(2)]
    mixed = [next(iter(batch.items())) for batch in mix_modalities(videos, stills, optimization)]
    assert mixed == [("image", 0), ("clip", 0), ("clip", 1), ("image", 1), ("clip", 2), ("clip", 3)]
    assert global_batch_size(accelerator, optimization) == 2 * optimization.per_device_batch_size
    assert global_image_batch_size(accelerator, optimization) == 3


# --- one mask type after the other ---


def write_gradients(rank: int, processes: int, port: int, folder: Path) -> None:
    """Write loss and gradients of one step over two clips, for all mask types jointly and one by one."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(processes)}
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    args = tiny_arguments()
    torch.manual_seed(0)
    model = accelerator.prepare(VJEPAForPreTraining(model_config(args)))
    clips = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(rank))
    context_masks, target_masks = mask_sampler(args.masking, (2, 4, 4), seed=0)([(0, 2 * rank), (0, 2 * rank + 1)])

    def gradients() -> dict[str, torch.Tensor]:
        parameters = accelerator.unwrap_model(model).named_parameters()
        copies = {name: weight.grad.clone() for name, weight in parameters if weight.grad is not None}
        model.zero_grad()
        return copies

    loss = model(clips, context_masks, target_masks).loss
    accelerator.backward(loss)
    joint = gradients()
    losses, target_hidden_state = [], None
    for index, (context_mask, target_mask) in enumerate(zip(context_masks, target_masks, strict=True)):
        with gradient_sync(accelerator, model, last_mask_type=index == 1):
            output = model(clips, [context_mask], [target_mask], [index], target_hidden_state)
            accelerator.backward(output.loss / 2)
        target_hidden_state = output.target_hidden_state
        losses.append(output.loss.detach())
    separate = torch.stack(losses).mean(), gradients()
    torch.save({"joint": (loss.detach(), joint), "separate": separate}, folder / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.invariant
@pytest.mark.parametrize("processes", [1, 2])
def test_mask_types_one_by_one_give_the_joint_gradients(processes, tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    ranks = range(processes)
    started = [context.Process(target=write_gradients, args=(rank, processes, port, tmp_path)) for rank in ranks]
    for process in started:
        process.start()
    for process in started:
        process.join()
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in ranks]
    for result in results:
        (loss, joint), (mean, separate) = result["joint"], result["separate"]
        torch.testing.assert_close(mean, loss)
        assert joint.keys() == separate.keys() and any("mask_tokens" in name for name in joint)
        for name, gradient in joint.items():
            torch.testing.assert_close(separate[name], gradient, msg=name)
    for result in results:  # averaged over processes
        for name, gradient in results[0]["separate"][1].items():
            torch.testing.assert_close(result["separate"][1][name], gradient, msg=name)
