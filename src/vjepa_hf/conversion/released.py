"""Meta's released V-JEPA checkpoints by name, and a download that survives a broken connection."""

import http.client
import os
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from huggingface_hub.constants import HF_HOME
from huggingface_hub.utils import WeakFileLock
from tqdm import tqdm

LICENSE = "CC BY-NC 4.0"  # of Meta's V-JEPA weights; see the LICENSE file of facebookresearch/jepa
BASE_URL = "https://dl.fbaipublicfiles.com/jepa"

# Addresses of the table in the README of facebookresearch/jepa: BASE_URL/<model>/<file>.
ENCODERS = ("vitl16", "vith16", "vith16-384")
PROBES = {
    "k400": "k400-probe.pth.tar",
    "ssv2": "ssv2-probe.pth.tar",
    "in1k": "in1k-probe.pth.tar",
    "places205": "places-probe.pth.tar",
    "inat21": "inat-probe.pth.tar",
}
TIMEOUT_S = 30
CHUNK_BYTES = 2**20


class DownloadError(OSError):
    """A file could not be downloaded whole."""


def encoder_url(name: str) -> str:
    """Address of the pretraining checkpoint of a released model."""
    return f"{BASE_URL}/{name}/{name}.pth.tar"


def probe_url(encoder: str, probe: str) -> str:
    """Address of a released probe.

    Raises:
        ValueError: there is no such model or probe.
    """
    if encoder not in ENCODERS:
        raise ValueError(f"probe={probe!r} is no file, and {encoder!r} has no released one; {', '.join(ENCODERS)} do.")
    if probe not in PROBES:
        raise ValueError(f"probe={probe!r} is neither a file nor one of the released probes {', '.join(PROBES)}.")
    return f"{BASE_URL}/{encoder}/{PROBES[probe]}"


def download(url: str, folder: str | Path | None = None, attempts: int = 5, pause_s: float = 2.0) -> Path:
    """Download a file once, with a progress bar, and continue where a broken connection or an earlier call stopped.

    Args:
        url: address of the file.
        folder: where it is kept; default `vjepa` in the Hugging Face home.
        attempts: how often in a row the connection may fail without a byte arriving.
        pause_s: seconds before the next attempt.

    Returns:
        The path of the complete file; its size is the one the server states.

    Raises:
        DownloadError: the server refuses, states no size, or the connection keeps breaking. What has arrived is kept.
    """
    folder = Path(folder) if folder else Path(HF_HOME) / "vjepa"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "-".join(url.split("/")[-2:])
    size, version = _ask(url, attempts, pause_s)
    # The version is part of the name: bytes of two versions of a file can never end up in one.
    partial = target.with_name(f"{target.name}.{version}.part")
    with WeakFileLock(target.with_name(f"{target.name}.lock")):
        if not (target.exists() and target.stat().st_size == size):
            _complete(url, partial, size, attempts, pause_s)
            os.replace(partial, target)
    return target


def _complete(url: str, partial: Path, size: int, attempts: int, pause_s: float) -> None:
    """Bring a partial file to its full size."""
    failures = 0
    with tqdm(total=size, unit="B", unit_scale=True, desc=partial.name) as bar:
        while (have := partial.stat().st_size if partial.exists() else 0) != size:
            if have > size:
                partial.unlink()  # not a beginning of this file, whatever it is
                continue
            bar.n = have
            bar.refresh()
            try:
                _append(url, partial, have, bar)
            except HTTPError as error:
                raise DownloadError(f"{url}: the server answers {error.code} {error.reason}.") from error
            except (URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                failures = failures + 1 if partial.stat().st_size == have else 1
                if failures >= attempts:
                    raise DownloadError(
                        f"{url}: the connection broke {failures} times in a row ({error}) after "
                        f"{partial.stat().st_size:,} of {size:,} bytes; run the same command again to continue."
                    ) from error
                time.sleep(pause_s)


def _ask(url: str, attempts: int, pause_s: float) -> tuple[int, str]:
    """Size of a file in bytes and a name of its version, as the server states them."""
    for attempt in range(1, attempts + 1):
        try:
            with urlopen(Request(url, method="HEAD"), timeout=TIMEOUT_S) as answer:
                headers = answer.headers
            break
        except HTTPError as error:
            raise DownloadError(f"{url}: the server answers {error.code} {error.reason}.") from error
        except (URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if attempt == attempts:
                raise DownloadError(f"{url}: cannot be reached ({error}).") from error
            time.sleep(pause_s)
    if not (headers["Content-Length"] or "").isdigit():
        raise DownloadError(f"{url}: the server states no size, so a whole file cannot be told from a part of it.")
    version = "".join(letter for letter in headers["ETag"] or headers["Last-Modified"] or "" if letter.isalnum())
    return int(headers["Content-Length"]), version[:64] or "unversioned"


def _append(url: str, partial: Path, have: int, bar: tqdm) -> None:
    """Append the bytes from `have` on. Returns when the server has no more to say, at the end of the file or not."""
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with partial.open("ab") as file, urlopen(request, timeout=TIMEOUT_S) as answer:
        if have and answer.status != 206:  # 206 Partial Content; any other answer begins at the first byte
            file.truncate(0)
            bar.n = 0
        before = file.tell()
        while chunk := answer.read1(CHUNK_BYTES):  # what is there, so that little is lost when the line breaks
            file.write(chunk)
            bar.update(len(chunk))
        if answer.length:  # bytes that were announced and did not come: `read` itself is silent about it
            raise http.client.IncompleteRead(b"", answer.length)
        if file.tell() == before:
            raise http.client.IncompleteRead(b"")
