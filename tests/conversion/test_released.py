"""Downloads from a local server that breaks connections, changes files or refuses."""

import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from meta_files import pretraining_content, probe_content
from vjepa_hf import VJEPAConfig, VJEPAForVideoClassification
from vjepa_hf.conversion import released as released_checkpoints
from vjepa_hf.conversion.meta import convert
from vjepa_hf.conversion.released import ENCODERS, PROBES, DownloadError, download, encoder_url, probe_url

DATA = bytes(range(256)) * 4096  # 1 MiB


class Server(ThreadingHTTPServer):
    """Serves `files` (path -> bytes); closes the connection `breaks_after` bytes of an answer."""

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.breaks_after, self.ranges, self.states_size = files, None, True, True
        self.version, self.requests = '"v1"', []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        server: Server = self.server
        server.requests.append((self.command, self.headers["Range"]))
        if self.path not in server.files:
            self.send_error(403)
            return
        data, start = server.files[self.path], 0
        if self.headers["Range"] and server.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if server.states_size:
            self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", server.version)
        self.end_headers()
        if body:
            end = len(data) if server.breaks_after is None else start + server.breaks_after
            self.wfile.write(data[start:end])
        self.close_connection = True


@pytest.fixture
def server():
    server = Server({"/jepa/model/model.pth.tar": DATA})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    monkeypatch.setattr(released_checkpoints, "PAUSE_S", 0.0)
    return partial(download, f"{server.url}/jepa/model/model.pth.tar", tmp_path)


def test_a_file_is_downloaded_once(server, fetch):
    path = fetch()
    assert path.name == "model-model.pth.tar" and path.read_bytes() == DATA
    assert fetch() == path
    assert [command for command, _ in server.requests] == ["HEAD", "GET", "HEAD"]


def test_a_download_resumes_after_a_broken_connection(server, fetch):
    server.breaks_after = len(DATA) // 3
    assert fetch().read_bytes() == DATA
    ranges = [int(asked.split("=")[1][:-1]) for _, asked in server.requests if asked]
    assert len(ranges) == 3 and ranges == sorted(ranges) and ranges[0] == len(DATA) // 3


def test_a_partial_file_is_kept_for_the_next_call(server, fetch, tmp_path):
    class Dead(BaseException):
        """The process ends in the middle."""

    def die(seconds):
        raise Dead

    server.breaks_after = len(DATA) // 2
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Dead):
        patch.setattr(released_checkpoints.time, "sleep", die)
        fetch()
    server.breaks_after, server.requests = None, []
    assert fetch().read_bytes() == DATA
    assert server.requests[-1] == ("GET", f"bytes={len(DATA) // 2}-")
    assert not list(tmp_path.glob("*.part"))


def test_bytes_of_two_versions_are_never_mixed(server, fetch):
    server.breaks_after = 1000
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(released_checkpoints.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
        fetch()
    other = DATA[::-1]
    server.files["/jepa/model/model.pth.tar"], server.version, server.breaks_after = other, '"v2"', None
    assert fetch().read_bytes() == other


def test_without_range_requests_a_download_starts_again(server, fetch, tmp_path):
    (tmp_path / "model-model.pth.tar.v1.part").write_bytes(DATA[:5000])
    server.ranges = False
    assert fetch().read_bytes() == DATA


def test_a_partial_file_that_is_too_long_is_deleted(fetch, tmp_path):
    (tmp_path / "model-model.pth.tar.v1.part").write_bytes(DATA + b"more")
    assert fetch().read_bytes() == DATA


def test_a_connection_without_data_is_an_error_after_the_attempts(server, fetch, tmp_path):
    server.breaks_after = 0
    with pytest.raises(DownloadError, match="5 times in a row.*run the same command again"):
        fetch()
    assert [command for command, _ in server.requests] == ["HEAD"] + 5 * ["GET"]
    assert not (tmp_path / "model-model.pth.tar").exists()


def test_refusals_and_missing_sizes_are_errors(server, tmp_path, monkeypatch):
    monkeypatch.setattr(released_checkpoints, "PAUSE_S", 0.0)
    with pytest.raises(DownloadError, match="403"):
        download(f"{server.url}/jepa/other/other.pth.tar", tmp_path)
    server.states_size = False
    with pytest.raises(DownloadError, match="states no size"):
        download(f"{server.url}/jepa/model/model.pth.tar", tmp_path)
    with pytest.raises(DownloadError, match="cannot be reached"):
        download("http://127.0.0.1:1/jepa/model/model.pth.tar", tmp_path)


def test_urls_are_those_of_metas_table():
    assert encoder_url("vith16-384") == "https://dl.fbaipublicfiles.com/jepa/vith16-384/vith16-384.pth.tar"
    assert probe_url("vitl16", "places205") == "https://dl.fbaipublicfiles.com/jepa/vitl16/places-probe.pth.tar"
    urls = {encoder_url(name) for name in ENCODERS} | {probe_url(name, probe) for name in ENCODERS for probe in PROBES}
    assert len(urls) == 3 + 15
    with pytest.raises(ValueError, match="vitg16"):
        probe_url("vitg16", "k400")
    with pytest.raises(ValueError, match="k401"):
        probe_url("vitl16", "k401")


def saved(content: dict, path) -> bytes:
    torch.save(content, path)
    return path.read_bytes()


@pytest.mark.parametrize(("probe", "count", "first"), [("ssv2", 174, "Approaching something with your camera"),
                                                       ("k400", 400, "LABEL_0")])  # fmt: skip
def test_a_released_model_and_probe_by_name_over_a_broken_connection(
    server, tiny_config, tmp_path, monkeypatch, probe, count, first
):
    monkeypatch.setattr(released_checkpoints, "BASE_URL", f"{server.url}/jepa")
    monkeypatch.setattr(released_checkpoints.time, "sleep", lambda seconds: None)
    tiny_config.num_labels = count
    server.files = {
        "/jepa/vitl16/vitl16.pth.tar": saved(pretraining_content(tiny_config), tmp_path / "checkpoint"),
        f"/jepa/vitl16/{probe}-probe.pth.tar": saved(probe_content(tiny_config), tmp_path / "probe"),
    }
    server.breaks_after = 100_000
    report = convert("vitl16", tmp_path / "model", probe, num_attention_heads=2, download_dir=tmp_path / "downloads")
    assert any(asked for _, asked in server.requests)  # it did break
    model = VJEPAForVideoClassification.from_pretrained(tmp_path / "model")
    assert model.config.num_labels == count and model.config.id2label[0] == first
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"{server.url}/jepa/vitl16/vitl16.pth.tar" in card
    assert ("jepa/issues/18" in card and "jepa/issues/18" in str(report)) == (probe == "k400")


def test_a_local_file_is_not_mistaken_for_a_released_probe(tiny_config, tmp_path, monkeypatch):
    """Class names belong to released probes; a local file named ssv2 gets none."""
    monkeypatch.chdir(tmp_path)
    tiny_config.num_labels = 174
    torch.save(pretraining_content(tiny_config), tmp_path / "checkpoint")
    torch.save(probe_content(tiny_config), tmp_path / "ssv2")
    convert("checkpoint", tmp_path / "model", "ssv2", num_attention_heads=2)
    assert VJEPAConfig.from_pretrained(tmp_path / "model").id2label[0] == "LABEL_0"
