"""Uploads against a recorder in place of the Hub, code that a stranger runs, and runs that are resumed from the Hub.

pytest tests/training/test_hub.py
"""

import json
import subprocess
import sys
import warnings
from concurrent.futures import Future

import pytest
from huggingface_hub import HfApi
from transformers import AutoModelForVideoClassification

from hub_recorder import HubRecorder
from programs import cpu_environment
from vjepa_hf import VJEPAForPreTraining, VJEPAVideoProcessor
from vjepa_hf.model_card import Origin, write_card
from vjepa_hf.training.arguments import HubArguments, PretrainingHubArguments, split_revision
from vjepa_hf.training.hub import HubRepo, add_remote_code, download_run, open_repo


@pytest.fixture
def recorder(tmp_path, monkeypatch) -> HubRecorder:
    return HubRecorder(tmp_path / "hf_home", monkeypatch.setattr)


@pytest.fixture
def folder(tmp_path):
    """The folder of a run with files of every kind, and two checkpoints."""
    names = "config.json model.safetensors README.md curves.png log.jsonl run.lock arguments.yaml my_videos.csv a.py"
    names += " skipped_steps.jsonl adapter/adapter_model.safetensors features/x.safetensors x.unfinished"
    names += " checkpoints/step_00000003/manifest.json checkpoints/step_00000006/manifest.json"
    for name in names.split():
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "run"


SHARED = "README.md a.py adapter/adapter_model.safetensors config.json curves.png log.jsonl model.safetensors".split()
NEWEST = "checkpoints/step_00000006/manifest.json"


def test_the_model_is_uploaded_but_not_lists_locks_caches_or_checkpoints(recorder, accelerator, folder):
    repo = open_repo(accelerator, HubArguments(True, "me/it", True, "dev"), folder)
    repo.upload("done")
    assert recorder.recorded() == [
        {"create": "me/it", "private": True},
        {"branch": "dev"},
        {"upload": "me/it", "message": "done", "files": SHARED, "background": False},
    ]
    assert (recorder.snapshot("me/it", "dev") / "config.json").read_text() == "config.json"


def test_the_folder_names_the_repository_and_nothing_is_created_without_push_to_hub(recorder, accelerator, folder):
    assert open_repo(accelerator, HubArguments(True), folder).name == "me/run"
    before = recorder.recorded()
    assert open_repo(accelerator, HubArguments(), folder) is None and recorder.recorded() == before


