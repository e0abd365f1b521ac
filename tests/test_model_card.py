"""A card has the license of the initial weights, results to the digit, names that are only text, and code that runs.

pytest tests/test_model_card.py
"""

import json
import re
import subprocess
import sys

import pytest
import yaml
from huggingface_hub import ModelCard, constants

from programs import cpu_environment
from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.model_card import (
    Origin,
    accuracy_results,
    file_name,
    hyperparameters,
    license_fields,
    read_origin,
    snippet,
    write_card,
)

NC = {"license": "cc-by-nc-4.0"}


def write(folder, origin, **options):
    folder.mkdir(exist_ok=True, parents=True)
    write_card(folder, "VJEPAForVideoClassification", "A model.", origin, {}, **options)
    return ModelCard.load(folder / "README.md")


def python_of(card: str) -> str:
    """Return the Python of a card."""
    return re.search("```python\n(.*?)```", card, re.DOTALL)[1]


# --- license ---


@pytest.mark.parametrize(
    "fields",
    [NC, {"license": "mit"}, {"license": "other", "license_name": "my-license", "license_link": "https://a.org/b"}],
)
def test_a_license_is_inherited_through_generations(tmp_path, fields):
    folder = tmp_path / "0"
    write(folder, Origin("someone/weights", fields, ["someone/weights"]))
    for generation in range(1, 4):
        child = tmp_path / str(generation)
        card = write(child, read_origin(folder))
        folder = child
        assert {name: card.data.get(name) for name in fields} == fields
        assert card.data.base_model == ["someone/weights"]
        assert fields["license"] in card.text.partition("## License")[2]
        assert ("non-commercial" in card.text) == (fields == NC)


def test_a_parent_without_a_readable_card_means_an_unknown_license_down_the_line(tmp_path):
    for number, text in enumerate([None, "---\nlicense: [\n---\n", "---\n- a\n---\n"]):
        parent = tmp_path / f"parent{number}"
        parent.mkdir()
        if text is not None:
            (parent / "README.md").write_text(text)
        card = write(tmp_path / "child", read_origin(parent))
        assert card.data.license == "unknown" and "Unknown" in card.text.partition("## License")[2]
        assert write(tmp_path / "grandchild", read_origin(tmp_path / "child")).data.license == "unknown"


def test_random_weights_have_no_license_until_the_user_chooses_one_and_a_resumed_run_keeps_it(tmp_path):
    card = write(tmp_path, read_origin(None))
    assert card.data.license is None and "None yet" in card.text
    card.data.license = "apache-2.0"
    card.save(tmp_path / "README.md")
    card = write(tmp_path, read_origin(None, tmp_path))
    assert card.data.license == "apache-2.0" and "chosen by the publisher" in card.text


def test_a_resumed_run_keeps_the_license_when_the_folder_of_its_parent_is_gone(tmp_path):
    write(tmp_path / "run", Origin("models/vitl16", NC, ["meta/x"]))
    origin = read_origin("models/vitl16", tmp_path / "run")
    assert (origin.license, origin.base_model) == (NC, ["meta/x"])
    assert "`vitl16`" in origin.describe()
    assert read_origin("models/vitl16").license == {"license": "unknown"}


def test_a_parent_on_the_hub_is_the_base_model_and_its_card_is_read_through_the_cache(tmp_path, monkeypatch):
    repository = tmp_path / "models--me--parent"
    write(repository / "snapshots" / "0123", Origin("x", NC, ["meta/grandparent"]))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    origin = read_origin("me/parent")
    assert (origin.license, origin.base_model) == (NC, ["me/parent"])
    assert read_origin("me/other").license == {"license": "unknown"}


@pytest.mark.parametrize(
    "license, fields",
    [
        ("CC BY-NC 4.0", NC),
        ("apache-2.0", {"license": "apache-2.0"}),
        ("Our terms", {"license": "other", "license_name": "our-terms"}),
    ],
)
def test_a_license_is_an_identifier_of_the_hub_or_other(license, fields):
    assert license_fields(license) == fields


# --- content ---


def test_results_of_the_card_equal_the_result_to_the_digit(tmp_path):
    result = {
        "top_1_accuracy": 1 / 3,
        "top_1_interval": [0.1 + 0.2, 2 / 3],
        "mean_class_accuracy": 0.7,
        "num_samples": 9,
    }
    write(
        tmp_path,
        Origin(),
        results=accuracy_results(json.loads(json.dumps(result)), "lists/test.csv"),
        model_id="me/it",
    )
    metadata = yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])
    (index,) = metadata["model-index"]
    (entry,) = index["results"]
    assert index["name"] == "it" and entry["dataset"]["name"] == "test.csv"
    values = {metric["name"]: metric for metric in entry["metrics"]}
    assert values["top-1 accuracy"]["value"] == result["top_1_accuracy"]
    assert values["top-1 accuracy"]["args"] == {"num_samples": 9, "interval_95": result["top_1_interval"]}
    assert values["mean class accuracy"]["value"] == 0.7
    card = ModelCard.load(tmp_path / "README.md")
    assert len(card.data.eval_results) == 2 and card.data.pipeline_tag == "video-classification"
    assert "0.3 to 0.6667" in card.text


def test_a_card_shows_neither_folders_nor_passwords():
    shown = hyperparameters(
        {"videos": ["/home/me/a.csv", "https://u:p@x.org/b.tar?token=s"], "steps": 3, "none": None}
    )
    assert "a.csv" in shown and "b.tar" in shown and "steps" in shown
    assert not any(part in shown for part in ("home", "u:p", "token", "none"))
    assert file_name(r"C:\me\a.csv") == "a.csv"


def test_names_from_files_are_only_text(tmp_path):
    name = "a`b` | c\n\n## License\n\nPublic domain\x1b[31m"
    card = write(tmp_path, Origin(name, {"license": name}), results=[])
    assert card.content.count("\n## License") == 1 and "\x1b" not in card.content
    outside_of_code = re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", card.text, flags=re.DOTALL))
    assert "Public domain" in card.text and "Public domain" not in outside_of_code


# --- code ---


@pytest.mark.parametrize("name", ["tiny_model", "tiny_classifier"])
def test_the_code_of_a_card_runs_as_it_stands(request, tmp_path, monkeypatch, name, capsys):
    model = request.getfixturevalue(name)
    model.save_pretrained(tmp_path)
    VJEPAVideoProcessor(crop_size=32, num_frames=4, patch_size=8).save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(python_of(snippet(type(model).__name__)), {})
    assert ("torch.Size([1, 32, 48])" if name == "tiny_model" else "LABEL_") in capsys.readouterr().out


@pytest.mark.slow
def test_the_code_of_a_detector_runs_in_a_fresh_process(tmp_path, tiny_config):
    from tiny_models import seeded
    from vjepa_hf import VJEPAForActionDetection

    tiny_config.num_labels = 2
    seeded(VJEPAForActionDetection, tiny_config).save_pretrained(tmp_path)
    VJEPAVideoProcessor(crop_size=32, num_frames=4, patch_size=8).save_pretrained(tmp_path)
    write_card(tmp_path, "VJEPAForActionDetection", "A detector.", Origin(), {})
    program = python_of((tmp_path / "README.md").read_text())
    environment = cpu_environment(tmp_path)
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0 and "LABEL_1" in result.stdout, result.stderr
