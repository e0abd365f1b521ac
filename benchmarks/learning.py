"""What pretraining on the toy set teaches: a pretrained and an untrained encoder under every evaluation.

    python benchmarks/learning.py probes --output benchmarks/results/learning_probes.md
    python benchmarks/learning.py finetuning --output benchmarks/results/learning_finetuning.md
    python benchmarks/learning.py detection --output benchmarks/results/learning_detection.md
    python benchmarks/learning.py online --output benchmarks/results/learning_online.md
    python benchmarks/learning.py protocols --output benchmarks/results/learning_protocols.md

A page is printed, and written where `--output` says; `--help` lists the options.
"""

import csv
import json
import re
import shlex
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import peft
import torch
import transformers
import typer
from accelerate import Accelerator
from PIL import Image

from programs import pretrained, run_example
from report import HERE, Output, Runs, Steps, ToyVideos, make_app, opening, publish, table
from videomae import videomae
from vjepa_hf import VJEPAConfig, VJEPAForVideoClassification, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.data import decode_video, load_videos
from vjepa_hf.evaluation import OnlineEvaluation, draw_labels, encode_labels, fit_probe, predict
from vjepa_hf.evaluation.features import VideoFeatures
from vjepa_hf.evaluation.probes import HeadSettings
from vjepa_hf.examples.make_toy_actions import SIZE
from vjepa_hf.training.log import read_log

transformers.utils.logging.disable_progress_bar()
LABELS = ("motion", "appearance")
ENCODERS = ("pretrained", "untrained")
VIDEOS, RUNS = Path("output/toy_videos"), Path("output/learning")
app = make_app()

Seeds = Annotated[list[int], typer.Option(help="of the pretraining runs; repeat")]


def mean_and_spread(values: list[float]) -> str:
    """Return mean and standard deviation."""
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


# --- probes --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def read_tokens(encoder: torch.nn.Module, processor: VJEPAVideoProcessor, videos: list[str]) -> VideoFeatures:
    """Return the tokens of videos, float16 `(n, N, D)`."""
    batches = (videos[start : start + 32] for start in range(0, len(videos), 32))
    clips = (processor(batch, return_tensors="pt")["pixel_values_videos"] for batch in batches)
    tokens = [encoder(pixels).last_hidden_state.half() for pixels in clips]
    return VideoFeatures(torch.cat(tokens).numpy())


def few_label_answers(
    encoder: torch.nn.Module, folder: Path, videos: Path, splits: int, epochs: int, seed: int
) -> list[np.ndarray]:
    """Return for each label which test videos are classified rightly, `(splits, n)`, by probes on 8 labels a class."""
    processor, answers = VJEPAVideoProcessor.from_pretrained(folder), []
    train, test = (load_videos(videos / f"{split}.csv") for split in ("train", "test"))
    test_tokens = read_tokens(encoder, processor, test["video"])
    for label in LABELS:
        train_labels, names = encode_labels(train[label])
        test_labels, _ = encode_labels(test[label], names)
        draws = draw_labels(train_labels, [1.0], splits, seed, per_class=8)
        rows = np.unique(np.concatenate([draw.rows for draw in draws]))
        tokens = read_tokens(encoder, processor, train.select(rows)["video"])
        config = VJEPAConfig.from_pretrained(folder, num_labels=len(names))
        heads = []
        for draw in draws:
            torch.manual_seed(draw.seed)
            own, settings = np.searchsorted(rows, draw.rows), [HeadSettings()]
            classifier = VJEPAForVideoClassification(config)
            (probe,) = fit_probe(classifier, settings, tokens, train_labels[rows], own, draw.seed, epochs)
            heads.append(probe.head)
        _, logits = predict(classifier, heads, test_tokens, np.arange(len(test)))
        answers.append(logits.argmax(axis=2) == test_labels)
    return answers


