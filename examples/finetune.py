"""Fine-tune a pretrained encoder as a classifier, with an unmodified `transformers.Trainer`.

    accelerate launch examples/finetune.py --label motion

starts from the run of examples/pretrain.py on the toy set. On your own videos (lists with a column of paths and one
of labels, or folders with one sub-folder per class):

    accelerate launch examples/finetune.py --model output/mine --train_videos train.csv --validation_videos val.csv \
        --test_videos test.csv --label action --layer_decay 0.75 --output_dir output/finetune

`--method frozen` trains the head only, `--method lora` trains adapters in every layer. All options of
`TrainingArguments` are options of this script too; `--config FILE.yaml` holds any of them, and `--resume` continues a
run. The folder it writes loads in `pipeline("video-classification")`. `python` and `torchrun` start it as well.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import EvalPrediction, Trainer, TrainingArguments, set_seed

from vjepa_hf import VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.data.labelled import LabelledVideos, TrainingVideos
from vjepa_hf.data.sources import load_videos
from vjepa_hf.data.transforms import Chain, RandAugment, RandomErasing, RandomResizedCropFlip, Transform
from vjepa_hf.evaluation.labels import read_labels
from vjepa_hf.evaluation.metrics import MeanClassAccuracy, TopKAccuracy
from vjepa_hf.training import finetuning
from vjepa_hf.training.arguments import mistakes_exit, option, parse


@dataclass
class TrainerArguments(TrainingArguments):
    """All of `TrainingArguments`, with these defaults."""

    output_dir: str = "output/finetune"
    num_train_epochs: float = 20
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    warmup_steps: float = 0.1
    lr_scheduler_type: str = "cosine"
    logging_steps: float = 20
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    dataloader_num_workers: int = 1
    report_to: list[str] | str = "none"
    use_cpu: bool = not torch.accelerator.is_available()  # else several processes on CPU would not be one group
    remove_unused_columns: bool = False  # our samples are not rows of a table


@dataclass
class FinetuningArguments:
    """Fine-tune a pretrained encoder as a classifier."""

    trainer: TrainerArguments
    model: str = option("folder or Hub name of a pretrained model", "output/pretrain")
    train_videos: str = option("source of the training videos", "output/toy_videos/train.csv")
    validation_videos: str | None = option("source to evaluate during training, as eval_strategy says", None)
    test_videos: str | None = option("source to evaluate once, after training", None)
    label: str = option("column with the labels; `label` for folders of classes", "label")
    resume: bool = option("continue from the newest checkpoint in output_dir", False)
    method: Literal["full", "frozen", "lora"] = option("trained besides the head: all, nothing, or adapters", "full")
    layer_decay: float = option("learning rate of a layer relative to the layer above it", 1.0)
    lora_rank: int = option("rank of the adapters", 8)
    lora_alpha: float = option("adapters are scaled by lora_alpha / lora_rank", 16.0)
    drop_path_rate: float = option("stochastic depth rate of the last layer of the encoder", 0.0)
    crop_scale: list[float] = option(
        "smallest and largest fraction of the frame's area that a crop covers", [0.6, 1.0]
    )
    crop_aspect_ratio: list[float] = option("smallest and largest width / height of a crop", [0.75, 1.35])
    flip_probability: float = option("probability of mirroring a clip; 0 where left and right matter", 0.0)
    rand_augment_magnitude: float | None = option("strength of RandAugment, 0 to 10; None: not used", None)
    erase_probability: float = option("probability of filling a box of a clip with noise", 0.0)
    mixup_alpha: float = option("beta distribution parameter of mixup; 0: not used", 0.0)
    cutmix_alpha: float = option("parameter of CutMix, likewise; with both, each clip gets one of them", 0.0)
    class_balance: Literal["none", "loss", "sampler"] = option("rare classes: weigh or repeat their clips", "none")
    num_clips: int = option("clips per evaluated video, whose probabilities are averaged", 1)

    def __post_init__(self) -> None:
        if self.method != "full" and self.layer_decay != 1:
            raise ValueError(f"layer_decay has no effect with method={self.method}: omit it, or use method=full")
        if self.method == "frozen" and self.drop_path_rate > 0:
            raise ValueError("drop_path_rate has no effect with method=frozen: omit it, or use method=full or lora")
        if self.resume and not list(Path(self.trainer.output_dir).glob("checkpoint-*")):
            raise ValueError(f"resume: {self.trainer.output_dir} has no checkpoint; omit it to start a new run")


def classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Compute accuracies over the readable videos, whose label rows are not zero."""
    logits, labels = prediction.predictions, prediction.label_ids
    readable = labels.any(axis=1)
    references, metrics = labels[readable].argmax(axis=1), {"num_unreadable": int((~readable).sum())}
    for metric in (TopKAccuracy(k=1), TopKAccuracy(k=5), MeanClassAccuracy()):
        metrics |= metric.compute(predictions=logits[readable], references=references)
    return metrics


