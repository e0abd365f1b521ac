"""Model card of a folder: what the model is, how to use it, where its weights come from, and under which license.

A license is inherited. The card of a model that started from other weights has the license in the card of these
weights, through any number of generations. Names from files are escaped, so that they are only text in a card.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from .files import whole_file
from .model.names import printable

CARD = "README.md"
MAX_NAME = 120  # characters of a name
LICENSE_FIELDS = ("license", "license_name", "license_link")
UNKNOWN = "unknown"  # an identifier of the Hub
# Identifiers of the Hub that are likely for weights; any other license is `other` with a name.
LICENSES = set(
    "agpl-3.0 apache-2.0 bsd-2-clause bsd-3-clause cc cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 "
    "cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 gpl gpl-3.0 "
    "lgpl-3.0 mit mpl-2.0 openrail other unknown unlicense".split()
)
TASKS = {
    "VJEPAForPreTraining": "feature-extraction",
    "VJEPAModel": "feature-extraction",
    "VJEPAForVideoClassification": "video-classification",
    "VJEPAForActionDetection": "video-classification",  # the Hub has no task for actions in boxes
}
_CLIP = "processor(video, return_tensors='pt')".replace("'", '"')
_USE = {
    "VJEPAModel": f"features = model(**{_CLIP}).last_hidden_state\nprint(features.shape)  # (clips, tokens, width)",
    "VJEPAForVideoClassification": f"probabilities = model(**{_CLIP}).logits.softmax(-1)[0]\n"
    "best = int(probabilities.argmax())\nprint(model.config.id2label[best], float(probabilities[best]))",
    "VJEPAForActionDetection": f"clip = {_CLIP}.pixel_values_videos\n"
    "boxes = torch.tensor([[[0.25, 0.1, 0.75, 0.9]]])  # of people: x1, y1, x2, y2 as fractions of the frame\n"
    "scores = model(clip, boxes).logits.sigmoid()[0, 0]\n"
    "print({name: float(scores[index]) for index, name in model.config.id2label.items()})",
}
_AUTO = {"VJEPAForVideoClassification": "AutoModelForVideoClassification"}  # the others: AutoModel


def code(name: object) -> str:
    """Quote a name from a file as Markdown code, so that it is only text: on one line, also in a cell of a table."""
    text = printable(str(name)).replace("`", r"\x60").replace("|", r"\x7c")
    return f"`{text if len(text) <= MAX_NAME else text[:MAX_NAME] + '...'}`"


def file_name(source: str | Path) -> str:
    """Return the last part of a path or an address: a published card shows neither folders nor passwords."""
    return PurePosixPath(urlsplit(str(source).replace("\\", "/")).path).name or "data"


# --- origin ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """Origin of the weights of a model.

    Attributes:
        parent: name of the model with the initial weights; None for random weights.
        license: license in the metadata of the card: `license`, and for `other` its name and link; may be empty.
        base_model: names of parents on the Hub.
    """

    parent: str | None = None
    license: Mapping[str, Any] = field(default_factory=dict)
    base_model: Sequence[str] = ()

    def describe(self) -> str:
        """Return the license section of the card."""
        names = " ".join(code(value) for value in self.license.values())
        if self.parent is None:
            if names:
                return f"{names}, chosen by the publisher: the weights were trained from random ones."
            return (
                "None yet. The weights were trained from random ones, so no license is inherited. To publish "
                "them, choose one and add it to the metadata above; the licenses of the videos may restrict it."
            )
        parent = code(self.parent if self.parent in self.base_model else file_name(self.parent))
        if self.license.get("license") == UNKNOWN:
            return (
                f"Unknown. The initial weights are those of {parent}, which has no model card with a license. Ask its "
                "author before you publish or use the model."
            )
        if not names:
            return f"None yet: the initial weights are those of {parent}, whose card names no license."
        more = " Training does not change that." if "nc" in str(self.license["license"]).split("-") else ""
        more = f" They are for non-commercial use only.{more}" if more else ""
        return f"The weights are under {names}, the license of the initial weights in {parent}.{more}"


def read_origin(parent: str | Path | None, card_folder: str | Path | None = None) -> Origin:
    """Read the license and the parents of the weights that a model starts from.

    Args:
        parent: folder or Hub name of the model with the initial weights; None for random weights.
        card_folder: folder whose card is continued, that of a resumed run; its license is kept.
    """
    own = _metadata(Path(card_folder) / CARD) if card_folder else None
    if parent is None:
        return Origin(license=_license(own))
    parent = str(parent)
    if own is not None:
        return Origin(parent, _license(own), _base_model(own))
    path = Path(parent).expanduser()
    metadata = _metadata(path / CARD if path.is_dir() else _hub_card(parent))
    license = {"license": UNKNOWN} if metadata is None else _license(metadata)
    return Origin(parent, license, _base_model(metadata or {}) if path.is_dir() else [parent])


def _base_model(metadata: Mapping[str, Any]) -> list[str]:
    names = metadata.get("base_model") or []
    return [name for name in (names if isinstance(names, list) else [names]) if isinstance(name, str)]


def _hub_card(name: str) -> Path | None:
    """Return the card of a model on the Hub, or in the cache; None if there is none."""
    try:
        return Path(hf_hub_download(name, CARD))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return None


def _metadata(path: Path | None) -> dict[str, Any] | None:
    """Return the metadata of a card; None if there is no card, or it cannot be read."""
    try:
        return (metadata_load(path) or {}) if path and path.is_file() else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None


def _license(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    fields = {name: (metadata or {}).get(name) for name in LICENSE_FIELDS}
    return {name: printable(value) for name, value in fields.items() if isinstance(value, str)}


def license_fields(license: str) -> dict[str, str]:
    """Return the metadata of a license: the Hub's identifier of it, or `other` with its name."""
    identifier = printable(license).lower().replace(" ", "-")
    return {"license": identifier} if identifier in LICENSES else {"license": "other", "license_name": identifier}


