"""Make the checkpoint that comes with the package from a pretraining run on generated videos.

    make pretrain
    python studies/tiny_checkpoint.py --run output/pretrain --videos output/toy_videos

writes target encoder and predictor in float16, the processor, and a card with the accuracy of probes to
src/vjepa_hf/tiny. The run must start from random weights and see only what examples/make_toy_videos.py made: then the
license of the weights is ours to choose.
"""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
import yaml
from huggingface_hub import ModelCard

from vjepa_hf import VJEPAModel, VJEPAVideoProcessor, tiny_checkpoint
from vjepa_hf.model_card import CARD, Origin, write_card
from vjepa_hf.training.arguments import ARGUMENTS_FILE

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from programs import few_label_accuracy  # noqa: E402
from report import COMMIT, table  # noqa: E402

OUTPUT = tiny_checkpoint()
LABELS = "motion", "appearance"
ENCODERS = {"this checkpoint": [], "random weights": ["--random_init"]}
ABOUT = """A V-JEPA encoder and predictor with {millions:.2f} million weights, trained on generated videos. It comes
with the package: `vjepa_hf.tiny_checkpoint()` is its folder, so that documentation, tests, demos and first steps need
no download. Weights are stored in float16; `from_pretrained` gives float32 unless `dtype` says otherwise."""
GOOD_FOR = """Code that needs *some* trained V-JEPA model. Its features know how generated shapes move, its predictor
knows how such clips go on, and it has every part that a large model has: what runs with it runs with those."""
BAD_FOR = """Real videos. It has seen colored shapes of a generator and nothing else, {num_frames} frames of
{image_size} x {image_size} pixels at a time, and has a million weights where ViT-L/16 has 300. Do not compare it with
other models, do not judge V-JEPA by it, and start no serious run from it."""


def store(run: Path, folder: Path) -> VJEPAModel:
    """Write target encoder, predictor and processor of a run, the weights in float16.

    Raises:
        ValueError: the run started from other weights.
    """
    start = yaml.safe_load((run / ARGUMENTS_FILE).read_text())["init_from"]
    if start:
        raise ValueError(f"{run} started from {start} and inherits its license; choose a run from random weights")
    model = VJEPAModel.from_pretrained(run).half()
    model.save_pretrained(folder)
    # `from_pretrained` converts to it unless told otherwise, and every float16 is a float32.
    model.config.dtype = "float32"
    model.config.save_pretrained(folder)
    VJEPAVideoProcessor.from_pretrained(run).save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod((folder / "config.json").stat().st_mode)  # safetensors writes 0600
    return model


def probes(folder: Path, videos: Path, splits: int, epochs: int) -> str:
    """Return the table of the test accuracies of the checkpoint and of random weights, with 8 labels a class."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for label in LABELS:
            settings = {"label": label, "splits": splits, "epochs": epochs}
            accuracies = [
                few_label_accuracy(folder, videos, Path(scratch), *words, **settings) for words in ENCODERS.values()
            ]
            rows.append([label, *(f"{accuracy:.2f}" for accuracy in accuracies)])
    return "\n".join(table(["label", *ENCODERS], rows))


def sections_of(card: Path) -> dict[str, str]:
    """Return the sections of a model card: title -> Markdown."""
    parts = ModelCard.load(card).text.split("\n## ")[1:]
    return {title: text.strip() for title, text in (part.split("\n", 1) for part in parts)}


def make(
    run: Annotated[Path, typer.Option(help="folder of the pretraining run")] = Path("output/pretrain"),
    videos: Annotated[Path, typer.Option(help="folder of the toy set")] = Path("output/toy_videos"),
    splits: Annotated[int, typer.Option(help="draws of the labels, at least 2")] = 4,
    epochs: Annotated[int, typer.Option(help="of a probe: 300 steps, the default of examples/probe.py")] = 150,
    output: Annotated[Path, typer.Option(help="folder to write")] = OUTPUT,
) -> None:
    """Store the weights of a run, probe them, and write the card."""
    model = store(run, output)
    accuracies = probes(output, videos, splits, epochs)
    trained = sections_of(run / CARD)
    sections = {
        "What it is for": GOOD_FOR,
        "What it is not good for": BAD_FOR.format(**model.config.to_dict()),
        "Probes": f"Test accuracy of attentive probes with 8 labels a class, mean of {splits} draws of the labels; "
        f"chance is 0.125. No single frame tells the motion.\n\n{accuracies}",
        "Training": "`examples/pretrain.py` trained it on videos of `examples/make_toy_videos.py`, with the settings "
        f"below, and `studies/tiny_checkpoint.py` ({COMMIT}) stored it. {trained['Data']}\n\n"
        f"{trained['Hyperparameters']}",
    }
    about = ABOUT.format(millions=model.num_parameters() / 1e6)
    write_card(output, "VJEPAModel", about, Origin(license={"license": "apache-2.0"}), sections)


if __name__ == "__main__":
    typer.run(make)
