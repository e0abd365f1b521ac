"""Classify videos and images with a model of examples/probe.py or examples/finetune.py.

    python examples/classify_video.py --model output/probe --videos some.mp4

`--num_clips 8 --num_crops 3` averages the probabilities of 24 views. `--class_names FILE` names the classes of a model
that has no names for them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import pipeline

from vjepa_hf import VJEPAVideoProcessor  # the import also registers V-JEPA in transformers
from vjepa_hf.conversion.report import HOW_TO_NAME, has_class_names, name_labels
from vjepa_hf.model.names import printable
from vjepa_hf.training.arguments import mistakes_exit, option, parse


@dataclass
class ClassifyArguments:
    """Print the most likely classes of each video."""

    videos: list[str] = option("paths or URLs of videos, images or folders of frames")
    model: str = option("folder or Hub name of a classifier", "output/probe")
    top_k: int = option("classes printed per video", 5)
    num_clips: int | None = option("clips per video; None: as the classifier", None)
    num_crops: int | None = option("crops per clip; None: as the classifier", None)
    class_names: str | None = option("file with one class name per line; None: as the classifier", None)


def main(command_line: Sequence[str] | None = None) -> None:
    args = parse(ClassifyArguments, command_line)
    views = {"num_clips": args.num_clips, "num_crops": args.num_crops}
    views = {name: value for name, value in views.items() if value is not None}
    with mistakes_exit():
        processor = VJEPAVideoProcessor.from_pretrained(args.model, **views)
        classify = pipeline("video-classification", model=args.model, video_processor=processor)
        if args.class_names is not None:
            name_labels(classify.model.config, args.class_names, None)
        elif not has_class_names(classify.model.config):
            print(f"{args.model} has no class names: {HOW_TO_NAME}.", file=sys.stderr)
        for video in args.videos:
            print(printable(video))
            for answer in classify(video, top_k=args.top_k):
                print(f"  {answer['score']:.3f}  {answer['label']}")


if __name__ == "__main__":
    main()
