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

from vjepa_hf import VJEPAForPreTraining
from vjepa_hf.data import clips as data
from vjepa_hf.data.input_log import InputLog
from vjepa_hf.data.sources import load_videos
from vjepa_hf.data.transforms import normalize
from vjepa_hf.evaluation.online import make_online_evaluation
from vjepa_hf.training import checkpoints, diagnostics, flops, run_guard
from vjepa_hf.training import setup as training
from vjepa_hf.training.arguments import parse_arguments
from vjepa_hf.training.log import RunLog, Throughput, progress_figures, read_log, run_matmul_rate, run_summary
from vjepa_hf.training.optimization import (
    clip_gradients,
    hyperparameters,
    make_optimizer,
    max_grad_norm,
    set_hyperparameters,
)
from vjepa_hf.training.output import export, finish, prepare_output_dir, starting_point
from vjepa_hf.training.starting_weights import freeze_first_layers, load_starting_weights
from vjepa_hf.visualization import plot_curves

HERE = Path(__file__).parent
TOY_VIDEOS = Path("output/toy_videos")


def toy_videos() -> Path:
    """The list of the toy set, which is made if it is missing."""
    if not (TOY_VIDEOS / "train.csv").exists():
        subprocess.run([sys.executable, HERE / "make_toy_videos.py", "--output_dir", TOY_VIDEOS], check=True)
    return TOY_VIDEOS / "train.csv"


def main() -> None:
    # 1. Arguments: one YAML file, overridden by the command line.
    args = parse_arguments(default_config=HERE / "configs" / "tiny_cpu.yaml")
    source, optimization, evaluation, run = args.data, args.optimization, args.evaluation, args.run

    # 2. Machines: the same script on one process or many, on CPU or GPU.
    training.check_launcher()
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # without it, several processes on CPU would not know each other
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        mixed_precision=run.mixed_precision,
        log_with=run.report_to or None,
        project_dir=run.output_dir,
    )
    torch.set_num_threads(run.cpu_threads or torch.get_num_threads())
    with accelerator.main_process_first():
        videos = source.videos or [toy_videos()]
        videos = [load_videos(name, source.video_column, source.streaming) for name in videos]

    # 3. Model: context encoder and predictor learn, the target encoder follows the context encoder as an average.
    torch.manual_seed(run.seed)
    config = training.model_config(args.model, num_mask_kinds=len(args.masks.mask_num_blocks))
    model = VJEPAForPreTraining(config)
    if args.model.init_from and not run.resume:
        accelerator.print(load_starting_weights(model, args.model.init_from, args.model.init_parts))
    freeze_first_layers(model, args.model.freeze_layers)
    if run.gradient_checkpointing:
        training.checkpoint_activations(model)
    if run.compile:
        training.compile_layers(model)
    processor = training.make_processor(config, source)
    model, optimizer = accelerator.prepare(model, make_optimizer(model, optimization))
    vjepa = accelerator.unwrap_model(model)
    online = make_online_evaluation(accelerator, evaluation, processor, source.num_workers)

    # 4. Resume: all that decides the next step is in the checkpoint or is a function of the step.
    inputs = InputLog(source.max_failed_share)
    guard = run_guard.RunGuard(accelerator, run.max_skipped_steps, run.max_grad_norm_ratio)
    accelerator.register_for_checkpointing(inputs, guard)
    prepare_output_dir(accelerator, args)
    progress = starting_point(accelerator, run)

    # 5. Data: clips and masks are functions of (seed, epoch, sample id); workers decode, augment and draw masks.
    loader = training.make_loader(accelerator, args, config, videos, progress, inputs)
    augment = training.make_transform(config.image_size, source)
    num_clips = training.clips_per_step(accelerator, optimization)

    # 6. Loop: one optimizer step is one or more forward passes, whose gradients are averaged.
    num_videos = None if source.streaming else len(loader.dataset)
    accelerator.print(run_summary(accelerator, args, num_videos, model))
    log = RunLog(accelerator, args, progress.step)
    throughput = Throughput(lambda: run_matmul_rate(accelerator))
    with guard.signals():  # that stop a job: the run then ends after its step
        for batch in throughput.timed(loader):
            values = hyperparameters(progress.step, optimization)
            set_hyperparameters(optimizer, values)
            inputs.update(batch)
            with accelerator.accumulate(model):
                batch = send_to_device(batch, accelerator.device, non_blocking=True)
                clips = batch["pixel_values_videos"]
                if source.augment_on_device:
                    clips = data.augment_clips(clips, batch["clip_keys"], augment, run.seed)
                pixels = normalize(clips, processor.image_mean, processor.image_std)
                masks = batch["context_masks"], batch["target_masks"]
                outputs = model(pixels, *masks)
                throughput.flops += flops.step_flops(config, *masks, args.model.freeze_layers)
                accelerator.backward(outputs.loss)
                guard.watch(batch, outputs.loss)
                if accelerator.sync_gradients:
                    accelerator.unscale_gradients(optimizer)
                    norms = clip_gradients(vjepa, max_grad_norm(progress.step, optimization))
                    if not guard.accepts(norms):
                        optimizer.zero_grad()  # an optimizer that finds no gradients changes nothing
                optimizer.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue  # the average must follow real optimizer steps only
            progress = progress.after_step(num_clips)
            if guard.wrong:
                log.write_skipped(progress.step, guard.skipped_step())
            else:
                vjepa.update_target_encoder(values["ema_momentum"])
            throughput.clips += num_clips
            log.bar.update()

            # 7. Log and save.
            step, last = progress.step, progress.step == optimization.max_steps
            save = step % run.save_steps == 0 or last
            if step % run.logging_steps == 0 or save:
                log.name_failures(inputs.gather())
                figures = progress_figures(accelerator, guard, throughput)
                log.write_progress(step, figures | values | inputs.figures())
            if (step % run.health_steps == 0 or last) and not guard.wrong:
                figures = diagnostics.health(vjepa, outputs, *masks, accelerator.gather)
                log.write_health(step, figures, diagnostics.alarms(figures, step > optimization.warmup_steps))
            if online and (step % evaluation.eval_steps == 0 or last):
                with training.callable_in_parts(vjepa):
                    log.write_health(step, online.metrics(vjepa.vjepa), alarms=[])
            if save or guard.stop:
                log.name_failures(inputs.gather())
                checkpoints.save_checkpoint(accelerator, run.output_dir, progress, run.save_total_limit)
                export(accelerator, model, processor, run.output_dir)
            if guard.stop:
                break

    # 8. Results: the curves, and the line that loads the model.
    log.close()
    if accelerator.is_main_process:
        plot_curves(read_log(log.path), Path(run.output_dir) / "curves.png", title=run.output_dir)
    finish(accelerator, args, guard, progress)


if __name__ == "__main__":
    main()
