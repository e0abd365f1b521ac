"""Fine-tune a pretrained encoder as a classifier, with an unmodified `transformers.Trainer`.

    accelerate launch examples/finetune.py --label motion

starts from the run of examples/pretrain.py on the toy set. On your own videos (lists with a column of paths and one of
labels, or folders with one sub-folder per class):

    accelerate launch examples/finetune.py --model output/mine --train_videos train.csv --validation_videos val.csv \
        --test_videos test.csv --label action --layer_decay 0.75 --output_dir output/finetune

`--method frozen` trains only the head, `--method lora` also adapters in every layer. The script has all options of
`TrainingArguments`; `--config FILE.yaml` has any of them, and `--resume` resumes a run. The output folder loads in
`pipeline("video-classification")`. `python` and `torchrun` start the script as well.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers import EvalPrediction, Trainer, TrainingArguments, set_seed
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from vjepa_hf import VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.data.labelled import LabelledVideos, TrainingVideos
from vjepa_hf.data.sources import load_videos
from vjepa_hf.data.transforms import Chain, RandAugment, RandomErasing, RandomResizedCropFlip, Transform
from vjepa_hf.evaluation.labels import read_labels
from vjepa_hf.evaluation.metrics import MeanClassAccuracy, TopKAccuracy, wilson_interval
from vjepa_hf.files import whole_file
from vjepa_hf.model_card import Origin, accuracy_results, hyperparameters, read_origin, write_card
from vjepa_hf.training import finetuning
from vjepa_hf.training.arguments import HubArguments, mistakes_exit, option, parse
from vjepa_hf.training.hub import HubRepo, add_remote_code, open_repo
from vjepa_hf.training.launcher import check_launcher, check_trackers, match_launcher
from vjepa_hf.training.output import claim_output_dir, export


@dataclass
class TrainerArguments(TrainingArguments):
    """Options of `TrainingArguments`, with other defaults."""

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
    hub_strategy: str = "end"
    use_cpu: bool = not torch.accelerator.is_available()  # otherwise CPU processes do not form a group
    remove_unused_columns: bool = False  # samples are not rows of a table


@dataclass
class FinetuningArguments:
    """Fine-tune a pretrained encoder as a classifier."""

    trainer: TrainerArguments
    model: str = option("folder or Hub name of a pretrained model", "output/pretrain")
    train_videos: str = option("source of the training videos", "output/toy_videos/train.csv")
    validation_videos: str | None = option("source to evaluate on during training, see eval_strategy", None)
    test_videos: str | None = option("source to evaluate on after training", None)
    label: str = option("column with the labels; `label` for folders of classes", "label")
    resume: bool = option(
        "resume from the newest checkpoint in output_dir; use resume_from_checkpoint for another one", False
    )
    method: Literal["full", "frozen", "lora"] = option(
        "trained parts besides the head: all, none, or adapters", "full"
    )
    layer_decay: float = option("learning rate of a layer, relative to the next layer", 1.0)
    lora_rank: int = option("rank of the adapters", 8)
    lora_alpha: float = option("the adapters are scaled by lora_alpha / lora_rank", 16.0)
    drop_path_rate: float = option("stochastic depth rate of the last encoder layer", 0.0)
    crop_scale: list[float] = option("lower and upper area of a crop, as fractions of the frame", [0.6, 1.0])
    crop_aspect_ratio: list[float] = option("lower and upper width / height of a crop", [0.75, 1.35])
    flip_probability: float = option("probability of a horizontal flip; use 0 if left and right matter", 0.0)
    rand_augment_magnitude: float | None = option("strength of RandAugment, 0 to 10; None: none", None)
    erase_probability: float = option("probability that one box of a clip is filled with noise", 0.0)
    mixup_alpha: float = option("beta distribution parameter of mixup; 0: none", 0.0)
    cutmix_alpha: float = option("the same for CutMix; with both, each clip gets one of them", 0.0)
    class_balance: Literal["none", "loss", "sampler"] = option("weigh or repeat clips of rare classes", "none")
    num_clips: int = option("clips per evaluated video; their probabilities are averaged", 1)
    hub_remote_code: bool = option("add the code of the model, so that it loads without vjepa_hf", False)

    def __post_init__(self) -> None:
        if self.method != "full" and self.layer_decay != 1:
            raise ValueError(f"layer_decay has no effect with method={self.method}: omit it, or use method=full")
        if self.method == "frozen" and self.drop_path_rate > 0:
            raise ValueError("drop_path_rate has no effect with method=frozen: omit it, or use method=full or lora")
        if self.resume and not list(Path(self.trainer.output_dir).glob("checkpoint-*")):
            raise ValueError(f"resume: {self.trainer.output_dir} has no checkpoint; omit resume to start a new run")
        if self.method == "lora" and self.trainer.push_to_hub and self.trainer.hub_strategy != "end":
            raise ValueError("method=lora uploads the merged model, at the end: use hub_strategy=end, or omit it")


def classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Compute the accuracies over the readable videos, whose label rows are not zero."""
    logits, labels = prediction.predictions, prediction.label_ids
    readable = labels.any(axis=1)
    references, metrics = labels[readable].argmax(axis=1), {"num_unreadable": int((~readable).sum())}
    for metric in (TopKAccuracy(k=1), TopKAccuracy(k=5), MeanClassAccuracy()):
        metrics |= metric.compute(predictions=logits[readable], references=references)
    return metrics


