"""Name what happens in a video or an image, with a folder that examples/probe.py wrote.

    python examples/classify_video.py output/probe some.mp4

Several videos, images and URLs may follow. `--num-clips 8 --num-crops 3` averages the probabilities of so many views.
"""

from typing import Annotated

import typer
from transformers import pipeline

from vjepa_hf import VJEPAVideoProcessor  # this import also teaches transformers what a V-JEPA model is


def main(
    model: Annotated[str, typer.Argument(help="folder or Hub name of a classifier")],
    videos: Annotated[list[str], typer.Argument(help="paths or URLs")],
    top_k: Annotated[int, typer.Option(help="classes shown for each video")] = 5,
    num_clips: Annotated[int | None, typer.Option(help="clips of a video; those of the classifier by default")] = None,
    num_crops: Annotated[int | None, typer.Option(help="crops of a clip; those of the classifier by default")] = None,
) -> None:
    """Print the most likely classes of each video."""
    views = {name: value for name, value in (("num_clips", num_clips), ("num_crops", num_crops)) if value is not None}
    processor = VJEPAVideoProcessor.from_pretrained(model, **views)
    classify = pipeline("video-classification", model=model, video_processor=processor)
    for video in videos:
        print(video)
        for answer in classify(video, top_k=top_k):
            print(f"  {answer['score']:.3f}  {answer['label']}")


if __name__ == "__main__":
    typer.run(main)
