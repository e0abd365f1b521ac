"""Report of a conversion, its model card, and the class names of released probes."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..model.configuration_vjepa import VJEPAConfig
from ..model_card import code, front_matter, license_fields, metadata, snippet
from .released import LICENSE

# Only certain names. SSv2: the class numbers of its own `labels.json`. Diving48: those of its `Diving48_vocab.json`.
# IN1K: sorted WordNet numbers, as in every ImageNet classifier.
CLASS_NAMES = Path(__file__).with_name("class_names.json")
NO_NAMES = {
    "k400": "K400 probes use a class order of Meta's own",
    # `apartment_building/outdoor` is class 13 of the data set's list and among the first of the sorted folders.
    "places205": "which of two orders of the Places205 classes the probes use is not public",
    "inat21": "vjepa_hf does not contain the 10,000 names of iNat21; class indices follow its sorted folder names",
}

HOW_TO_NAME = (
    "pass --class_names FILE with one name per line, in the order of the classifier's outputs. For Meta's K400 probes "
    "a maintainer's comment of 2024-02-20 in https://github.com/facebookresearch/jepa/issues/18 lists them"
)


@dataclass(frozen=True)
class Source:
    """File with weights, and its origin: a URL, or the name of a local file."""

    path: Path
    origin: str
    released_as: str | None = None


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion; print it for a summary.

    Attributes:
        output: folder or file that was written.
        parts: number of weights in each part, without position tables.
        dropped: names that were not converted -> reason.
        notes: other remarks.
    """

    output: Path
    parts: dict[str, int]
    dropped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"wrote {self.output}"]
        lines += [f"  {part}: {count:,} weights" for part, count in self.parts.items()]
        lines += [f"  dropped {line}" for line in self.dropped_lines()]
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def dropped_lines(self) -> list[str]:
        """Return one line for each reason, with the names it applies to."""
        names: dict[str, list[str]] = {}
        for name, reason in self.dropped.items():
            names.setdefault(reason, []).append(name)
        return [f"{', '.join(map(code, dropped))}: {reason}" for reason, dropped in names.items()]


def class_names(dataset: str) -> list[str] | None:
    """Return the class names of a released probe in the order of its outputs; None if they are not known."""
    if dataset == "in1k":
        # Imported here, because torchvision's models take seconds to import.
        from torchvision.models import ResNet50_Weights

        return list(ResNet50_Weights.DEFAULT.meta["categories"])
    return json.loads(CLASS_NAMES.read_text(encoding="utf-8")).get(dataset)


def name_labels(config: VJEPAConfig, labels: str | Path | None, probe: str | None) -> str:
    """Write class names into the configuration where they are known, and return a note about it.

    Args:
        config: configuration to change.
        labels: text file with one name a line, or "ssv2" or "in1k".
        probe: name of a released probe.

    Raises:
        ValueError: unknown `labels`, or names that do not fit the number of classes.
    """
    names: list[str] | None
    if labels is not None and Path(labels).is_file():
        names = Path(labels).read_text(encoding="utf-8").splitlines()
    else:
        names = class_names(str(labels or probe))
        if names is None and labels is not None:
            raise ValueError(f"class names {str(labels)!r} are neither a text file nor 'ssv2', 'diving48' or 'in1k'.")
    if names is None:
        reason = NO_NAMES.get(str(probe), "a probe file does not contain class names")
        return f"classes are named LABEL_i, because {reason}; {HOW_TO_NAME}"
    if len(names) != config.num_labels or len(set(names)) != len(names):
        raise ValueError(
            f"class names {str(labels or probe)!r} are {len(set(names))} different names for {config.num_labels} "
            "classes; give one name per class."
        )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    return f"classes are named after {code(labels or probe)}"


def has_class_names(config: VJEPAConfig) -> bool:
    """Return whether the classes have names, not only `LABEL_0`, `LABEL_1`, ..."""
    return any(name != f"LABEL_{index}" for index, name in (config.id2label or {}).items())


def model_card(
    config: VJEPAConfig, report: Conversion, sources: list[Source], license: str, base_model: Sequence[str] = ()
) -> str:
    """Return the README.md of converted weights: architecture, source, dropped names, license."""
    classifier = "classifier" in report.parts
    height, width = config.frame_size
    loads = ["`VJEPAModel` (the target encoder)"] + ["`VJEPAForPreTraining`"] * ("encoder" in report.parts)
    loads += ["`VJEPAForVideoClassification`"] * classifier
    architecture = "VJEPAForVideoClassification" if classifier else "VJEPAForPreTraining"
    lines = [
        front_matter(metadata(architecture, license_fields(license), base_model)),
        "# V-JEPA, converted with vjepa_hf",
        "",
        f"Width {config.hidden_size}, {config.num_hidden_layers} layers, {config.num_attention_heads} heads; clips of "
        f"{config.num_frames} frames, {height} x {width} pixels, tubelets of {config.tubelet_size} x "
        f"{config.patch_size} x {config.patch_size}.",
        "",
        snippet(architecture),
        "",
        f"Loads as {', '.join(loads)}.",
    ]
    lines += ["", "## Source", "", "| file | bytes | sha256 |", "|---|---|---|"]
    for source in sources:
        origin = source.origin if source.released_as else code(source.origin)
        lines.append(f"| {origin} | {source.path.stat().st_size:,} | `{_sha256(source.path)}` |")
    lines += ["", "## Weights", "", "Without position tables, which are copied as stored.", ""]
    lines += [f"- {part}: {count:,}" for part, count in report.parts.items()]
    lines += ["", "## Notes", ""] + [f"- {note}" for note in report.notes]
    lines += ["", "## Dropped", ""] + [f"- {line}" for line in report.dropped_lines()]
    lines += ["", "## License", "", f"The weights are under {license}, the license of their source."]
    if license == LICENSE:
        lines += ["Meta released its V-JEPA weights for non-commercial use; converting them does not change that."]
    return "\n".join(lines) + "\n"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
