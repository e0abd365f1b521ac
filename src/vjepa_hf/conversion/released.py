"""Meta's released V-JEPA checkpoints by name, and a download that resumes."""

import http.client
import os
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from huggingface_hub.constants import HF_HOME
from huggingface_hub.utils import WeakFileLock
from tqdm import tqdm

LICENSE = "CC BY-NC 4.0"  # of Meta's V-JEPA weights; see the LICENSE file of facebookresearch/jepa
BASE_URL = "https://dl.fbaipublicfiles.com/jepa"
VJEPA2_URL = "https://dl.fbaipublicfiles.com/vjepa2"

# URLs of the table in the README of facebookresearch/jepa: BASE_URL/<model>/<file>.
ENCODERS = ("vitl16", "vith16", "vith16-384")
PROBES = {
    "k400": "k400-probe.pth.tar",
    "ssv2": "ssv2-probe.pth.tar",
    "in1k": "in1k-probe.pth.tar",
    "places205": "places-probe.pth.tar",
    "inat21": "inat-probe.pth.tar",
}


@dataclass(frozen=True)
class ReleasedFile:
    """File of V-JEPA 2 or 2.1, and what it does not contain."""

    position_embedding_type: str
    image_size: int


@dataclass(frozen=True)
class ReleasedProbe:
    """Probe of V-JEPA 2: its file, frames of a clip, and the layers it reads (none: the last one)."""

    file: str
    num_frames: int
    layers: tuple[int, ...] = ()

    @property
    def dataset(self) -> str:
        return Path(self.file).name.split("-")[0]


