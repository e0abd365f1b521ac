"""Pretrain a V-JEPA model on unlabelled videos.

    accelerate launch examples/pretrain.py

makes a toy set and trains on it within minutes on two CPU cores. On your own videos:

    accelerate launch examples/pretrain.py --config vitl16 --videos FOLDER --output_dir OUTPUT

`--resume` resumes a run, `--push_to_hub` uploads it, `--help` lists all options. `python`, `torchrun`, `srun` and
`vjepa-hf pretrain` work too.
"""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import torch

from vjepa_hf import VJEPAForPreTraining
from vjepa_hf.data.input_log import InputLog
from vjepa_hf.data.sources import load_images, load_videos
from vjepa_hf.evaluation.online import make_online_evaluation
from vjepa_hf.training import setup as training
from vjepa_hf.training.arguments import mistakes_exit, parse_arguments
from vjepa_hf.training.checkpoints import save_checkpoint
from vjepa_hf.training.launcher import make_pretraining_accelerator
from vjepa_hf.training.log import Monitor, run_summary
from vjepa_hf.training.optimization import (
    clip_gradients,
    context_loss_options,
    hyperparameters,
    make_optimizer,
    max_grad_norm,
    set_hyperparameters,
)
from vjepa_hf.training.output import check_export, check_run_dir, export, finish, prepare_output_dir, starting_point
from vjepa_hf.training.run_guard import RunGuard
from vjepa_hf.training.sharing import Sharing
from vjepa_hf.training.starting_weights import freeze_first_layers, freeze_image_tokenizer, load_starting_weights

HERE = Path(__file__).parent
TOY_VIDEOS = Path("output/toy_videos")


def toy_videos() -> Path:
    """Return the list of the toy videos; make them if they are missing."""
    if not (TOY_VIDEOS / "train.csv").exists():
        subprocess.run([sys.executable, HERE / "make_toy_videos.py", "--output_dir", TOY_VIDEOS], check=True)
    return TOY_VIDEOS / "train.csv"


def main() -> None:
    # 1. Arguments: one YAML file, overridden by the command line.
    args = parse_arguments(default_config=HERE / "configs" / "tiny_cpu.yaml")
    data, optimization, run = args.data, args.optimization, args.run

    # 2. Processes: the same script on one or many, on CPU or GPU. A mistake is one sentence, before the run starts.
    with mistakes_exit():
        accelerator = make_pretraining_accelerator(run, optimization)
        check_run_dir(accelerator, run)
        config = training.model_config(args)
        torch.set_num_threads(run.cpu_threads or torch.get_num_threads())
        with accelerator.main_process_first():
            sources = data.videos or [toy_videos()]
            videos = [load_videos(source, data.video_column, data.streaming) for source in sources]
            images = [load_images(source) for source in data.images]

        # 3. Model: context encoder and predictor train; the target encoder is a moving average of the context encoder.
        torch.manual_seed(run.seed)
        model = VJEPAForPreTraining(config)
        if optimization.init_from and not run.resume:
            accelerator.print(load_starting_weights(model, optimization.init_from, optimization.init_parts))
        freeze_first_layers(model, optimization.freeze_layers)
        if not images:
            freeze_image_tokenizer(model)
        if run.gradient_checkpointing:
            training.checkpoint_activations(model)
        if run.compile:
            training.compile_layers(model)
        processor = training.make_processor(config, data)
        model, optimizer = accelerator.prepare(model, make_optimizer(model, optimization))
        vjepa = accelerator.unwrap_model(model)
        online = make_online_evaluation(accelerator, args.evaluation, processor, data.num_workers)

        # 4. Resume: the state of the run is in the checkpoint; everything else is a function of the step.
        inputs = InputLog(data.max_failed_share)
        guard = RunGuard(accelerator, run.max_skipped_steps, run.max_grad_norm_ratio)
        accelerator.register_for_checkpointing(inputs, guard)
        sharing = Sharing(accelerator, args, config)  # the model card, and uploads to the Hub
        prepare_output_dir(accelerator, args)
        progress = starting_point(accelerator, args, videos, images)

        # 5. Data: clips and masks are functions of (seed, epoch, sample id); workers decode, augment and draw masks.
        loader = training.make_loader(accelerator, args, config, videos, progress, inputs)
        augment = training.make_transform(config.frame_size, data) if data.augment_on_device else None
        batches = training.ready_batches(loader, accelerator.device, processor, run.seed, augment)
        if images:  # V-JEPA 2.1: some of the forward passes of a step
            image_loader, seed = training.make_image_loader(accelerator, args, config, images, progress)
            image_batches = training.ready_batches(image_loader, accelerator.device, processor, seed, augment)
            batches = training.mix_modalities(batches, image_batches, optimization)
        num_clips = training.global_batch_size(accelerator, optimization)
        num_images = training.global_image_batch_size(accelerator, optimization)

    # 6. Loop: an optimizer step has one or more batches, and each runs once per mask type; gradients add up.
    summary = run_summary(accelerator, args, None if data.streaming else len(loader.dataset), model)
    accelerator.print(summary)
    evaluate = online.metrics if online else None
    monitor = Monitor(accelerator, args, vjepa, inputs, guard, progress.step, evaluate=evaluate, summary=summary)
    if progress.step >= optimization.max_steps:  # the run died between its last checkpoint and the export
        export(accelerator, model, processor, run.output_dir)
    with guard.signals(), closing(monitor.log.bar):  # a stop signal ends the run after the current step
        for batch in monitor.batches(batches):
            values = hyperparameters(progress.step, optimization)
            options = context_loss_options(progress.step, optimization)  # of V-JEPA 2.1
            set_hyperparameters(optimizer, values)
            with accelerator.accumulate(model):
                pixels = batch["pixel_values_videos"]
                masks = list(zip(batch["context_masks"], batch["target_masks"], strict=True))
                outputs, target_hidden_state = [], None
                for index, (context_mask, target_mask) in enumerate(masks):
                    with training.gradient_sync(accelerator, model, last_mask_type=index + 1 == len(masks)):
                        output = model(pixels, [context_mask], [target_mask], [index], target_hidden_state, **options)
                        accelerator.backward(output.loss / len(masks))  # frees the activations of this mask type
                    target_hidden_state = output.target_hidden_state
                    outputs.append(output)
                guard.watch(batch, torch.stack([output.loss.detach() for output in outputs]).mean())
                if accelerator.sync_gradients:
                    accelerator.unscale_gradients(optimizer)
                    norms = clip_gradients(vjepa, max_grad_norm(progress.step, optimization))
                    if not guard.accepts(norms):
                        optimizer.zero_grad()  # without gradients, the optimizer changes nothing
                optimizer.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue  # update the moving average only after optimizer steps
            if not guard.skip_reason:
                vjepa.update_target_encoder(values["ema_momentum"])
            progress = progress.after_step(num_clips, num_images)

            # 7. Log and save.
            monitor.step(progress.step, values, batch, outputs)
            if guard.stop or progress.step % run.save_steps == 0 or progress.step == optimization.max_steps:
                save_checkpoint(accelerator, run.output_dir, progress, run.save_total_limit)
                export(accelerator, model, processor, run.output_dir)
                sharing.save(progress)
            if guard.stop:
                break

    # 8. Results: check the exported model, plot the curves, share, and print how to load the model.
    check_export(accelerator, model, run.output_dir)
    monitor.close()
    sharing.save(progress, at_end=True)
    finish(accelerator, args, guard, progress)


if __name__ == "__main__":
    main()
