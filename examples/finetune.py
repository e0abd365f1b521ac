"""Fine-tune a pretrained encoder as a classifier, with an unmodified `transformers.Trainer`.

    accelerate launch examples/finetune.py --label motion

goes on from the run of examples/pretrain.py on the toy set. On your own videos (lists with a column of paths and one
of labels, or class folders):

    accelerate launch examples/finetune.py --model output/mine --train_videos train.csv --validation_videos val.csv \
        --test_videos test.csv --label action --layer_decay 0.75 --output_dir output/finetune

`--method frozen` trains the head only, `--method lora` adapters in every layer. All options of `TrainingArguments`
may follow; `--resume_from_checkpoint true` continues a run. The folder it writes loads in
`pipeline("video-classification")`. `python` and `torchrun` start it as well.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from transformers import EvalPrediction, HfArgumentParser, Trainer, TrainingArguments, set_seed

from vjepa_hf import VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.data.clips import load_videos
from vjepa_hf.data.labelled import LabelledVideos, TrainingVideos
from vjepa_hf.data.transforms import Chain, RandAugment, RandomErasing, RandomResizedCropFlip
from vjepa_hf.evaluation.labels import encode_labels
from vjepa_hf.evaluation.metrics import MeanClassAccuracy, TopKAccuracy
from vjepa_hf.training import finetuning

TOY_VIDEOS = Path("output/toy_videos")
# Where they differ from those of `TrainingArguments`.
DEFAULTS = {
    "output_dir": "output/finetune",
    "num_train_epochs": 20,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 32,
    "learning_rate": 5e-4,
    "weight_decay": 0.05,
    "warmup_steps": 0.1,
    "lr_scheduler_type": "cosine",
    "logging_steps": 20,
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "dataloader_num_workers": 1,
    "report_to": "none",
    "use_cpu": not torch.accelerator.is_available(),  # without it, several processes on CPU would not know each other
}


def option(default: object, text: str) -> object:
    """A field of the arguments with its help text."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class FinetuningArguments:
    """What `TrainingArguments` does not know."""

    model: str = option("output/pretrain", "folder or Hub name of a pretrained model")
    train_videos: str = option(str(TOY_VIDEOS / "train.csv"), "source of the training videos")
    validation_videos: str | None = option(None, "source judged while training, as --eval_strategy says, and after it")
    test_videos: str | None = option(None, "source judged once, after training")
    label: str = option("label", "column with the labels; of class folders it is `label`")
    method: Literal["full", "frozen", "lora"] = option("full", "what learns beside the head: all, nothing, adapters")
    layer_decay: float = option(1.0, "learning rate of a layer over that of the layer above it")
    lora_rank: int = option(8, "rank of the adapters")
    lora_alpha: float = option(16.0, "adapters are scaled by this over their rank")
    drop_path_rate: float = option(0.0, "stochastic depth at the last layer of the encoder")
    crop_scale: list[float] = option([0.6, 1.0], "lower and upper share of the frame's area that a crop covers")
    crop_aspect_ratio: list[float] = option([0.75, 1.35], "lower and upper width / height of a crop")
    flip_probability: float = option(0.0, "chance that a clip is mirrored; 0 where left and right mean something")
    rand_augment_magnitude: float | None = option(None, "strength of RandAugment, 0 to 10")
    erase_probability: float = option(0.0, "chance that a box of a clip is filled with noise")
    mixup_alpha: float = option(0.0, "parameter of mixup; 0: none")
    cutmix_alpha: float = option(0.0, "parameter of CutMix; 0: none. With both, a clip has one of them")
    class_balance: Literal["none", "loss", "sampler"] = option("none", "for rare classes: weigh or repeat their clips")
    num_clips: int = option(1, "views of a video that are judged together")


def classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracies over the videos that could be read, whose label row is not zero."""
    logits, labels = prediction.predictions, prediction.label_ids
    readable = labels.any(axis=1)
    references, figures = labels[readable].argmax(axis=1), {"num_unreadable": int((~readable).sum())}
    for metric in (TopKAccuracy(k=1), TopKAccuracy(k=5), MeanClassAccuracy()):
        figures |= metric.compute(predictions=logits[readable], references=references)
    return figures


def main() -> None:
    # 1. Arguments: ours and those of the Trainer.
    parser = HfArgumentParser((FinetuningArguments, TrainingArguments))
    parser.set_defaults(**DEFAULTS)
    args, training = parser.parse_args_into_dataclasses()
    if args.method != "full" and args.layer_decay != 1 or args.method == "frozen" and args.drop_path_rate > 0:
        parser.error(f"--layer_decay needs --method full, and --drop_path_rate layers that learn; got {args.method}")
    smoothing, training.label_smoothing_factor = training.label_smoothing_factor, 0.0  # the Trainer's knows no shares
    training.remove_unused_columns = False  # our samples are no rows of a table
    set_seed(training.seed)

    # 2. Data: classes are those of the training videos.
    sources = {"train": args.train_videos, "validation": args.validation_videos, "test": args.test_videos}
    tables = {split: load_videos(source) for split, source in sources.items() if source}
    train_labels, names = encode_labels(tables["train"][args.label])
    processor = VJEPAVideoProcessor.from_pretrained(args.model)

    # 3. Model: the pretrained encoder with a new pooler and classifier.
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
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            r=args.lora_rank,
            lora_alpha=args.lora_alpha,
            target_modules=finetuning.LORA_TARGET_MODULES,
            modules_to_save=finetuning.LORA_MODULES_TO_SAVE,
        )
        model = get_peft_model(model, adapters)

    # 4. Clips and batches: functions of (seed, epoch, sample id); an unreadable video is named and left out.
    size = processor.crop_size["height"], processor.crop_size["width"]
    augment = [RandomResizedCropFlip(size, args.crop_scale, args.crop_aspect_ratio, args.flip_probability)]
    if args.rand_augment_magnitude is not None:
        augment.append(RandAugment(args.rand_augment_magnitude))
    transform = Chain((*augment, RandomErasing(args.erase_probability)))
    balanced = args.class_balance == "sampler"
    train = TrainingVideos(tables["train"]["video"], train_labels, processor, transform, training.seed, balanced)
    judged = {
        split: LabelledVideos(table["video"], encode_labels(table[args.label], names)[0], processor, args.num_clips)
        for split, table in tables.items()
        if split != "train"
    }
    weights = finetuning.balanced_weights(train_labels, len(names)) if args.class_balance == "loss" else None
    collate = finetuning.ClassificationCollator(
        len(names), training.seed, args.mixup_alpha, args.cutmix_alpha, smoothing, weights
    )

    # 5. Training.
    groups = finetuning.layer_wise_groups(model, training.learning_rate, training.weight_decay, args.layer_decay)
    betas = training.adam_beta1, training.adam_beta2
    trainer = Trainer(
        model,
        training,
        data_collator=collate,
        train_dataset=train,
        eval_dataset=judged.get("validation"),
        processing_class=processor,
        compute_metrics=classification_metrics,
        callbacks=[finetuning.EpochCallback(train)],
        optimizers=(torch.optim.AdamW(groups, betas=betas, eps=training.adam_epsilon), None),
    )
    resume = {None: None, "true": True}.get(training.resume_from_checkpoint, training.resume_from_checkpoint)
    trainer.train(resume_from_checkpoint=resume)

    # 6. Results: figures, and a folder that needs nothing else.
    result = {"method": args.method, "seed": training.seed, "train_videos": len(train), "classes": len(names)}
    for split, videos in judged.items():
        result |= trainer.evaluate(videos, metric_key_prefix=split)
    splits = {"train": train} | judged
    result["unreadable"] = {
        split: finetuning.unreadable_videos(trainer.accelerator, videos) for split, videos in splits.items()
    }
    if args.method == "lora":
        trainer.save_model(str(Path(training.output_dir) / "adapter"))
        trainer.model = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    trainer.save_model()
    if trainer.is_world_process_zero():
        (Path(training.output_dir) / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(result))
        print(f'classify a video: pipeline("video-classification", model="{training.output_dir}")("some.mp4")')


if __name__ == "__main__":
    main()
