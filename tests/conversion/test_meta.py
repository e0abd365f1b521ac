"""Conversion of Meta's checkpoints is strict, and a round trip gives the same tensors."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from vjepa_hf import (
    VJEPAConfig,
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAModel,
    VJEPAVideoProcessor,
)
from vjepa_hf.cli import app
from vjepa_hf.conversion.meta import UNUSED_PROJECTION, convert, export_to_meta, read_checkpoint


def same_tensors(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def left_behind(folder) -> list[str]:
    """List the files of a folder without the checkpoints of the test."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".pth.tar"))


# --- both directions -----------------------------------------------------------------------------------------------


def test_one_folder_loads_as_every_model(checkpoint, probe, content, tmp_path, tiny_config):
    convert(checkpoint, tmp_path / "model", probe, num_attention_heads=2)
    for model_class in (VJEPAForPreTraining, VJEPAModel, VJEPAForVideoClassification):
        model, info = model_class.from_pretrained(tmp_path / "model", output_loading_info=True)
        assert not any(info.values()), (model_class, info)
    weight = "module.backbone.blocks.0.attn.qkv.weight"
    pretraining = VJEPAForPreTraining.from_pretrained(tmp_path / "model")
    assert torch.equal(pretraining.context_encoder.layers[0].attention.qkv.weight, content["encoder"][weight])
    target = VJEPAModel.from_pretrained(tmp_path / "model").encoder
    assert torch.equal(target.layers[0].attention.qkv.weight, content["target_encoder"][weight])
    assert not torch.equal(content["encoder"][weight], content["target_encoder"][weight])
    processor = VJEPAVideoProcessor.from_pretrained(tmp_path / "model")
    clip = processor(torch.zeros(tiny_config.num_frames, 3, 40, 50, dtype=torch.uint8))["pixel_values_videos"]
    assert model(clip).logits.shape == (1, 5)


def test_round_trip_gives_the_same_tensors(checkpoint, probe, content, tmp_path):
    convert(checkpoint, tmp_path / "model", probe, num_attention_heads=2)
    export_to_meta(tmp_path / "model", tmp_path / "back.pth.tar")
    back = torch.load(tmp_path / "back.pth.tar", weights_only=True)
    for part in ("encoder", "predictor", "target_encoder"):
        assert same_tensors(content[part], back[part])
    original = torch.load(probe, weights_only=True)["classifier"]
    assert original.keys() == back["classifier"].keys()
    for name, value in original.items():
        used = not name.startswith(f"module.{UNUSED_PROJECTION}")
        assert torch.equal(value, back["classifier"][name]) == used, name
    assert torch.equal(back["classifier"][f"module.{UNUSED_PROJECTION}weight"], torch.eye(48))

    convert(tmp_path / "back.pth.tar", tmp_path / "again", num_attention_heads=2)
    files = [tmp_path / folder / "model.safetensors" for folder in ("model", "again")]
    assert same_tensors(*map(load_file, files))


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_prefixes_do_not_matter(content, tmp_path, prefix):
    renamed = {
        part: {name.replace("module.backbone.", prefix): value for name, value in content[part].items()}
        for part in ("encoder", "predictor", "target_encoder")
    }
    torch.save(renamed, tmp_path / "checkpoint.pth.tar")
    parts, _ = read_checkpoint(tmp_path / "checkpoint.pth.tar")
    assert "blocks.0.attn.qkv.weight" in parts["encoder"]


def test_position_tables_are_copied_as_stored(content, tmp_path):
    tables = {}
    for seed, (part, name) in enumerate(
        (("encoder", "pos_embed"), ("target_encoder", "pos_embed"), ("predictor", "predictor_pos_embed"))
    ):
        table = content[part][f"module.backbone.{name}"]
        noise = torch.randn(table.shape, generator=torch.Generator().manual_seed(seed))
        tables[part] = content[part][f"module.backbone.{name}"] = 0.01 * (table + 0.3 * noise)
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    convert(tmp_path / "checkpoint.pth.tar", tmp_path / "model", num_attention_heads=2)
    model = VJEPAForPreTraining.from_pretrained(tmp_path / "model")
    assert torch.equal(model.context_encoder.embeddings.position_embeddings, tables["encoder"][0])
    assert torch.equal(model.vjepa.encoder.embeddings.position_embeddings, tables["target_encoder"][0])
    assert torch.equal(model.vjepa.predictor.position_embeddings, tables["predictor"][0])
    assert model.config.grid_size == (2, 4, 4)


