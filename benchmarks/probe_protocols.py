"""Run every protocol of docs/probing.md on the toy set.

    python benchmarks/probe_protocols.py --output benchmarks/results/probe_protocols.md

The commands are those at the end of docs/probing.md, read from that page and run one after the other in the folder of
the checkout, where `make pretrain` left `output/pretrain` and `output/toy_videos`. The folder of images is one frame
of each toy video, in a sub-folder named after its appearance, made if missing. Uncertainty is the 95 % Wilson
interval over the test videos, or +- the standard deviation over splits. Toy videos hold two clips that do not
overlap. They are square, so that the crops of a clip are equal, and show the margin that a single crop leaves out.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from report import opening, publish, table
from vjepa_hf.data.clips import load_videos
from vjepa_hf.data.videos import decode_video

REPO = Path(__file__).resolve().parent.parent
IMAGES = Path("output/toy_images")


def commands(page: str) -> list[list[str]]:
    """The command lines between the two marks of the page, as words."""
    block = page.split("<!-- commands: begin -->")[1].split("<!-- commands: end -->")[0]
    lines = re.search(r"```bash\n(.*?)```", block, re.DOTALL)[1].replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def write_images(videos: Path, images: Path) -> None:
    """The first frame of each toy video as `<split>/<appearance>/<name>.png`."""
    for split in ("train", "test"):
        for row in load_videos(videos / f"{split}.csv"):
            path = images / split / row["appearance"] / f"{Path(row['video']).stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(decode_video(row["video"], [0])[0].permute(1, 2, 0).numpy()).save(path)


def cells(result: dict) -> list[tuple[str, str, str]]:
    """Labels, accuracy and uncertainty: one row a result, or one for each share of the labels."""
    if "summary" in result:
        return [
            (f"{name}, {row['splits']} splits", f"{row['mean']:.3f}", f"+- {row['std']:.3f}")
            for name, row in result["summary"].items()
        ]
    low, high = result["top_1_interval"]
    return [(result.get("labels", ""), f"{result['top_1_accuracy']:.3f}", f"{low:.3f} to {high:.3f}")]


def main() -> None:
    """Run the commands, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    if not (REPO / IMAGES).exists():
        write_images(REPO / "output/toy_videos", REPO / IMAGES)
    rows = []
    for words in tqdm(commands((REPO / "docs" / "probing.md").read_text())):
        folder = words[words.index("--output") + 1] if "--output" in words else "output/probe"
        subprocess.run([sys.executable, *words[1:]], cwd=REPO, check=True, stdout=subprocess.DEVNULL)
        result = json.loads((REPO / folder / "result.json").read_text())
        shown = " ".join(words[2:])
        for labels, accuracy, uncertainty in cells(result):
            chosen = f"{result['learning_rate']:g}, {result['weight_decay']:g}" if "learning_rate" in result else ""
            rows.append((f"`{shown}`", labels, accuracy, uncertainty, chosen))
    lines = opening("The protocols on the toy set", __file__, __doc__)
    header = ("options of examples/probe.py", "labels", "top-1", "uncertainty", "learning rate, weight decay")
    publish([*lines, *table(header, rows)], options.output)


if __name__ == "__main__":
    main()
