"""Repository of a run on the Hub: upload of its folder, its code on request, and download of a run to resume it."""

import inspect
import json
import shutil
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ..files import whole_file
from ..model.configuration_vjepa import VJEPAConfig
from ..model.names import one_line
from .arguments import ARGUMENTS_FILE, HubArguments, split_revision
from .checkpoints import list_checkpoints
from .log import SKIPPED_STEPS_FILE

# Files of a folder that are uploaded, if they are there. No list of videos is among them.
UPLOADED = (
    "README.md",
    "config.json",
    "model*.safetensors*",
    "*processor_config.json",
    "*.py",
    "result.json",
    "confusion.csv",
    "confusion.png",
    "detections.png",
    "curves.png",
    "log.jsonl",
    "adapter/*",
)
# What a run needs to resume, besides its newest checkpoint. These files name the videos.
RESUMED = (ARGUMENTS_FILE, SKIPPED_STEPS_FILE)
_ERRORS = (HfHubHTTPError, HFValidationError, OSError, ValueError)
# Class of a model -> what the Auto classes load from its folder.
AUTO_MAPS = {
    "VJEPAForPreTraining": {"AutoModel": "VJEPAModel", "AutoModelForPreTraining": "VJEPAForPreTraining"},
    "VJEPAForVideoClassification": {
        "AutoModel": "VJEPAModel",
        "AutoModelForVideoClassification": "VJEPAForVideoClassification",
    },
    "VJEPAForActionDetection": {"AutoModel": "VJEPAForActionDetection"},
}


class HubRepo:
    """Repository that a script uploads its folder to.

    Args:
        folder: folder of the run.
        name: name on the Hub, with its owner.
        revision: branch to upload to; None: `main`.
        token: token of the user; None: the one of `hf auth login`, or of the variable `HF_TOKEN`.
    """

    def __init__(self, folder: str | Path, name: str, revision: str | None = None, token: str | None = None) -> None:
        self.folder, self.name, self.revision, self.api = Path(folder), name, revision, HfApi(token=token)
        self.running: Future[Any] | None = None

    def upload(self, message: str, checkpoint: bool = False, wait: bool = True) -> None:
        """Upload the files of the folder in one commit.

        Args:
            message: commit message.
            checkpoint: also upload the newest checkpoint, and delete older ones on the Hub.
            wait: wait for the upload. Otherwise it runs in the background; it is skipped while the last one is
                running, and a failure is a warning.

        Raises:
            OSError: the upload failed, and `wait` is set.
        """
        if self.running is not None and not wait and not self.running.done():
            return
        self._finish()
        names = [path for pattern in UPLOADED for path in self.folder.glob(pattern) if path.is_file()]
        options: dict[str, Any] = {}
        if checkpoint:
            names += [path for name in RESUMED if (path := self.folder / name).is_file()]
            names += [path for path in list_checkpoints(self.folder)[-1].rglob("*") if path.is_file()]
            options["delete_patterns"] = "checkpoints/*"
        options["allow_patterns"] = [path.relative_to(self.folder).as_posix() for path in names]
        options |= {"repo_id": self.name, "revision": self.revision, "commit_message": message}
        try:
            options |= {"run_as_future": not wait}
            upload: Any = self.api.upload_folder(folder_path=self.folder, **options)
        except _ERRORS as error:
            raise OSError(
                f"cannot upload {str(self.folder)!r} to {self.name!r}: {one_line(error)}. The folder is complete; "
                f"upload it with `hf upload {self.name} {self.folder}`"
            ) from error
        self.running = None if wait else upload

    def _finish(self) -> None:
        """Wait for the upload in the background."""
        running, self.running = self.running, None
        if running is not None and (error := running.exception()) is not None:
            warnings.warn(f"an upload to {self.name!r} failed, the next one repeats it: {error}", stacklevel=3)


def open_repo(
    accelerator: Accelerator | PartialState, hub: HubArguments, folder: str | Path, token: str | None = None
) -> HubRepo | None:
    """Create the repository of a run, before its work begins. All processes call it.

    Returns:
        The repository on the main process, if the run uploads; else None.

    Raises:
        ValueError: the repository cannot be created, or the user has no access.
    """
    repo, problem = None, None
    if hub.push_to_hub and accelerator.is_main_process:
        name = hub.hub_model_id or Path(folder).absolute().name
        api = HfApi(token=token)
        try:
            name = api.create_repo(name, private=hub.hub_private_repo or None, exist_ok=True).repo_id
            if hub.hub_revision:
                api.create_branch(name, branch=hub.hub_revision, exist_ok=True)
            repo = HubRepo(folder, name, hub.hub_revision, token)
        except _ERRORS as error:
            problem = (
                f"push_to_hub: cannot create the repository {name!r} on the Hub: {one_line(error)}. Log in with "
                "`hf auth login`, or run without push_to_hub and upload the folder later"
            )
    (problem,) = broadcast_object_list([problem])
    if problem:
        raise ValueError(problem)
    return repo


def add_remote_code(folder: str | Path) -> None:
    """Copy the code of the model into its folder, so that `trust_remote_code=True` loads it without vjepa_hf.

    The folder becomes the one that `register_for_auto_class` and `save_pretrained` write.
    """
    folder = Path(folder)
    for path in Path(inspect.getfile(VJEPAConfig)).parent.glob("*.py"):
        if path.name != "__init__.py":
            shutil.copyfile(path, folder / path.name)
    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    classes = {name: f"modeling_vjepa.{value}" for name, value in AUTO_MAPS[architecture].items()}
    _set_auto_map(folder / "config.json", {"AutoConfig": "configuration_vjepa.VJEPAConfig"} | classes)
    for path in folder.glob("*processor_config.json"):
        _set_auto_map(path, {"AutoVideoProcessor": "video_processing_vjepa.VJEPAVideoProcessor"})


def _set_auto_map(path: Path, classes: dict[str, str]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(values | {"auto_map": classes}, indent=2, sort_keys=True) + "\n")


def download_run(source: str, folder: str | Path) -> None:
    """Download a run from the Hub into a new folder: its newest checkpoint, arguments, log and card.

    Args:
        source: name of the repository, or `name@revision`.
        folder: folder of the run; it must be new or empty.

    Raises:
        ValueError: the folder is not empty, or the repository cannot be read or has no checkpoint.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"resume_from_hub needs a new output_dir, but {str(folder)!r} is not empty; use --resume to resume from "
            "its own checkpoints"
        )
    name, revision = split_revision(source)
    files = ["checkpoints/*", "README.md", "log.jsonl", *RESUMED]
    try:
        snapshot_download(name, revision=revision, allow_patterns=files, local_dir=folder)
    except _ERRORS as error:
        raise ValueError(f"resume_from_hub: cannot download {source!r}: {one_line(error)}") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # notes of huggingface_hub
    if not list_checkpoints(folder):
        raise ValueError(
            f"resume_from_hub: {source!r} has no checkpoint; a run uploads them with --hub_strategy checkpoint"
        )