def test_encoders_that_share_memory_in_the_file_stay_two(content, tmp_path):
    content["encoder"] = content["target_encoder"]
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    convert(tmp_path / "checkpoint.pth.tar", tmp_path / "model", num_attention_heads=2)
    export_to_meta(tmp_path / "model", tmp_path / "back.pth.tar")
    back = torch.load(tmp_path / "back.pth.tar", weights_only=True)
    assert same_tensors(back["encoder"], content["encoder"])
    assert same_tensors(back["target_encoder"], content["encoder"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_keep_their_dtype(content, tmp_path, dtype):
    for part in ("encoder", "predictor", "target_encoder"):
        content[part] = {name: value.to(dtype) for name, value in content[part].items()}
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    convert(tmp_path / "checkpoint.pth.tar", tmp_path / "model", num_attention_heads=2)
    assert VJEPAModel.from_pretrained(tmp_path / "model", dtype="auto").dtype == dtype


def test_saved_models_of_every_class_are_exported(tiny_pretraining_model, tiny_model, tiny_classifier, tmp_path):
    for model, parts in (
        (tiny_pretraining_model, {"encoder", "predictor", "target_encoder"}),
        (tiny_model, {"predictor", "target_encoder"}),
        (tiny_classifier, {"target_encoder", "classifier"}),
    ):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        report = export_to_meta(folder, folder.with_suffix(".pth.tar"))
        assert set(report.parts) == parts
        assert parts <= torch.load(folder.with_suffix(".pth.tar"), weights_only=True).keys()
    classifier = tmp_path / "classifier"
    convert(tmp_path / "VJEPAForVideoClassification.pth.tar", classifier, num_attention_heads=2)
    original = tmp_path / "VJEPAForVideoClassification" / "model.safetensors"
    assert same_tensors(load_file(original), load_file(classifier / "model.safetensors"))


def test_optimizer_state_of_a_file_fits_the_groups_of_metas_training_program(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / "model", num_attention_heads=2)
    export_to_meta(tmp_path / "model", tmp_path / "back.pth.tar")
    back = torch.load(tmp_path / "back.pth.tar", weights_only=True)
    groups = [
        {
            "params": [
                torch.nn.Parameter(value) for name, value in back[part].items() if excluded == exclude(name, value)
            ]
        }
        for excluded in (False, True)
        for part in ("encoder", "predictor")
    ]
    optimizer = torch.optim.AdamW(groups)
    optimizer.load_state_dict(back["opt"])
    assert [group.get("WD_exclude", False) for group in optimizer.param_groups] == [False, False, True, True]


def exclude(name: str, value: torch.Tensor) -> bool:
    return "bias" in name or value.ndim == 1


@pytest.mark.parametrize(
    ("field", "value"), [("layer_norm_eps", 1e-5), ("num_pooler_layers", 2), ("pred_num_attention_heads", 4)]
)
def test_models_that_metas_code_does_not_support_are_not_exported(tiny_config, tmp_path, field, value):
    setattr(tiny_config, field, value)
    VJEPAForVideoClassification(tiny_config).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=field):
        export_to_meta(tmp_path / "model", tmp_path / "back.pth.tar")
    assert not (tmp_path / "back.pth.tar").exists()


# --- strictness ----------------------------------------------------------------------------------------------------


def rename(state: dict, old: str, new: str) -> None:
    state[f"module.backbone.{new}"] = state.pop(f"module.backbone.{old}")


def cut(state: dict, name: str) -> None:
    state[f"module.backbone.{name}"] = state[f"module.backbone.{name}"][:-1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c["encoder"].pop("module.backbone.norm.bias"), r"encoder\.norm\.bias is missing"),
        (lambda c: rename(c["encoder"], "norm.bias", "norm.offset"), r"encoder\.norm\.offset is unknown"),
        (lambda c: rename(c["predictor"], "predictor_norm.bias", "norm.bias"), r"predictor\.norm\.bias is unknown"),
        (lambda c: cut(c["encoder"], "blocks.1.mlp.fc2.weight"), r"blocks\.1\.mlp\.fc2\.weight has the shape"),
        (lambda c: cut(c["target_encoder"], "blocks.0.mlp.fc1.bias"), r"fc1\.bias has the shape"),
        (lambda c: rename(c["encoder"], "blocks.1.norm1.bias", "blocks.2.norm1.bias"), r"blocks\.2\.norm1\.bias"),
        (lambda c: c["predictor"].pop("module.backbone.mask_tokens.0"), r"mask_tokens\.0 is missing"),
        (lambda c: c["target_encoder"].pop("module.backbone.pos_embed"), r"pos_embed is missing"),
        (lambda c: c["target_encoder"].pop("module.backbone.patch_embed.proj.weight"), "patch_embed"),
        (lambda c: c.pop("predictor"), "has no predictor"),
        (lambda c: c.pop("target_encoder"), "has no target_encoder"),
        (lambda c: c.update(other={"weight": torch.ones(1)}), "'other' contains weights"),
        (lambda c: c.update(encoder={"a": 1}), "'encoder' is not a state dict"),
        (lambda c: c["encoder"].update({3: torch.ones(1)}), "'encoder' is not a state dict"),
        (lambda c: c["encoder"].update({"x": torch.ones(2).to_sparse()}), "'encoder' is not a state dict of dense"),
        (lambda c: c["encoder"].update({"x": torch.ones(1).expand(10**12)}), "'encoder' is not a state dict of dense"),
        (lambda c: c["target_encoder"].update({"x": torch.ones(0)}), "'target_encoder' is not a state dict of dense"),
        (lambda c: c.update({(1, 2): [{"a": torch.ones(1)}]}), "weights that V-JEPA does not have"),
        (lambda c: c["encoder"].update({"norm.bias": torch.ones(48)}), "differ only in their prefix"),
        (lambda c: c["encoder"].update({"module.backbone.norm.bias": torch.ones(48).int()}), "torch.int32"),
    ],
)
def test_a_checkpoint_with_one_thing_wrong_is_an_error_that_names_it(content, tmp_path, damage, message):
    damage(content)
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "checkpoint.pth.tar", tmp_path / "model", num_attention_heads=2)
    assert left_behind(tmp_path) == []


