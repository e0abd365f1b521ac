"""The demo: what it refuses, what it leaves on the disk, and the page in a browser.

pytest tests/examples/test_space.py
"""

import base64
import html
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from safetensors.torch import load

from programs import cpu_environment
from space import app
from video_files import write_audio, write_image, write_video
from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.evaluation.dense_features import stream_features
from vjepa_hf.evaluation.loading import load_encoder
from vjepa_hf.look import look_at

# Name of a bad file -> what the answer says about it.
BAD_FILES = {
    "text.mp4": "is not a video, or it is damaged",
    "empty.mp4": "is not a video, or it is damaged",
    "truncated.mp4": "is not a video, or it is damaged",
    "picture.mp4": "one frame",
    "one_frame.mp4": "one frame",
    "huge.mp4": "4000 x 2400 pixels, and 3840 a side are allowed",
    "sound.mp4": "is not a video, or it is damaged",
    "archive.mp4": "is not a video, or it is damaged",
    "playlist.mp4": "is not a video, or it is damaged",
    "session.mp4": "is not a video, or it is damaged",
    "long.mp4": "1800 frames in 30 seconds are allowed",
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory) -> Path:
    """A folder with the files of `BAD_FILES`; two of them name another file, which must not be opened."""
    folder = tmp_path_factory.mktemp("bad")
    good = write_video(folder / "good.mp4")
    (folder / "text.mp4").write_text("not a video")
    (folder / "empty.mp4").touch()
    (folder / "truncated.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    write_image(folder / "picture.png", 0).rename(folder / "picture.mp4")
    write_video(folder / "one_frame.mp4", num_frames=1)
    write_video(folder / "huge.mp4", num_frames=2, height=2400, width=4000, options={"preset": "ultrafast"})
    write_audio(folder / "sound.wav").rename(folder / "sound.mp4")
    with zipfile.ZipFile(folder / "archive.mp4", "w") as archive:
        archive.write(good, "good.mp4")
    (folder / "playlist.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{good}\n#EXT-X-ENDLIST\n")
    (folder / "session.mp4").write_text("v=0\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n")
    write_video(folder / "long.mp4", num_frames=31, fps=1)
    return folder


@pytest.fixture
def model_folder(tiny_pretraining_model, tmp_path) -> str:
    tiny_pretraining_model.save_pretrained(tmp_path / "model")
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """Copies a file to where uploads lie, in a folder of its own; all temporary files are in `tmp_path / "disk"`."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "disk"))
    (tmp_path / "disk").mkdir()

    def copy(path: Path) -> str:
        target = tmp_path / "disk" / "uploads" / "content" / path.name
        target.parent.mkdir(parents=True)
        target.write_bytes(path.read_bytes())
        return str(target)

    return copy


def left_files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name != "uploads"]


# --- limits ---


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_with_what_is_wrong_before_any_work(name, bad_files, upload, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "look_at", lambda *args, **kwargs: pytest.fail("the model ran"))
    text, classes = app.answer(upload(bad_files / name), "model", None, None)
    assert BAD_FILES[name] in text and classes is None
    assert str(tmp_path) not in text and left_files(tmp_path / "disk") == []


def test_a_file_beyond_the_limit_is_refused_before_it_is_opened(monkeypatch):
    monkeypatch.setattr(app, "VideoFile", lambda *args, **kwargs: pytest.fail("the file was opened"))
    with pytest.raises(ValueError, match=f"{app.MAX_BYTES + 1} bytes, and {app.MAX_BYTES} are allowed"):
        app.check_upload(bytes(app.MAX_BYTES + 1))


def test_videos_within_the_limits_are_accepted(tmp_path):
    for name, num_frames, fps in (("two.mp4", 2, 30), ("long.mp4", app.MAX_SECONDS, 1)):
        app.check_upload(write_video(tmp_path / name, num_frames=num_frames, fps=fps).read_bytes())


def test_a_recording_of_a_browser_is_accepted_although_it_states_no_duration(tmp_path):
    times = [0, 34, 66, 101, 133, 166, 200, 234]
    live = {"live": "1"}  # a Matroska file without duration and index
    path = write_video(tmp_path / "camera.webm", 8, codec="libvpx", times=times, container_options=live)
    with av.open(str(path)) as container:
        assert container.duration is None and container.streams.video[0].frames == 0
    app.check_upload(path.read_bytes())


def test_many_frames_are_refused_however_fast_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "MAX_FRAMES", 10)
    with pytest.raises(ValueError, match="has 11 frames in 0 seconds, and 10 frames in 30 seconds are allowed"):
        app.check_upload(write_video(tmp_path / "fast.mp4", num_frames=11, fps=1000).read_bytes())


# --- answers ---


def decoded(link: str) -> bytes:
    return base64.b64decode(re.search(r'href="data:application/octet-stream;base64,([^"]*)"', link)[1])


def test_answer_has_the_page_and_the_features_and_leaves_nothing_on_the_disk(model_folder, upload, tmp_path):
    path = write_video(tmp_path / "my <b>video.mp4")
    encoder, processor = load_encoder(model_folder)
    text, classes = app.answer(upload(path), model_folder, encoder, processor)
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', text)[1])
    assert page.startswith("<!") and "my \\u003cb>video.mp4" in page and "<b>video" not in text
    tensors = load(decoded(text))
    pieces = list(stream_features(encoder, processor, str(path), processor.num_frames))
    torch.testing.assert_close(tensors["features"], torch.cat([piece.features for piece in pieces]).mean(dim=(1, 2)))
    assert classes is None and left_files(tmp_path / "disk") == []


def test_classes_are_the_mean_probabilities_of_a_classifier(tiny_classifier, upload, toy_video_path, tmp_path):
    folder = str(tmp_path / "classifier")
    tiny_classifier.save_pretrained(folder)
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2).save_pretrained(folder)
    _, classes = app.answer(upload(toy_video_path), folder, *load_encoder(folder))
    expected = look_at(str(toy_video_path), folder).probabilities.mean(axis=0)
    assert list(classes) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert list(classes.values()) == pytest.approx(expected.tolist()) and sum(classes.values()) == pytest.approx(1)


def test_an_error_of_the_server_leaves_nothing_on_the_disk(
    model_folder, upload, toy_video_path, tmp_path, monkeypatch
):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(app, "write_features", fail)
    with pytest.raises(RuntimeError):
        app.answer(upload(toy_video_path), model_folder, *load_encoder(model_folder))
    assert left_files(tmp_path / "disk") == []


def test_a_video_that_is_gone_or_missing_is_explained(tmp_path):
    assert app.GONE in html.unescape(app.answer(str(tmp_path / "gone.mp4"), "model", None, None)[0])
    assert app.NO_VIDEO in app.answer(None, "model", None, None)[0]


def test_the_folder_of_an_upload_stays_if_it_has_another_file(upload, toy_video_path):
    path = Path(upload(toy_video_path))
    path.with_name("other.mp4").touch()
    assert app.take_upload(path) == toy_video_path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["other.mp4"]


# --- the server ---


def test_without_gradio_the_demo_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        app.main(["--model", "nowhere"])
    assert "pip install 'vjepa_hf[demo]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; tests without the packages and programs are skipped."""
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on the PATH")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=program, args=["--no-sandbox"])


@pytest.fixture
def server(model_folder, tmp_path):
    """A running `vjepa-hf demo`: its address, and the folder with all of its temporary files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    environment = cpu_environment(tmp_path / "hf_home") | {"TMPDIR": str(disk)}
    command = [Path(sys.executable).parent / "vjepa-hf", "demo", "--model", model_folder, "--port", str(free_port())]
    log = (tmp_path / "log").open("w+")
    with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment) as process:
        while not (address := re.search(r"http://[\d.:]+", (tmp_path / "log").read_text())):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        yield address[0], disk
        process.terminate()
    assert "Traceback" not in (tmp_path / "log").read_text()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def open_demo(browser, address: str, width: int) -> tuple[Any, list[str]]:
    """Open the demo; return its tab, and a list that gets every error and every request to another server."""
    tab, complaints = browser.new_page(viewport={"width": width, "height": 900}), []
    tab.set_default_timeout(120_000)
    tab.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda sent: None if is_local(sent.url, address) else complaints.append(sent.url))
    tab.goto(address)
    return tab, complaints


def is_local(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:", "about:"))


def send(tab, path: Path) -> str:
    """Upload a video, wait for the answer, and return its text."""
    with tab.expect_response(re.compile("/upload")):
        tab.set_input_files("input[type=file]", path)
    tab.wait_for_selector("video", state="attached")
    tab.click("text=Look at it")
    tab.wait_for_selector("video", state="detached")  # the answer removes the upload
    return tab.inner_text("#answer")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1440])
def test_a_visitor_gets_the_page_and_the_features(browser, server, toy_video_path, width):
    address, disk = server
    tab, complaints = open_demo(browser, address, width)
    assert "Download the features" in send(tab, toy_video_path)
    frame = tab.frame_locator("#answer iframe")
    frame.locator("canvas").first.wait_for()
    for root in (tab.locator("html"), frame.locator("html")):
        assert root.evaluate("page => page.scrollWidth <= page.clientWidth"), "one must scroll sideways"
    with tab.expect_download() as download:
        tab.click("text=Download the features")
    assert load(download.value.path().read_bytes())["features"].shape == (4, 48)
    assert complaints == []
    assert [path for path in disk.rglob("*.mp4")] == []


@pytest.mark.slow
def test_bad_files_are_refused_and_the_demo_still_serves(browser, server, bad_files, toy_video_path):
    address, disk = server
    tab, _ = open_demo(browser, address, 1440)
    for name, reason in BAD_FILES.items():
        assert reason in send(tab, bad_files / name), name
    assert "Download the features" in send(tab, toy_video_path)
    assert [path for path in disk.rglob("*.mp4")] == []
