"""What the accuracies of the health log say about an encoder, and what they cost.

    python benchmarks/online_evaluation.py --model output/pretrain --videos output/toy_videos --output FILE.md

`online_evaluation` judges three encoders of one configuration on videos of the toy set: random weights, the run's
first checkpoint that is left, and its last. `motion` takes time to see, `appearance` does not. Processor time of a
judgement stands beside that of a training step on as many clips, so the two compare at any size of the set.
"""

import argparse
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from report import opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAVideoProcessor
from vjepa_hf.data.clips import load_videos
from vjepa_hf.data.masking import CausalMask, MaskSampler
from vjepa_hf.evaluation.online import OnlineEvaluation
from vjepa_hf.training.checkpoints import list_checkpoints


def encoders(folder: str) -> dict[str, VJEPAForPreTraining]:
    """Name -> model: untrained, and at the checkpoints of a run."""
    torch.manual_seed(0)
    found = {"random weights": VJEPAForPreTraining(VJEPAConfig.from_pretrained(folder))}
    checkpoints = list_checkpoints(folder)
    for checkpoint in dict.fromkeys((checkpoints[0], checkpoints[-1])):
        model = VJEPAForPreTraining(VJEPAConfig.from_pretrained(folder))
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
        found[f"{int(checkpoint.name.split('_')[1]):,} steps"] = model
    return found


def training_milliseconds(model: VJEPAForPreTraining, clips: int = 32) -> float:
    """Processor time of forward and backward pass, a clip, with the masks of the toy recipe; no decoding."""
    config = model.config
    grid = config.grid_size
    masks = MaskSampler([CausalMask(grid[0] // 2)], grid, seed=0)
    context, target = masks([(0, index) for index in range(clips)])
    pixels = torch.randn(clips, config.num_frames, 3, grid[1] * config.patch_size, grid[2] * config.patch_size)
    model(pixels, context, target).loss.backward()
    began = time.process_time()
    model(pixels, context, target).loss.backward()
    return 1000 * (time.process_time() - began) / clips


def main() -> None:
    """Judge, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="output/pretrain", help="folder of the toy run")
    parser.add_argument("--videos", type=Path, default=Path("output/toy_videos"), help="folder of the toy set")
    parser.add_argument("--num-videos", type=int, default=256, help="to learn classes from, and as many to judge")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)

    accelerator, processor = Accelerator(cpu=True), VJEPAVideoProcessor.from_pretrained(options.model)
    tables = [load_videos(options.videos / f"{split}.csv") for split in ("train", "test")]
    tables = [videos.select(range(min(options.num_videos, len(videos)))) for videos in tables]
    rows, spent, models = [], [], encoders(options.model)
    for name, model in models.items():
        for label in ("motion", "appearance"):
            judge = OnlineEvaluation(accelerator, *tables, label, processor)
            began = time.process_time()
            figures = judge.figures(model.vjepa)
            spent.append(1000 * (time.process_time() - began) / sum(map(len, tables)))
            rows.append((name, label, f"{figures['knn_accuracy']:.3f}", f"{figures['linear_accuracy']:.3f}"))
            print(*rows[-1], flush=True)
    step = training_milliseconds(model)
    lines = opening("Judging while learning", __file__, __doc__)
    lines += [f"{len(tables[0])} videos with labels, {len(tables[1])} judged; chance is 0.125.", ""]
    lines += table(["encoder", "label", "neighbours", "linear probe"], rows)
    judged = f"{sum(spent) / len(spent):.1f} ms for each video of a judgement, reading included"
    lines += ["", f"Processor time: {judged}, and {step:.1f} ms for each clip of a training step, without reading."]
    publish(lines, options.output)


if __name__ == "__main__":
    main()
