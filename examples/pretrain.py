"""Pretrain a V-JEPA model on unlabelled videos.

    accelerate launch examples/pretrain.py

makes a toy set if it is missing and learns on it within minutes on two CPU cores. On your own videos:

    accelerate launch examples/pretrain.py --config examples/configs/vitl16.yaml --videos FOLDER --output_dir OUTPUT

`--resume` continues a run, `--help` lists all arguments. `python`, `torchrun` and `srun` start it as well.
"""

import subprocess
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device

from vjepa_hf import VJEPAForPreTraining, data, diagnostics, training
from vjepa_hf.arguments import parse_arguments
from vjepa_hf.transforms import RandomResizedCropFlip, normalize
from vjepa_hf.visualization import plot_curves

HERE = Path(__file__).parent
TOY_VIDEOS = Path("output/toy_videos")


def toy_videos() -> Path:
    """The list of the toy set, which is made if it is missing."""
    if not (TOY_VIDEOS / "train.csv").exists():
        subprocess.run([sys.executable, HERE / "make_toy_videos.py", TOY_VIDEOS], check=True)
    return TOY_VIDEOS / "train.csv"


def main() -> None:
    # 1. Arguments: one YAML file, overridden by the command line.
    args = parse_arguments(default_config=HERE / "configs" / "tiny_cpu.yaml")
    source, optimization, run = args.data, args.optimization, args.run

    # 2. Machines: the same script on one process or many, on CPU or GPU.
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # without it, several processes on CPU would not know each other
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        mixed_precision=run.mixed_precision,
        log_with=run.report_to or None,
        project_dir=run.output_dir,
    )
    torch.set_num_threads(run.cpu_threads or torch.get_num_threads())
    with accelerator.main_process_first():
        videos = data.load_videos(source.videos or toy_videos(), source.video_column)

    # 3. Model: context encoder and predictor learn, the target encoder follows the context encoder as an average.
    torch.manual_seed(run.seed)
    config = training.model_config(args.model, num_mask_kinds=len(args.masks.mask_num_blocks))
    model = VJEPAForPreTraining(config)
    if run.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    processor = training.make_processor(config, source)
    model, optimizer = accelerator.prepare(model, training.make_optimizer(model, optimization))
    vjepa = accelerator.unwrap_model(model)

    # 4. Data: clips and masks are functions of (seed, epoch, sample id).
    augment = RandomResizedCropFlip(
        config.image_size, source.crop_scale, source.crop_aspect_ratio, source.flip_probability
    )
    clips = data.VideoClipDataset(
        videos,
        num_frames=config.num_frames,
        frame_step=source.frame_step,
        transform=augment,
        seed=run.seed,
        short_video=source.short_video,
        max_attempts=source.max_decode_attempts,
    )
    collate = data.PretrainingCollator(training.mask_sampler(args.masks, config.grid_size, run.seed))

    # 5. Resume: all that decides the next step is in the checkpoint or is a function of the step.
    training.prepare_output_dir(accelerator, args)
    progress = training.load_checkpoint(accelerator, run.output_dir) if run.resume else training.Progress()
    sampler = data.ClipBatchSampler(
        num_samples=len(videos),
        per_device_batch_size=optimization.per_device_batch_size,
        num_steps=optimization.max_steps - progress.step,
        seed=run.seed,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        first_clip=progress.clips,
        mask_group_size=args.masks.mask_group_size,
    )
    loader = torch.utils.data.DataLoader(
        clips,
        batch_sampler=sampler,
        num_workers=source.num_workers,
        collate_fn=collate,
        pin_memory=accelerator.device.type == "cuda",
    )

    # 6. Loop: one optimizer step is one or more forward passes, whose gradients are averaged.
    accelerator.print(training.run_summary(accelerator, args, len(videos), model))
    log = training.RunLog(accelerator, args, progress.step)
    failures, throughput, losses = data.FailureLog(source.max_failed_share), training.Throughput(), []
    for batch in throughput.timed(loader):
        values = training.hyperparameters(progress.step, optimization)
        training.set_hyperparameters(optimizer, values)
        for failure in failures.update(batch["failures"], num_loaded=optimization.per_device_batch_size):
            print(f"took another video for an unreadable one, {failure.cause}", file=sys.stderr)
        with accelerator.accumulate(model):
            batch = send_to_device(batch, accelerator.device, non_blocking=True)
            pixels = normalize(batch["pixel_values_videos"], processor.image_mean, processor.image_std)
            outputs = model(pixels, batch["context_masks"], batch["target_masks"])
            accelerator.backward(outputs.loss)
            losses.append(outputs.loss.detach())
            if accelerator.sync_gradients:
                accelerator.unscale_gradients(optimizer)
                norms = training.clip_gradients(vjepa, training.max_grad_norm(progress.step, optimization))
            optimizer.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue  # the average must follow real optimizer steps only
        if not accelerator.optimizer_step_was_skipped:
            vjepa.update_target_encoder(values["ema_momentum"])
        progress = progress.after_step(sampler.clips_per_step)
        throughput.clips += sampler.clips_per_step
        log.bar.update()

        # 7. Log and save. Figures leave the device only here.
        step, last = progress.step, progress.step == optimization.max_steps
        if step % run.logging_steps == 0 or last:
            figures = training.progress_figures(accelerator, losses, norms, throughput)
            figures |= values | {"failed_videos": failures.total()}
            log.write_progress(step, figures)
            losses.clear()
        if step % run.health_steps == 0 or last:
            figures = diagnostics.health(outputs.predictions, outputs.targets, accelerator.gather)
            log.write_health(step, figures, diagnostics.alarms(figures))
        if step % run.save_steps == 0 or last:
            training.save_checkpoint(accelerator, run.output_dir, progress, run.save_total_limit)
            training.export(accelerator, model, processor, run.output_dir)

    # 8. Results: the curves, and the line that loads the model.
    log.close()
    if accelerator.is_main_process:
        plot_curves(training.read_log(log.path), Path(run.output_dir) / "curves.png", title=run.output_dir)
    accelerator.print(f'wrote curves.png; load the encoder: VJEPAModel.from_pretrained("{run.output_dir}")')


if __name__ == "__main__":
    main()