def mean_with_interval(values: np.ndarray) -> str:
    """Return the mean of `(runs, n)` and its 95 % bootstrap interval, which draws runs and test videos."""
    generator = np.random.default_rng(0)
    means = []
    for _ in range(2000):
        runs, columns = (generator.integers(size, size=size) for size in values.shape)
        means.append(values[runs][:, columns].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


@app.command()
def probes(
    seeds: Seeds = (0, 1, 2),
    baseline_seeds: Annotated[list[int], typer.Option(help="those of them with a VideoMAE; repeat")] = (0, 1, 2),
    videos: ToyVideos = VIDEOS,
    runs: Runs = RUNS,
    steps: Steps = None,
    splits: Annotated[int, typer.Option(help="draws of the labels")] = 4,
    epochs: Annotated[int, typer.Option(help="of a probe: 300 steps, the default of examples/probe.py")] = 150,
    output: Output = None,
) -> None:
    """Probe three encoders for what moves how and for what it looks like.

    "Pretrained" is a run of examples/pretrain.py with its default configuration, one per seed; "untrained" has the
    same configuration and random weights; "VideoMAE" learned from pixels, on the same clips and with as many FLOPs in
    its encoder, which has the same sizes (benchmarks/videomae.py). No single frame shows the motion, every frame shows
    the appearance. The attentive probes are those of examples/probe.py, with 8 labelled videos a class.
    """
    answers: dict[str, dict[int, np.ndarray]] = {}  # encoder -> seed -> (labels, test videos)
    for seed in seeds:
        folder = pretrained(runs, videos, seed, steps)
        torch.manual_seed(seed)
        encoders = {
            "pretrained": VJEPAModel.from_pretrained(folder, add_predictor=False),
            "untrained": VJEPAModel(VJEPAConfig.from_pretrained(folder)),
        }
        if seed in baseline_seeds:
            encoders["VideoMAE"] = videomae(folder)
        for name, encoder in encoders.items():
            found = few_label_answers(encoder.eval(), folder, videos, splits, epochs, seed)
            answers.setdefault(name, {})[seed] = np.stack([right.mean(axis=0) for right in found])
    rows, differences = [], []
    for name, by_seed in answers.items():
        rows += [[name, seed, *(f"{value:.3f}" for value in right.mean(axis=1))] for seed, right in by_seed.items()]
        rows.append([name, "mean", *map(mean_with_interval, np.stack(list(by_seed.values()), axis=1))])
        gains = np.stack([answers["pretrained"][seed] - right for seed, right in by_seed.items()], axis=1)
        differences.append([f"pretrained - {name}", *map(mean_with_interval, gains)])
    count = len(load_videos(videos / "test.csv"))
    settings = f"mean of {splits} draws of the labels, {epochs} epochs, {count} test videos, chance 0.125"
    lines = opening("What pretraining on the toy set teaches", "learning.py probes", probes.__doc__)
    lines += [f"Test accuracy, {settings}. Intervals are 95 % bootstrap intervals over seeds and test videos.", ""]
    lines += [*table(["encoder", "seed", *LABELS], rows), "", "Differences on the same videos and seeds:", ""]
    publish([*lines, *table(["difference", *LABELS], differences[1:])], output)


# --- fine-tuning ---------------------------------------------------------------------------------------------------

METHODS = {
    "frozen encoder": ["--method", "frozen", "--learning_rate", "1e-3"],
    "LoRA, rank 8": ["--method", "lora", "--learning_rate", "1e-3"],
    "layer decay 0.75": ["--layer_decay", "0.75"],
    "one learning rate": [],
}


def write_labelled(videos: Path, labels_per_class: int, path: Path) -> None:
    """Write a list of the first training videos of every motion."""
    with (videos / "train.csv").open() as file:
        rows = [((videos / row["video"]).resolve(), row["motion"]) for row in csv.DictReader(file)]
    counts: dict[str, int] = {}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "motion"))
        for row in rows:
            counts[row[1]] = counts.get(row[1], 0) + 1
            if counts[row[1]] <= labels_per_class:
                writer.writerow(row)


def write_untrained(model: Path, folder: Path) -> Path:
    """Save a model of the same configuration with random weights."""
    torch.manual_seed(0)
    VJEPAModel(VJEPAConfig.from_pretrained(model)).save_pretrained(folder)
    VJEPAVideoProcessor.from_pretrained(model).save_pretrained(folder)
    return folder


@app.command()
def finetuning(
    videos: ToyVideos = VIDEOS,
    runs: Runs = RUNS,
    steps: Steps = None,
    labels_per_class: Annotated[int, typer.Option(help="training videos of each motion")] = 16,
    epochs: Annotated[int, typer.Option(help="of every run")] = 15,
    output: Output = None,
) -> None:
    """Fine-tune a pretrained and an untrained encoder in four ways.

    Every cell is a run of examples/finetune.py on the label `motion`, with equally many epochs and labels. The
    untrained encoder has the same configuration and random weights.
    """
    folder, rows = pretrained(runs, videos, 0, steps), []
    with tempfile.TemporaryDirectory() as scratch:
        train = Path(scratch) / "train.csv"
        write_labelled(videos, labels_per_class, train)
        encoders = folder, write_untrained(folder, Path(scratch) / "untrained")
        for method, words in METHODS.items():
            cells = []
            for name, model in zip(ENCODERS, encoders, strict=True):
                target = Path(scratch) / f"{method} {name}"
                settings = {"label": "motion", "num_train_epochs": epochs, "save_strategy": "no", "seed": 0}
                settings |= {"model": model, "train_videos": train, "test_videos": videos / "test.csv"}
                run_example("finetune", *words, output_dir=target, **settings)
                cells.append(f"{json.loads((target / 'result.json').read_text())['test_top_1_accuracy']:.3f}")
            rows.append([method, " ".join(words) or "(none)", *cells])
    versions = f"transformers {transformers.__version__}", f"peft {peft.__version__}"
    lines = opening("Fine-tuning on the toy set", "learning.py finetuning", finetuning.__doc__, *versions)
    lines += [f"Test accuracy, {labels_per_class} labelled videos a class, {epochs} epochs; chance is 0.125.", ""]
    publish([*lines, *table(["method", "options", *ENCODERS], rows)], output)