def test_a_checkpoint_replaces_the_older_one_on_the_hub_and_a_new_folder_gets_it(recorder, folder, tmp_path):
    repo = HubRepo(folder, "me/it")
    (folder / NEWEST).parent.rename(folder / "later")
    repo.upload("step 3", checkpoint=True, wait=False)
    (folder / "later").rename((folder / NEWEST).parent)
    repo.upload("step 6", checkpoint=True, wait=False)
    resumed = ["arguments.yaml", "skipped_steps.jsonl"]
    assert recorder.recorded()[-1]["files"] == sorted([*SHARED, NEWEST, *resumed])
    download_run("me/it", tmp_path / "new")
    names = {path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert names == {NEWEST, "README.md", "log.jsonl", *resumed}
    with pytest.raises(ValueError, match="not empty; use --resume"):
        download_run("me/it", tmp_path / "new")
    with pytest.raises(ValueError, match="cannot download 'me/other'"):
        download_run("me/other", tmp_path / "other")


def test_a_run_without_a_checkpoint_on_the_hub_is_not_resumed(recorder, folder, tmp_path):
    HubRepo(folder, "me/it", "dev").upload("done")
    with pytest.raises(ValueError, match="'me/it@dev' has no checkpoint; .*--hub_strategy checkpoint"):
        download_run("me/it@dev", tmp_path / "new")


def test_a_failed_upload_is_a_warning_during_a_run_and_an_error_at_its_end(recorder, folder, monkeypatch):
    failed: Future = Future()
    failed.set_exception(OSError("no network"))
    repo = HubRepo(folder, "me/it")
    monkeypatch.setattr(HfApi, "upload_folder", lambda *arguments, **options: failed)
    repo.upload("step 3", wait=False)
    with pytest.warns(UserWarning, match="an upload to 'me/it' failed.*no network"):
        repo.upload("step 6", wait=False)

    def upload_folder(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    with pytest.raises(OSError, match="no network. The folder is complete; upload it with `hf upload me/it"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            repo.upload("end")


def test_an_upload_is_skipped_while_another_one_runs(recorder, folder, monkeypatch):
    calls = []
    monkeypatch.setattr(HfApi, "upload_folder", lambda *arguments, **options: calls.append(options) or Future())
    repo = HubRepo(folder, "me/it")
    for step in (1, 2, 3):
        repo.upload(f"step {step}", wait=False)
    assert [call["commit_message"] for call in calls] == ["step 1"]


def test_no_access_is_one_sentence_before_the_work(accelerator, folder, monkeypatch):
    with pytest.raises(ValueError, match="push_to_hub: cannot create the repository 'me/it'.* Log in with `hf auth"):
        open_repo(accelerator, HubArguments(True, "me/it"), folder)  # the tests are offline


@pytest.mark.parametrize("name", ["hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy"])
def test_an_option_without_push_to_hub_is_an_error(name):
    with pytest.raises(ValueError, match=f"{name} has no effect without push_to_hub"):
        PretrainingHubArguments(**{name: "every_save"})
    PretrainingHubArguments(push_to_hub=True, **{name: "every_save"})


def test_a_revision_follows_an_at_sign():
    assert split_revision("me/it@v1") == ("me/it", "v1") and split_revision("me/it") == ("me/it", None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_a_stranger_without_vjepa_hf_runs_the_code_of_the_card_from_the_hub(
    kind, recorder, tmp_path, tiny_pretraining_model, tiny_classifier
):
    model = {"encoder": tiny_pretraining_model, "classifier": tiny_classifier}[kind]
    model.save_pretrained(tmp_path / "run")
    VJEPAVideoProcessor(crop_size=32, num_frames=4, patch_size=8).save_pretrained(tmp_path / "run")
    add_remote_code(tmp_path / "run")
    add_remote_code(tmp_path / "run")  # at every save
    write_card(tmp_path / "run", type(model).__name__, "It.", Origin(), {}, model_id="me/it", remote_code=True)
    HubRepo(tmp_path / "run", "me/it").upload("done")
    card = (recorder.snapshot("me/it") / "README.md").read_text()
    program = card.partition("```python\n")[2].partition("```")[0]
    assert "trust_remote_code" in program and '"me/it"' in program and "library_name: transformers" in card
    hidden = 'import sys; sys.modules["vjepa_hf"] = None\n'
    (tmp_path / "elsewhere").mkdir()
    result = subprocess.run(
        [sys.executable, "-c", hidden + program],
        cwd=tmp_path / "elsewhere",
        env=cpu_environment(recorder.home),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert ("torch.Size([1, 32, 48])" if kind == "encoder" else "LABEL_") in result.stdout


def test_remote_code_does_not_change_what_vjepa_hf_loads(tmp_path, tiny_pretraining_model, tiny_classifier):
    for name, model in (("encoder", tiny_pretraining_model), ("classifier", tiny_classifier)):
        model.save_pretrained(tmp_path / name)
        VJEPAVideoProcessor().save_pretrained(tmp_path / name)
        add_remote_code(tmp_path / name)
    assert type(VJEPAForPreTraining.from_pretrained(tmp_path / "encoder")) is VJEPAForPreTraining
    loaded = AutoModelForVideoClassification.from_pretrained(tmp_path / "classifier")  # asks for no trust
    assert type(loaded) is type(tiny_classifier)
    auto_map = json.loads((tmp_path / "encoder" / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"] == "modeling_vjepa.VJEPAModel"