# Files below VJEPA2_URL, named in the README of facebookresearch/vjepa2.
VJEPA2_FILES = {
    "vitl.pt": ReleasedFile("rope", 256),
    "vith.pt": ReleasedFile("rope", 256),
    "vitg.pt": ReleasedFile("rope", 256),
    "vitg-384.pt": ReleasedFile("rope", 384),
    "vjepa2_1_vitb_dist_vitG_384.pt": ReleasedFile("rope_interpolated", 384),
    "vjepa2_1_vitl_dist_vitG_384.pt": ReleasedFile("rope_interpolated", 384),
    "vjepa2_1_vitg_384.pt": ReleasedFile("rope_interpolated", 384),
    "vjepa2_1_vitG_384.pt": ReleasedFile("rope_interpolated", 384),
}
# Layers from configs/eval of facebookresearch/vjepa2.
VJEPA2_PROBES = {
    ("vitl.pt", "ssv2"): ReleasedProbe("evals/ssv2-vitl-16x2x3.pt", 16),
    ("vitl.pt", "diving48"): ReleasedProbe("evals/diving48-vitl-256.pt", 32, (17, 19, 21, 23)),
    ("vitg-384.pt", "ssv2"): ReleasedProbe("evals/ssv2-vitg-384-64x2x3.pt", 64),
    ("vitg-384.pt", "diving48"): ReleasedProbe("evals/diving48-vitg-384-32x4x3.pt", 32, (24, 29, 34, 39)),
}
TIMEOUT_S = 30
CHUNK_BYTES = 2**20
ATTEMPTS = 5  # failures in a row, without a byte received, after which a download stops
PAUSE_S = 2.0  # before the next attempt
CONNECTION_ERRORS = (URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class DownloadError(OSError):
    """Error of a download that did not complete."""


def encoder_url(name: str) -> str:
    """Return the URL of the pretraining checkpoint of a released model."""
    if name in VJEPA2_FILES:
        return f"{VJEPA2_URL}/{name}"
    return f"{BASE_URL}/{name}/{name}.pth.tar"


def probe_url(encoder: str, probe: str) -> str:
    """Return the URL of a released probe.

    Raises:
        ValueError: unknown model or probe.
    """
    if (encoder, probe) in VJEPA2_PROBES:
        return f"{VJEPA2_URL}/{VJEPA2_PROBES[encoder, probe].file}"
    if encoder in VJEPA2_FILES:
        known = ", ".join(f"{name!r} of {file}" for file, name in VJEPA2_PROBES)
        raise ValueError(f"probe={probe!r} is neither a file nor a released probe of {encoder}; there are {known}.")
    if encoder not in ENCODERS:
        raise ValueError(
            f"probe={probe!r} is not a file, and only {', '.join(ENCODERS)} have released ones; got {encoder!r}."
        )
    if probe not in PROBES:
        raise ValueError(f"probe={probe!r} is neither a file nor one of the released probes {', '.join(PROBES)}.")
    return f"{BASE_URL}/{encoder}/{PROBES[probe]}"


def released_encoder(file_name: str) -> str | None:
    """Return the name of the released V-JEPA 2 model in a file with this name, also as `download` names it."""
    for name in VJEPA2_FILES:
        if file_name in (name, "-".join(encoder_url(name).split("/")[-2:])):
            return name
    return None


def released_probe(encoder: str | None, file_name: str) -> ReleasedProbe | None:
    """Return the released V-JEPA 2 probe of an encoder in a file with this name, also as `download` names it."""
    for (model, _), probe in VJEPA2_PROBES.items():
        if model == encoder and file_name in (Path(probe.file).name, probe.file.replace("/", "-")):
            return probe
    return None


def download(url: str, folder: str | Path | None = None) -> Path:
    """Download a file once, with a progress bar; resume after a broken connection or an interrupted call.

    Args:
        url: URL of the file.
        folder: folder of the file; default: `vjepa` in the Hugging Face home.

    Returns:
        The path of the complete file, of the size that the server states.

    Raises:
        DownloadError: the server refuses, states no size, or the connection keeps failing. The partial file is kept.
    """
    folder = Path(folder) if folder else Path(HF_HOME) / "vjepa"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "-".join(url.split("/")[-2:])
    size, version = _ask(url)
    # The name contains the version, so that two versions of a file are never mixed.
    partial = target.with_name(f"{target.name}.{version}.part")
    with WeakFileLock(target.with_name(f"{target.name}.lock")):
        if not (target.exists() and target.stat().st_size == size):
            _complete(url, partial, size)
            os.replace(partial, target)
    return target


def _complete(url: str, partial: Path, size: int) -> None:
    """Download the missing rest of a partial file."""
    failures = 0
    with tqdm(total=size, unit="B", unit_scale=True, desc=partial.name) as bar:
        while (have := partial.stat().st_size if partial.exists() else 0) != size:
            if have > size:
                partial.unlink()  # not a part of this file
                continue
            bar.n = have
            bar.refresh()
            try:
                _append(url, partial, have, bar)
            except HTTPError as error:
                raise DownloadError(f"{url}: the server answers {error.code} {error.reason}.") from error
            except CONNECTION_ERRORS as error:
                failures = failures + 1 if partial.stat().st_size == have else 1
                if failures >= ATTEMPTS:
                    raise DownloadError(
                        f"{url}: the connection broke {failures} times in a row ({error}) after "
                        f"{partial.stat().st_size:,} of {size:,} bytes; run the same command again to resume."
                    ) from error
                time.sleep(PAUSE_S)


def _ask(url: str) -> tuple[int, str]:
    """Ask the server for the size of a file in bytes, and for its version."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with urlopen(Request(url, method="HEAD"), timeout=TIMEOUT_S) as answer:
                headers = answer.headers
            break
        except HTTPError as error:
            raise DownloadError(f"{url}: the server answers {error.code} {error.reason}.") from error
        except CONNECTION_ERRORS as error:
            if attempt == ATTEMPTS:
                raise DownloadError(f"{url}: cannot be reached ({error}).") from error
            time.sleep(PAUSE_S)
    if not (headers["Content-Length"] or "").isdigit():
        raise DownloadError(f"{url}: the server states no size, so a partial file cannot be recognized.")
    version = "".join(letter for letter in headers["ETag"] or headers["Last-Modified"] or "" if letter.isalnum())
    return int(headers["Content-Length"]), version[:64] or "unversioned"


def _append(url: str, partial: Path, have: int, bar: tqdm) -> None:
    """Append the bytes from `have` on, until the server closes the connection."""
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with partial.open("ab") as file, urlopen(request, timeout=TIMEOUT_S) as answer:
        if have and answer.status != 206:  # 206 Partial Content; any other answer begins at the first byte
            file.truncate(0)
            bar.n = 0
        before = file.tell()
        while chunk := answer.read1(
            CHUNK_BYTES
        ):  # does not wait for a full chunk, so a broken connection loses little
            file.write(chunk)
            bar.update(len(chunk))
        if answer.length:  # bytes that did not arrive, which `read1` does not report
            raise http.client.IncompleteRead(b"", answer.length)
        if file.tell() == before:
            raise http.client.IncompleteRead(b"")