# --- detection -----------------------------------------------------------------------------------------------------

NUM_HEADINGS = 8  # of the actions, the others are forms
BATCH_SIZE = 16


def detect(model: Path, actions: Path, num_videos: int, steps: int, seed: int, *words: str) -> list[float]:
    """Return frame mAP over all actions, headings and forms, after training on the boxes of the first videos."""
    lines = (actions / "train.csv").read_text().splitlines(keepends=True)
    chosen = set(sorted({line.split(",")[0] for line in lines})[:num_videos])
    with tempfile.TemporaryDirectory() as scratch:
        annotations = Path(scratch) / "train.csv"
        annotations.write_text("".join(line for line in lines if line.split(",")[0] in chosen))
        sources = {"train_videos": actions / "train", "train_annotations": annotations}
        sources |= {"test_videos": actions / "test", "test_annotations": actions / "test.csv"}
        sources |= {"test_boxes": actions / "test_boxes.csv", "actions": actions / "actions.pbtxt"}
        epochs = max(1, round(steps * BATCH_SIZE / num_videos))
        settings = {"model": model, "image_size": SIZE, "batch_size": BATCH_SIZE, "epochs": epochs, "seed": seed}
        run_example("detect_actions", *words, output_dir=Path(scratch) / "model", **sources, **settings)
        result = json.loads((Path(scratch) / "model" / "result.json").read_text())
    values = [value or 0.0 for value in result["average_precision"].values()]
    return [float(np.mean(part)) for part in (values, values[:NUM_HEADINGS], values[NUM_HEADINGS:])]


@app.command()
def detection(
    seeds: Seeds = (0, 1, 2),
    videos: ToyVideos = VIDEOS,
    runs: Runs = RUNS,
    steps: Steps = None,
    actions: Annotated[Path, typer.Option(help="toy set with boxes, made if missing")] = Path("output/toy_actions"),
    num_videos: Annotated[list[int], typer.Option(help="training videos; repeat")] = (50, 400),
    head_steps: Annotated[int, typer.Option(help="steps of a head, about")] = 500,
    output: Output = None,
) -> None:
    """Detect actions in boxes with a pretrained and an untrained encoder.

    The set is that of examples/make_toy_actions.py: up to four shapes in a video, each with its own heading, of
    which a single frame tells nothing, and form. The encoders are those of `learning.py probes`, which have never
    seen these videos. They stay frozen; examples/detect_actions.py trains a pooler and a classifier on the annotated
    boxes of a few training videos, and tests them on the boxes of an inexact detector.
    """
    if not (actions / "train.csv").exists():
        run_example("make_toy_actions", output_dir=actions)
    folders, rows = [pretrained(runs, videos, seed, steps) for seed in seeds], []
    for count in num_videos:
        cells = []
        for words in ([], ["--random_init"]):
            found = [
                detect(folder, actions, count, head_steps, seed, *words)
                for folder, seed in zip(folders, seeds, strict=True)
            ]
            cells.append([mean_and_spread(list(part)) for part in zip(*found, strict=True)])
        rows.append([count, *(cell for pair in zip(*cells, strict=True) for cell in pair)])
    lines = opening("Actions in boxes of the toy set", "learning.py detection", detection.__doc__)
    settings = (
        f"mean and standard deviation over {len(seeds)} encoders, about {head_steps} steps of {BATCH_SIZE} clips"
    )
    lines += [f"Frame mAP at an intersection over union of 0.5, {settings}, {SIZE} x {SIZE} pixels.", ""]
    columns = [f"{part}, {encoder}" for part in ("all", "heading", "form") for encoder in ENCODERS]
    publish([*lines, *table(["training videos", *columns], rows)], output)


# --- online evaluation ---------------------------------------------------------------------------------------------