def augmentation(args: FinetuningArguments, processor: VJEPAVideoProcessor) -> Transform:
    """Return the augmentation of the training clips, to the input size of the model."""
    size = processor.crop_size["height"], processor.crop_size["width"]
    steps: list[Transform] = [
        RandomResizedCropFlip(size, tuple(args.crop_scale), tuple(args.crop_aspect_ratio), args.flip_probability)
    ]
    if args.rand_augment_magnitude is not None:
        steps.append(RandAugment(args.rand_augment_magnitude))
    return Chain((*steps, RandomErasing(args.erase_probability)))


# Options of the Trainer in the model card.
SHOWN = "num_train_epochs per_device_train_batch_size learning_rate weight_decay warmup_steps lr_scheduler_type seed"
METHODS = {"full": "trained end to end", "frozen": "frozen below a new head", "lora": "with merged LoRA adapters"}


def write_classifier_card(
    args: FinetuningArguments, names: Sequence[str], origin: Origin, result: dict[str, Any], repo: HubRepo | None
) -> None:
    """Write the card of the classifier, and of its adapters; before training, `result` has no metrics."""
    output = Path(args.trainer.output_dir)
    options = {option.name: getattr(args, option.name) for option in fields(args) if option.name != "trainer"}
    options |= {name: getattr(args.trainer, name) for name in SHOWN.split()}
    unreadable = {split: len(videos) for split, videos in result.get("unreadable", {}).items()}
    sections = {
        "Data": f"{result['train_videos']:,} training videos with labels. Unreadable: {unreadable or 'unknown'}.",
        "Hyperparameters": hyperparameters(options),
    }
    sources = {"validation_": args.validation_videos, "test_": args.test_videos}
    results = [entry for split, source in sources.items() for entry in accuracy_results(result, source or "", split)]
    about = f"A video classifier with {len(names)} classes: a V-JEPA encoder, {METHODS[args.method]}."
    kind, name = "VJEPAForVideoClassification", repo and repo.name
    write_card(output, kind, about, origin, sections, results, name, args.hub_remote_code)
    if (output / "adapter").is_dir():
        about = f"LoRA adapters of a video classifier with {len(names)} classes, to load with peft."
        write_card(output / "adapter", kind, about, origin, sections, results, is_adapter=True)


