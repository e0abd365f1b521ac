"""Name what happens in a video, with a folder that examples/probe.py wrote.

    python examples/classify_video.py output/probe some.mp4

Several videos and URLs may follow.
"""

from typing import Annotated

import typer
from transformers import pipeline

import vjepa_hf  # noqa: F401  (the import teaches transformers what a V-JEPA model is)


def main(
    model: Annotated[str, typer.Argument(help="folder or Hub name of a classifier")],
    videos: Annotated[list[str], typer.Argument(help="paths or URLs")],
    top_k: Annotated[int, typer.Option(help="classes shown for each video")] = 5,
) -> None:
    """Print the most likely classes of each video."""
    classify = pipeline("video-classification", model=model)
    for video in videos:
        print(video)
        for answer in classify(video, top_k=top_k):
            print(f"  {answer['score']:.3f}  {answer['label']}")


if __name__ == "__main__":
    typer.run(main)