def test_an_incomplete_checkpoint_is_an_error(checkpoint, tmp_path):
    whole = checkpoint.read_bytes()
    for damaged, message in (
        (b"", "not a complete PyTorch checkpoint"),
        (b"a text file", "not a complete PyTorch checkpoint"),
        (whole[: len(whole) // 2], "not a complete PyTorch checkpoint"),
        (whole[:-100], "not a complete PyTorch checkpoint"),
    ):
        checkpoint.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            convert(checkpoint, tmp_path / "model", num_attention_heads=2)
    shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path, "checkpoint.pth.tar")
    (tmp_path / "archive.zip").rename(checkpoint)
    with pytest.raises(ValueError, match="damaged"):
        convert(checkpoint, tmp_path / "model", num_attention_heads=2)
    torch.save([1, 2], checkpoint)
    with pytest.raises(ValueError, match="contains a list"):
        convert(checkpoint, tmp_path / "model", num_attention_heads=2)
    assert left_behind(tmp_path) == []


def test_state_that_contains_itself_is_dropped(content, tmp_path):
    content["cycle"] = []
    content["cycle"].append(content["cycle"])
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    assert "cycle" in convert(tmp_path / "checkpoint.pth.tar", tmp_path / "model", num_attention_heads=2).dropped


def test_an_output_that_is_not_empty_is_not_changed(checkpoint, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").write_text("weeks of work")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        convert(checkpoint, tmp_path / "model", num_attention_heads=2)
    assert left_behind(tmp_path / "model") == ["precious"]


def test_an_output_that_cannot_be_made_is_refused_before_the_work(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("vjepa_hf.conversion.meta._locate", None)  # the work
    monkeypatch.setattr("vjepa_hf.conversion.meta.read_model", None)
    for output in (checkpoint / "model", checkpoint):
        with pytest.raises(OSError):
            convert(checkpoint, output, num_attention_heads=2)
        with pytest.raises(OSError):
            export_to_meta(tmp_path, output)
    (tmp_path / "model.unfinished").mkdir()
    (tmp_path / "model.unfinished" / "precious").touch()
    with pytest.raises(FileExistsError, match="model.unfinished' exists"):
        convert(checkpoint, tmp_path / "model", num_attention_heads=2)
    assert left_behind(tmp_path / "model.unfinished") == ["precious"]


def test_a_failed_conversion_leaves_no_folder_that_it_made(checkpoint, tmp_path):
    checkpoint.write_bytes(b"a text file")
    with pytest.raises(ValueError):
        convert(checkpoint, tmp_path / "new" / "model", num_attention_heads=2)
    with pytest.raises(ValueError):
        export_to_meta(tmp_path, tmp_path / "new" / "back.pth.tar")
    assert left_behind(tmp_path) == []


FOLDER_DAMAGES = {
    "weights cut off": ("model.safetensors", lambda content: content[:1000]),
    "weights empty": ("model.safetensors", lambda content: b""),
    "configuration a list": ("config.json", lambda content: b"[]"),
    "configuration cut off": ("config.json", lambda content: content[:20]),
    "configuration of other types": ("config.json", lambda content: content.replace(b": 48", b': "wide"')),
    "index a list": ("model.safetensors.index.json", lambda content: b"[]"),
    "index of a missing file": ("model.safetensors.index.json", lambda content: b'{"weight_map": {"a": "b"}}'),
}


@pytest.mark.parametrize("damage", FOLDER_DAMAGES)
def test_a_damaged_folder_is_one_sentence_and_status_2(tiny_pretraining_model, tmp_path, damage):
    tiny_pretraining_model.save_pretrained(tmp_path / "model")
    name, change = FOLDER_DAMAGES[damage]
    file = tmp_path / "model" / name
    file.write_bytes(change(file.read_bytes() if file.exists() else b""))
    if "index" in name:  # it counts without a whole file only, as for from_pretrained
        (tmp_path / "model" / "model.safetensors").unlink()
    result = CliRunner().invoke(app, ["convert", "--to_meta", str(tmp_path / "model"), str(tmp_path / "a" / "b.tar")])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert left_behind(tmp_path) == ["model"]


def test_convert_expands_home_in_every_path(checkpoint, probe, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    words = ["~/checkpoint.pth.tar", "~/model", "--probe", "~/probe.pth.tar", "--labels", "~/names.txt"]
    result = CliRunner().invoke(app, ["convert", *words, "--num_attention_heads", "2"])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(app, ["convert", "--to_meta", "~/model", "~/back.pth.tar"]).exit_code == 0
    assert (tmp_path / "back.pth.tar").is_file()


def test_a_folder_with_unknown_weights_is_not_exported(tiny_pretraining_model, tmp_path):
    with pytest.raises(ValueError, match="no config.json"):
        export_to_meta(tmp_path, tmp_path / "back.pth.tar")
    tiny_pretraining_model.add_module("extra", torch.nn.Linear(1, 1))
    tiny_pretraining_model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="extra.weight is unknown"):
        export_to_meta(tmp_path / "model", tmp_path / "back.pth.tar")


# --- command line --------------------------------------------------------------------------------------------------


def test_command_line_goes_there_and_back(checkpoint, probe, content, tmp_path):
    run = CliRunner().invoke
    folder, back = str(tmp_path / "model"), str(tmp_path / "back.pth.tar")
    result = run(app, ["convert", str(checkpoint), folder])
    assert result.exit_code == 2 and "--num_attention_heads" in result.stderr and left_behind(tmp_path) == []
    result = run(app, ["convert", str(checkpoint), folder, "--probe", str(probe), "--num_attention_heads", "2"])
    assert result.exit_code == 0 and "CC BY-NC 4.0" in result.stdout
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"] == [
        "VJEPAForVideoClassification"
    ]
    named = ["convert", str(checkpoint), f"{folder}_named", "--probe", str(probe), "--num_attention_heads", "2"]
    (tmp_path / "names.txt").write_text("\n".join("abcde"))
    result = run(app, [*named, "--class-names", str(tmp_path / "names.txt")])
    assert result.exit_code == 0 and "LABEL_" not in result.output
    assert VJEPAConfig.from_pretrained(f"{folder}_named").id2label[4] == "e"
    result = run(app, ["convert", "--to_meta", folder, back, "--class_names", "ssv2"])
    assert result.exit_code == 2 and "omit --class_names" in result.output
    result = run(app, ["convert", "--to_meta", folder, back, "--probe", str(probe)])
    assert result.exit_code == 2 and "omit --probe" in result.stderr
    result = run(app, ["convert", "--to_meta", folder, back])
    assert result.exit_code == 0 and "identity" in result.stdout
    assert same_tensors(torch.load(back, weights_only=True)["encoder"], content["encoder"])
    result = run(app, ["convert", "no_such_model", str(tmp_path / "other")])
    assert result.exit_code == 2 and "vitl16" in result.stderr