def main(command_line: Sequence[str] | None = None) -> None:
    # 1. Arguments: ours and those of the Trainer.
    with mistakes_exit():
        check_launcher()
    args = parse(FinetuningArguments, command_line)
    training = args.trainer
    with mistakes_exit():
        given = "bf16" if training.bf16 else "fp16" if training.fp16 else None
        match_launcher(given, training.gradient_accumulation_steps)
        installed = get_available_reporting_integrations()
        check_trackers(training.report_to, INTEGRATION_TO_CALLBACK, [*installed, "flyte"])
    # Trainer's label smoothing needs class indices; our labels are soft, so the collator smooths them.
    label_smoothing = training.label_smoothing_factor
    training.label_smoothing_factor = 0.0
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
            from peft import LoraConfig, get_peft_model

            targets, saved = finetuning.LORA_TARGET_MODULES, finetuning.LORA_MODULES_TO_SAVE
            lora = {"r": args.lora_rank, "lora_alpha": args.lora_alpha}
            model = get_peft_model(model, LoraConfig(**lora, target_modules=targets, modules_to_save=saved))

        # 4. Clips and batches: functions of (seed, epoch, sample id). Unreadable videos are reported and skipped.
        train = TrainingVideos(
            tables["train"]["video"],
            labels["train"],
            processor,
            augmentation(args, processor),
            training.seed,
            balanced=args.class_balance == "sampler",
        )
        evaluated = {
            split: LabelledVideos(table["video"], labels[split], processor, args.num_clips)
            for split, table in tables.items()
            if split != "train"
        }
        weights = None
        if args.class_balance == "loss":
            weights = finetuning.balanced_weights(labels["train"], len(names))
        collate = finetuning.ClassificationCollator(
            num_labels=len(names),
            seed=training.seed,
            mixup_alpha=args.mixup_alpha,
            cutmix_alpha=args.cutmix_alpha,
            label_smoothing=label_smoothing,
            class_weights=weights,
        )
        groups = finetuning.layer_wise_groups(model, training.learning_rate, training.weight_decay, args.layer_decay)
        claim_output_dir(PartialState(), training.output_dir, bool(args.resume or training.resume_from_checkpoint))

        # 5. Card: before the first upload, so that the license is never missing.
        output, origin = Path(training.output_dir), read_origin(args.model)
        hub = HubArguments(
            training.push_to_hub, training.hub_model_id, bool(training.hub_private_repo), training.hub_revision
        )
        repo = open_repo(PartialState(), hub, output, training.hub_token)
        if PartialState().is_main_process:
            write_classifier_card(args, names, origin, {"train_videos": len(train)}, repo)

    # 6. Training.
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

    # 7. Results: the metrics, and a model folder that loads without peft. The last upload is ours.
    training.push_to_hub = False
    result = {"method": args.method, "seed": training.seed, "train_videos": len(train), "classes": len(names)}
    for split, videos in evaluated.items():
        result |= trainer.evaluate(videos, metric_key_prefix=split)
        for name in (f"{split}_top_1_accuracy", f"{split}_top_5_accuracy"):
            number = result[f"{split}_num_samples"]
            result[name.replace("accuracy", "interval")] = wilson_interval(round(result[name] * number), number)
    result["unreadable"] = {
        split: finetuning.unreadable_videos(trainer.accelerator, videos)
        for split, videos in ({"train": train} | evaluated).items()
    }
    if args.method == "lora":
        export(trainer.accelerator, trainer.model, processor, output / "adapter")
        trainer.model = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    export(trainer.accelerator, trainer.model, processor, output)
    if trainer.is_world_process_zero():
        with whole_file(output / "result.json") as unfinished:
            unfinished.write_text(json.dumps(result, indent=2) + "\n")
        if args.hub_remote_code:
            add_remote_code(output)
        write_classifier_card(args, names, origin, result, repo)
        if repo is not None:
            repo.upload("End of training")
        print(json.dumps(result))
        print(f'classify a video: pipeline("video-classification", model="{output}")("some.mp4")')


if __name__ == "__main__":
    main()
