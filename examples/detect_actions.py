"""Train and test a model that says what happens in boxes of key frames, on AVA or a set in its files.

    accelerate launch examples/detect_actions.py output/pretrain --image-size 48

puts an attentive pooler and a classifier on the frozen encoder of examples/pretrain.py, on a toy set that it makes if
it is missing. On AVA:

    accelerate launch examples/detect_actions.py MODEL --videos AVA/videos --annotations ava_train_v2.2.csv \\
        --test-videos AVA/videos --test-annotations ava_val_v2.2.csv --boxes ava_val_detections.csv --min-score 0.8 \\
        --actions ava_action_list_v2.2_for_activitynet_2019.pbtxt --excluded ava_val_excluded_timestamps_v2.2.csv

`python` and `torchrun` start it as well.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

from vjepa_hf import VJEPAConfig, VJEPAForActionDetection, VJEPAVideoProcessor
from vjepa_hf.evaluation import detection
from vjepa_hf.evaluation.detection import FrameMeanAveragePrecision, plot_detections

TOY = Path("output/toy_actions")
NUM_DRAWN = 8  # key frames of the picture


def main(
    model: Annotated[str, typer.Argument(help="folder or Hub name of a pretrained model")],
    videos: Annotated[Path, typer.Option(help="folder of videos, or of folders of frames")] = TOY / "train",
    annotations: Annotated[Path, typer.Option(help="csv to train on")] = TOY / "train.csv",
    test_videos: Annotated[Path, typer.Option(help="folder of videos, or of folders of frames")] = TOY / "test",
    test_annotations: Annotated[Path, typer.Option(help="csv to test on")] = TOY / "test.csv",
    boxes: Annotated[Path | None, typer.Option(help="csv of detected boxes to test on; else annotated ones")] = None,
    min_score: Annotated[float, typer.Option(help="detected boxes with a lower score are left out")] = 0.0,
    actions: Annotated[Path, typer.Option(help="names and ids of the actions")] = TOY / "actions.pbtxt",
    excluded: Annotated[Path | None, typer.Option(help="csv of test key frames to leave out")] = None,
    first_second: Annotated[float, typer.Option(help="of the first frame; 900 for videos cut to AVA's part")] = 0.0,
    frame_rate: Annotated[float | None, typer.Option(help="of folders of frames")] = None,
    fps: Annotated[float | None, typer.Option(help="frames a second of a clip; the model's step by default")] = None,
    image_size: Annotated[int | None, typer.Option(help="pixels of a side; the model's by default")] = None,
    roi_size: Annotated[int, typer.Option(help="rows and columns of features in a box")] = 3,
    random_init: Annotated[bool, typer.Option(help="take the configuration but no weights: the baseline")] = False,
    fine_tune: Annotated[bool, typer.Option(help="train the encoder as well")] = False,
    epochs: Annotated[int, typer.Option(help="passes over the training clips")] = 20,
    batch_size: Annotated[int, typer.Option(help="clips of one step, for each process")] = 16,
    learning_rate: Annotated[float, typer.Option(help="after the warm-up")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="of AdamW")] = 0.05,
    num_workers: Annotated[int, typer.Option(help="processes that decode, for each process")] = 1,
    seed: Annotated[int, typer.Option(help="order of the clips, the head's start, and a random encoder")] = 0,
    output: Annotated[Path, typer.Option(help="folder of the model and of its results")] = Path(
        "output/detect_actions"
    ),
) -> None:
    """Train on annotated key frames, then measure frame mAP."""
    # 1. Data: boxes of key frames, and a clip around each of them.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    with accelerator.main_process_first():
        if annotations == TOY / "train.csv" and not annotations.exists():
            subprocess.run([sys.executable, Path(__file__).parent / "make_toy_actions.py", TOY], check=True)
    names = detection.read_actions(actions)
    left_out = detection.read_excluded(excluded) if excluded else ()
    train_frames = detection.read_annotations(annotations, names)
    truths = {frame.moment: frame for frame in detection.read_annotations(test_annotations, names, left_out)}
    test_frames = detection.read_boxes(boxes, min_score, left_out) if boxes else list(truths.values())

    # 2. Model: the target encoder with a new pooler and classifier, and the processor that gives it whole frames.
    torch.manual_seed(seed)
    classes = {"id2label": dict(enumerate(names.values())), "roi_size": roi_size}
    classes["label2id"] = {name: index for index, name in classes["id2label"].items()}
    if random_init:
        detector = VJEPAForActionDetection(VJEPAConfig.from_pretrained(model, **classes))
    else:
        detector = VJEPAForActionDetection.from_pretrained(model, **classes)
    detector.vjepa.requires_grad_(fine_tune)
    processor = detection.whole_frame_processor(VJEPAVideoProcessor.from_pretrained(model), image_size, fps)

    # 3. Loaders.
    train_clips, test_clips = (
        detection.KeyFrameClips(frames, detection.find_videos(folder), processor, first_second, frame_rate)
        for frames, folder in ((train_frames, videos), (test_frames, test_videos))
    )
    reading = {"batch_size": batch_size, "num_workers": num_workers, "collate_fn": detection.collate_key_frames}
    order = torch.Generator().manual_seed(seed)
    train_loader = DataLoader(train_clips, shuffle=True, generator=order, **reading)
    test_loader = DataLoader(test_clips, **reading)

    # 4. Optimizer.
    learned = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=learning_rate, weight_decay=weight_decay)
    steps = epochs * len(train_loader)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    trained, optimizer, schedule, train_loader, test_loader = accelerator.prepare(
        detector, optimizer, schedule, train_loader, test_loader
    )

    # 5. Train. A clip that cannot be read has no boxes: nothing is learned from it.
    unreadable: set[str] = set()
    for epoch in range(epochs):
        trained.train()
        detector.vjepa.train(fine_tune)
        losses = []
        for batch in train_loader:
            outputs = trained(batch["pixel_values_videos"], batch["boxes"], batch["box_mask"], batch["labels"])
            accelerator.backward(outputs.loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(outputs.loss.detach())
            unreadable.update(map(str, batch["failures"]))
        loss = accelerator.gather(torch.stack(losses)).mean().item()
        accelerator.print(f"epoch {epoch + 1}/{epochs}: loss {loss:.4f}")

    # 6. Test: every action of every box is a detection, of which the metric needs all.
    trained.eval()
    found = []
    for batch in test_loader:
        with torch.no_grad():
            logits = trained(batch["pixel_values_videos"], batch["boxes"], batch["box_mask"]).logits
        detections = detection.to_detections(logits.cpu(), *(batch[k].cpu() for k in ("boxes", "box_mask", "scores")))
        found += zip(batch["index"].tolist(), detections, strict=True)
        unreadable.update(map(str, batch["failures"]))
    found = {test_frames[index].moment: detections for index, detections in gather_object(found)}
    unreadable = set(gather_object(sorted(unreadable)))
    if not accelerator.is_main_process:
        return
    for cause in sorted(unreadable):
        print(f"no boxes in {cause}")

    # 7. Judge: key frames without a box count as well, what is annotated there was missed.
    nothing = {"boxes": [], "labels": [], "scores": []}
    moments = sorted({*truths, *found})
    found = [found.get(moment, nothing) for moment in moments]
    true = [detection.to_truth(truths[moment]) if moment in truths else nothing for moment in moments]
    metric = FrameMeanAveragePrecision(len(names))
    result = metric.compute(predictions=list(map(listed, found)), references=list(map(listed, true)))
    precisions = [None if math.isnan(precision) else precision for precision in result.pop("average_precision")]
    per_action = dict(zip(names.values(), precisions, strict=True))
    result |= {"random_init": random_init, "fine_tune": fine_tune, "seed": seed, "train_loss": loss}
    result |= {"unreadable_clips": len(unreadable), "average_precision": per_action}

    # 8. Save: a model that needs nothing else, what it says in AVA's form, and a picture.
    detector.save_pretrained(output)
    processor.save_pretrained(output)
    (output / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    detection.write_results(output / "results.csv", moments, found, list(names))
    drawn = [place for place, moment in enumerate(moments) if moment in truths and len(found[place]["boxes"])]
    drawn = drawn[:NUM_DRAWN]
    key_frames = [test_clips.decode(truths[moments[place]])[processor.num_frames // 2] for place in drawn]
    plot_detections(
        key_frames,
        [found[place] for place in drawn],
        [true[place] for place in drawn],
        list(names.values()),
        output / "detections.png",
        titles=[f"{moments[place][0]}, second {moments[place][1]:g}" for place in drawn],
    )
    for name, precision in per_action.items():
        print("  -  " if precision is None else f"{precision:.3f}", name)
    print(f"frame mAP {result['mean_average_precision']:.3f}; results and a picture in {output}")


def listed(entry: dict) -> dict:
    """Entries of a key frame as lists, which is what metrics take."""
    return {name: torch.as_tensor(values).tolist() for name, values in entry.items()}


if __name__ == "__main__":
    typer.run(main)
