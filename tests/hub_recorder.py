"""A recorder in place of the Hub: uploads become commits in a folder with the layout of the Hub's cache.

A process with `HF_HOME` set to that folder, and offline, reads them as it would read the Hub.
"""

import builtins
import hashlib
import json
import shutil
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

from huggingface_hub import HfApi, constants
from huggingface_hub.utils import filter_repo_objects

from vjepa_hf.training import hub


class HubRecorder:
    """Replacement for the methods of `HfApi` that scripts call.

    Args:
        home: folder for `HF_HOME`.
        setattr: function that replaces an attribute; `monkeypatch.setattr` undoes it after a test.
    """

    def __init__(self, home: Path, setattr=builtins.setattr) -> None:
        self.home, self.calls = Path(home), Path(home) / "calls.jsonl"
        self.home.mkdir(parents=True, exist_ok=True)
        self.calls.touch()
        for name in ("create_repo", "create_branch", "upload_folder"):
            setattr(HfApi, name, self._method(name))
        setattr(constants, "HF_HUB_CACHE", str(self.home / "hub"))
        setattr(hub, "snapshot_download", self.snapshot_download)

    def _method(self, name: str):
        return lambda api, *arguments, **options: getattr(self, name)(*arguments, **options)

    def _record(self, **call) -> None:
        with self.calls.open("a") as file:
            file.write(json.dumps(call) + "\n")

    def recorded(self) -> list[dict]:
        return [json.loads(line) for line in self.calls.read_text().splitlines()]

    def create_repo(self, repo_id, private=None, exist_ok=False, **options):
        repo_id = repo_id if "/" in repo_id else f"me/{repo_id}"
        self._record(create=repo_id, private=private)
        return SimpleNamespace(repo_id=repo_id)

    def create_branch(self, repo_id, branch, exist_ok=False):
        self._record(branch=branch)

    def snapshot(self, repo_id: str, revision: str | None = None) -> Path:
        repository = self.home / "hub" / f"models--{repo_id.replace('/', '--')}"
        reference = repository / "refs" / (revision or "main")
        return repository / "snapshots" / (reference.read_text() if reference.exists() else "none")

    def upload_folder(
        self,
        *,
        repo_id,
        folder_path,
        allow_patterns=None,
        ignore_patterns=None,
        delete_patterns=None,
        revision=None,
        commit_message=None,
        run_as_future=False,
        path_in_repo="",
        **options,
    ):
        paths = [path.relative_to(folder_path).as_posix() for path in Path(folder_path).rglob("*") if path.is_file()]
        uploaded = set(filter_repo_objects(paths, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        old = self.snapshot(repo_id, revision)
        kept = {path.relative_to(old).as_posix() for path in old.rglob("*") if path.is_file()}
        if delete_patterns:
            kept -= set(filter_repo_objects(kept, allow_patterns=delete_patterns))
        commit = hashlib.sha1(f"{commit_message} {len(self.recorded())}".encode()).hexdigest()
        for names, source in ((kept - uploaded, old), (uploaded, Path(folder_path))):
            for name in names:
                target = old.parent / commit / path_in_repo / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, target)
        reference = old.parent.parent / "refs" / (revision or "main")
        reference.parent.mkdir(exist_ok=True)
        reference.write_text(commit)
        self._record(upload=repo_id, message=commit_message, files=sorted(uploaded), background=run_as_future)
        done: Future = Future()
        done.set_result(None)
        return done if run_as_future else None

    def snapshot_download(self, repo_id, revision=None, allow_patterns=None, local_dir=None):
        snapshot = self.snapshot(repo_id, revision)
        if not snapshot.exists():
            raise OSError(f"{repo_id} is not on the Hub")
        names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            target = Path(local_dir) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot / name, target)