# --- card ------------------------------------------------------------------------------------------------------------


def snippet(architecture: str, model_id: str = ".", remote_code: bool = False) -> str:
    """Return Python that runs as it stands in the folder of the model, or anywhere if `model_id` is a Hub name.

    Args:
        architecture: class of the model; a pretraining model is used as `VJEPAModel`.
        model_id: name on the Hub, or a folder.
        remote_code: use the code in the folder, so that vjepa_hf need not be installed.
    """
    architecture = architecture if architecture in _USE else "VJEPAModel"
    model, processor, trust = architecture, "VJEPAVideoProcessor", ""
    if remote_code:
        model, processor = _AUTO.get(architecture, "AutoModel"), "AutoVideoProcessor"
        trust = ", trust_remote_code=True"
    note = "" if model_id != "." else "  # this folder; elsewhere its path, or its name on the Hub"
    lines = [
        "import numpy as np",
        "import torch",
        f"from {'transformers' if remote_code else 'vjepa_hf'} import {model}, {processor}",
        "",
        f'model_id = "{model_id}"{note}',
        f"processor = {processor}.from_pretrained(model_id{trust})",
        f"model = {model}.from_pretrained(model_id{trust})",
        "video = np.zeros((64, 240, 320, 3), np.uint8)  # or the path of a video",
        "with torch.no_grad():",
        *(f"    {line}" for line in _USE[architecture].split("\n")),
    ]
    return "\n".join(["```python", *lines, "```"])


def table(values: Mapping[str, Any]) -> str:
    """Return names and values as a Markdown table."""
    return "\n".join(["| | |", "|---|---|", *(f"| {code(name)} | {code(value)} |" for name, value in values.items())])


def hyperparameters(values: Mapping[str, Any]) -> str:
    """Return options that are set as a Markdown table; of a path only the last part."""

    def shown(value: Any) -> Any:
        if isinstance(value, list):
            return [shown(item) for item in value]
        return file_name(value) if isinstance(value, str) and {*value} & {"/", "\\"} else value

    return table({name: shown(value) for name, value in values.items() if value is not None and value != []})