def augmentation(args: FinetuningArguments, processor: VJEPAVideoProcessor) -> Transform:
    """Return the augmentation of a training clip, to the size that the model takes."""
    size = processor.crop_size["height"], processor.crop_size["width"]
    steps: list[Transform] = [
        RandomResizedCropFlip(size, tuple(args.crop_scale), tuple(args.crop_aspect_ratio), args.flip_probability)
    ]
    if args.rand_augment_magnitude is not None:
        steps.append(RandAugment(args.rand_augment_magnitude))
    return Chain((*steps, RandomErasing(args.erase_probability)))


def add_adapters(model: VJEPAForVideoClassification, rank: int, alpha: float) -> torch.nn.Module:
    """Return the model with LoRA adapters in every layer of the encoder."""
    from peft import LoraConfig, get_peft_model

    targets, saved = finetuning.LORA_TARGET_MODULES, finetuning.LORA_MODULES_TO_SAVE
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, modules_to_save=saved))


def main(command_line: Sequence[str] | None = None) -> None:
    # 1. Arguments: ours and those of the Trainer.
    args = parse(FinetuningArguments, command_line)
    training = args.trainer
    # The label smoothing of the Trainer needs class indices; our labels are soft, and the collator smooths them.
    smoothing, training.label_smoothing_factor = training.label_smoothing_factor, 0.0
    set_seed(training.seed)

    # 2. Data: the classes are those of the training videos.
    with mistakes_exit():
        sources = {"train": args.train_videos, "validation": args.validation_videos, "test": args.test_videos}
        tables = {split: load_videos(source) for split, source in sources.items() if source}
        _, names = read_labels(tables["train"], args.label, "train_videos")
        labels = {
            split: read_labels(table, args.label, f"{split}_videos", names)[0] for split, table in tables.items()
        }

        # 3. Model: the pretrained encoder with a new pooler and classifier.
        processor = VJEPAVideoProcessor.from_pretrained(args.model)
        model = VJEPAForVideoClassification.from_pretrained(
            args.model,
            id2label=dict(enumerate(names)),
            label2id={name: index for index, name in enumerate(names)},
            problem_type="single_label_classification",
            drop_path_rate=args.drop_path_rate,
        )
        if args.method == "frozen":
            model.vjepa.requires_grad_(False)
        if args.method == "lora":
            model = add_adapters(model, args.lora_rank, args.lora_alpha)

        # 4. Clips and batches: functions of (seed, epoch, sample id); an unreadable video is named and skipped.
        train = TrainingVideos(
            tables["train"]["video"],
            labels["train"],
            processor,
            augmentation(args, processor),
            training.seed,
            balanced=args.class_balance == "sampler",
        )
        evaluated = {
            split: LabelledVideos(tables[split]["video"], labels[split], processor, args.num_clips)
            for split in tables
            if split != "train"
        }
        balanced_loss = args.class_balance == "loss"
        collate = finetuning.ClassificationCollator(
            num_labels=len(names),
            seed=training.seed,
            mixup_alpha=args.mixup_alpha,
            cutmix_alpha=args.cutmix_alpha,
            label_smoothing=smoothing,
            class_weights=finetuning.balanced_weights(labels["train"], len(names)) if balanced_loss else None,
        )
        groups = finetuning.layer_wise_groups(model, training.learning_rate, training.weight_decay, args.layer_decay)

    # 5. Training.
    betas = training.adam_beta1, training.adam_beta2
    trainer = Trainer(
        model,
        training,
        data_collator=collate,
        train_dataset=train,
        eval_dataset=evaluated.get("validation"),
        processing_class=processor,
        compute_metrics=classification_metrics,
        callbacks=[finetuning.EpochCallback(train)],
        optimizers=(torch.optim.AdamW(groups, betas=betas, eps=training.adam_epsilon), None),
    )
    trainer.train(resume_from_checkpoint=args.resume or training.resume_from_checkpoint)

    # 6. Results: the metrics, and a folder that loads without peft.
    result = {"method": args.method, "seed": training.seed, "train_videos": len(train), "classes": len(names)}
    for split, videos in evaluated.items():
        result |= trainer.evaluate(videos, metric_key_prefix=split)
    result["unreadable"] = {
        split: finetuning.unreadable_videos(trainer.accelerator, videos)
        for split, videos in ({"train": train} | evaluated).items()
    }
    output = Path(training.output_dir)
    if args.method == "lora":
        trainer.save_model(str(output / "adapter"))
        trainer.model = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    trainer.save_model()
    if trainer.is_world_process_zero():
        (output / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(result))
        print(f'classify a video: pipeline("video-classification", model="{output}")("some.mp4")')


if __name__ == "__main__":
    main()
