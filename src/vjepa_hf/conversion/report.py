"""What a conversion did, and the model card that says so."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from ..model.configuration_vjepa import VJEPAConfig
from .class_names import NO_NAMES, class_names
from .released import LICENSE


@dataclass(frozen=True)
class Source:
    """A file that weights come from, and where that is from: an address, or the name of a local file."""

    path: Path
    origin: str
    released_as: str | None = None


@dataclass(frozen=True)
class Conversion:
    """What a conversion did; printing it tells a user all there is to know.

    Attributes:
        output: the folder or file that was written.
        parts: number of weights in each part, without position tables.
        dropped: what was left out -> why.
        notes: everything else worth knowing.
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
        """One line for each reason, with the names that it holds for."""
        names = {}
        for name, reason in self.dropped.items():
            names.setdefault(reason, []).append(name)
        return [f"{', '.join(dropped)}: {reason}" for reason, dropped in names.items()]


def _name_labels(config: VJEPAConfig, labels: str | Path | None, probe: str | None) -> str:
    """Write class names into the configuration where they are known, and say what was done.

    `probe` is the name of a released probe. The number of a class is never given a name by guessing.
    """
    if labels is not None and Path(labels).is_file():
        names = Path(labels).read_text().splitlines()
    else:
        names = class_names(str(labels or probe))
        if names is None and labels is not None:
            raise ValueError(f"labels={str(labels)!r} is neither a text file nor one of ssv2 and in1k.")
    if names is None:
        return f"classes are called LABEL_i: {NO_NAMES.get(str(probe), 'a probe file does not hold their names')}"
    if len(names) != config.num_labels or len(set(names)) != len(names):
        raise ValueError(
            f"labels={str(labels or probe)!r} has {len(set(names))} different names for {config.num_labels} classes."
        )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    return f"classes are named after {labels or probe}"


def model_card(config: VJEPAConfig, report: Conversion, sources: list[Source], license: str) -> str:
    """Text of the README.md beside converted weights: what they are, where from, what was left out, whose license."""
    classifier = "classifier" in report.parts
    side = config.image_size if isinstance(config.image_size, int) else " x ".join(map(str, config.image_size))
    lines = [
        "---",
        f"license: {license.lower().replace(' ', '-')}",
        "library_name: transformers",
        f"pipeline_tag: {'video-classification' if classifier else 'feature-extraction'}",
        "tags: [video, v-jepa, vjepa_hf]",
        "---",
        "",
        "# V-JEPA, converted with vjepa_hf",
        "",
        f"Width {config.hidden_size}, {config.num_hidden_layers} layers, {config.num_attention_heads} heads; clips of "
        f"{config.num_frames} frames, {side} pixels, tubelets of {config.tubelet_size} x {config.patch_size} x "
        f"{config.patch_size}.",
        "",
        "```python",
        "from vjepa_hf import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel, VJEPAVideoProcessor",
        "",
        "processor = VJEPAVideoProcessor.from_pretrained(folder)",
        "model = VJEPAModel.from_pretrained(folder)  # the target encoder",
        'features = model(**processor("some.mp4")).last_hidden_state',
    ]
    if "encoder" in report.parts:
        lines.append("pretraining = VJEPAForPreTraining.from_pretrained(folder)")
    if classifier:
        lines.append("classifier = VJEPAForVideoClassification.from_pretrained(folder)")
    lines += ["```", "", "## Source", "", "| file | bytes | sha256 |", "|---|---|---|"]
    lines += [f"| {source.origin} | {source.path.stat().st_size:,} | `{_sha256(source.path)}` |" for source in sources]
    lines += ["", "## Weights", "", "Without position tables, which are carried as stored.", ""]
    lines += [f"- {part}: {count:,}" for part, count in report.parts.items()]
    lines += ["", "## Notes", ""] + [f"- {note}" for note in report.notes]
    lines += ["", "## Left out", ""] + [f"- {line}" for line in report.dropped_lines()]
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