def metadata(
    architecture: str,
    license: Mapping[str, Any],
    base_model: Sequence[str] = (),
    results: Sequence[EvalResult] = (),
    name: str = "model",
    remote_code: bool = False,
    tags: Sequence[str] = (),
) -> ModelCardData:
    """Return the metadata of a card.

    The library is `transformers` only with remote code: without it the Hub's own snippet would need `import vjepa_hf`.
    """
    return ModelCardData(
        **license,
        base_model=list(base_model) or None,
        library_name="transformers" if remote_code else "vjepa_hf",
        pipeline_tag=TASKS[architecture],
        tags=["video", "v-jepa", "vjepa_hf", *tags],
        eval_results=list(results) or None,
        model_name=printable(name) if results else None,
    )


def front_matter(data: ModelCardData) -> str:
    """Return the metadata as the first lines of a card; the license comes first."""
    return f"---\n{data.to_yaml(original_order=list(LICENSE_FIELDS))}\n---\n"


def write_card(
    folder: str | Path,
    architecture: str,
    introduction: str,
    origin: Origin,
    sections: Mapping[str, str],
    results: Sequence[EvalResult] = (),
    model_id: str | None = None,
    remote_code: bool = False,
    tags: Sequence[str] = (),
    is_adapter: bool = False,
) -> None:
    """Write the README.md of the folder of a model.

    Args:
        folder: folder of the model.
        architecture: class of the model.
        introduction: what the model is, in Markdown.
        origin: origin of the weights, with their license.
        sections: title of a section -> its Markdown.
        results: metrics of the model; they are in the metadata, too.
        model_id: name on the Hub, if the folder is uploaded.
        remote_code: whether the folder contains the code of the model.
        tags: tags of the model, besides those of all models.
        is_adapter: whether the folder contains adapters of peft only; the card has no code then.
    """
    name = (model_id or str(Path(folder).absolute())).rpartition("/")[2]
    data = metadata(architecture, origin.license, origin.base_model, results, name, remote_code, tags)
    lines = [f"# {code(name)}", "", introduction]
    if is_adapter:
        data.library_name = "peft"
    else:
        lines += ["", snippet(architecture, model_id or ".", remote_code)]
    sections = dict(sections) | ({"Results": results_table(results)} if results else {})
    for title, text in (sections | {"License": origin.describe()}).items():
        lines += ["", f"## {title}", "", text]
    card = ModelCard(front_matter(data) + "\n" + "\n".join(lines) + "\n")
    with whole_file(Path(folder) / CARD) as unfinished:
        unfinished.write_text(card.content, encoding="utf-8")


def accuracy_results(result: Mapping[str, Any], source: str, prefix: str = "") -> list[EvalResult]:
    """Return the accuracies in a `result.json` with their 95 % intervals, for the metadata of a card.

    Args:
        result: metrics, such as `top_1_accuracy` and `top_1_interval`.
        source: videos that they were measured on.
        prefix: prefix of the metrics, such as `test_`.
    """
    metrics = {
        "top_1_accuracy": "top-1 accuracy",
        "top_5_accuracy": "top-5 accuracy",
        "mean_class_accuracy": "mean class accuracy",
        "mean_average_precision": "frame mAP",
    }
    results = []
    for key, name in metrics.items():
        if (value := result.get(prefix + key)) is None:
            continue
        interval = result.get(prefix + key.replace("accuracy", "interval")) if "accuracy" in key else None
        settings = {"num_samples": result[f"{prefix}num_samples"]}
        settings |= {"interval_95": list(interval)} if interval else {}
        results.append(
            EvalResult(
                task_type="video-classification",
                dataset_type=printable(file_name(source)),
                dataset_name=printable(file_name(source)),
                metric_type="mean_average_precision" if "precision" in key else "accuracy",
                metric_name=name,
                metric_value=value,
                metric_args=settings,
            )
        )
    return results


def results_table(results: Sequence[EvalResult]) -> str:
    """Return results as a Markdown table."""
    lines = ["| metric | value | 95 % interval | samples | videos |", "|---|---|---|---|---|"]
    for result in results:
        settings = result.metric_args or {}
        interval = " to ".join(f"{bound:.4g}" for bound in settings.get("interval_95", ())) or "-"
        cells = result.metric_name, f"{result.metric_value:.4g}", interval, settings["num_samples"]
        lines.append(f"| {' | '.join(map(str, cells))} | {code(result.dataset_name)} |")
    return "\n".join(lines)