@app.command()
def online(
    videos: ToyVideos = VIDEOS,
    runs: Runs = RUNS,
    steps: Steps = None,
    num_videos: Annotated[int, typer.Option(help="labelled videos, and as many test videos")] = 256,
    output: Output = None,
) -> None:
    """Evaluate a pretrained and an untrained encoder as a run does while it learns, and measure what it costs.

    `motion` takes time to see, `appearance` does not. The processor time of an evaluation is compared with the time of
    training, a clip each, so the two compare at any size of the set.
    """
    torch.set_num_threads(1)
    folder = pretrained(runs, videos, 0, steps)
    processor, accelerator = VJEPAVideoProcessor.from_pretrained(folder), Accelerator(cpu=True)
    tables = [load_videos(videos / f"{split}.csv") for split in ("train", "test")]
    tables = [split.select(range(min(num_videos, len(split)))) for split in tables]
    torch.manual_seed(0)
    encoders = VJEPAModel.from_pretrained(folder), VJEPAModel(VJEPAConfig.from_pretrained(folder))
    rows, milliseconds = [], []
    for name, encoder in zip(ENCODERS, encoders, strict=True):
        for label in LABELS:
            evaluation = OnlineEvaluation(accelerator, *tables, label, processor)
            began = time.process_time()
            found = evaluation.metrics(encoder.eval())
            milliseconds.append(1000 * (time.process_time() - began) / sum(map(len, tables)))
            rows.append([name, label, f"{found['knn_accuracy']:.3f}", f"{found['linear_accuracy']:.3f}"])
    speeds = [row["clips_per_second"] for row in read_log(folder / "log.jsonl") if "clips_per_second" in row]
    lines = opening("Online evaluation", "learning.py online", online.__doc__)
    lines += [f"{len(tables[0])} labelled videos, {len(tables[1])} test videos; chance is 0.125.", ""]
    lines += table(["encoder", "label", "nearest neighbours", "linear probe"], rows)
    spent = f"{statistics.mean(milliseconds):.1f} ms for each video of an evaluation, reading included"
    trained = f"{1000 / statistics.median(speeds):.1f} ms for each clip of training"
    publish([*lines, "", f"Time: {spent}, and {trained}."], output)


# --- protocols -----------------------------------------------------------------------------------------------------

IMAGES = Path("output/toy_images")


def commands(page: str) -> list[list[str]]:
    """Return the command lines between the two marks of a page, as words."""
    block = page.split("<!-- commands: begin -->")[1].split("<!-- commands: end -->")[0]
    lines = re.search(r"```bash\n(.*?)```", block, re.DOTALL)[1].replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def write_images(videos: Path, images: Path) -> None:
    """Write the first frame of each toy video as `<split>/<appearance>/<name>.png`."""
    for split in ("train", "test"):
        for row in load_videos(videos / f"{split}.csv"):
            path = images / split / row["appearance"] / f"{Path(row['video']).stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(decode_video(row["video"], [0])[0].permute(1, 2, 0).numpy()).save(path)


def protocol_rows(result: dict) -> list[list[str]]:
    """Return labels, accuracy, uncertainty and chosen settings: one row, or one for each fraction of the labels."""
    if "summary" in result:
        return [
            [f"{name}, {row['splits']} splits", f"{row['mean']:.3f}", f"± {row['std']:.3f}", ""]
            for name, row in result["summary"].items()
        ]
    low, high = result["top_1_interval"]
    chosen = f"{result['learning_rate']:g}, {result['weight_decay']:g}" if "learning_rate" in result else ""
    return [[result.get("labels", ""), f"{result['top_1_accuracy']:.3f}", f"{low:.3f} to {high:.3f}", chosen]]


@app.command()
def protocols(output: Output = None) -> None:
    """Run every protocol of docs/probing.md on the toy set.

    The commands are those at the end of that page. They start from `output/pretrain` and `output/toy_videos`, which
    `make pretrain` leaves behind. The folder of images is one frame of each toy video, in a sub-folder named after
    its appearance, made if missing. Uncertainty is the 95 % Wilson interval over the test videos, or the standard
    deviation over splits. Toy videos hold two clips that do not overlap. They are square, so that the crops of a
    clip are equal, and show the margin that a single crop leaves out.
    """
    if not IMAGES.exists():
        write_images(VIDEOS, IMAGES)
    rows = []
    for words in commands((HERE.parent / "docs" / "probing.md").read_text()):
        run_example("probe", *words[2:])
        folder = Path(words[words.index("--output_dir") + 1] if "--output_dir" in words else "output/probe")
        result = json.loads((folder / "result.json").read_text())
        rows += [[f"`{' '.join(words[2:])}`", *row] for row in protocol_rows(result)]
    header = ["options of examples/probe.py", "labels", "top-1", "uncertainty", "learning rate, weight decay"]
    lines = opening("The protocols on the toy set", "learning.py protocols", protocols.__doc__)
    publish([*lines, *table(header, rows)], output)


if __name__ == "__main__":
    app()
