"""What is opened: regular files, containers and addresses; no other file, no port, no huge frame, no secret told.

pytest tests/model/test_video_sources.py
"""

import base64
import http.server
import io
import os
import struct
import tarfile
import tempfile
import threading
import types

import pytest
import torch

from video_files import write_video
from vjepa_hf.model import video_sources
from vjepa_hf.model.video_io import VideoDecodeError, VideoFile
from vjepa_hf.model.video_sources import source_name, without_secrets

SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n" + (
    b"m=video 50123 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
PLAYLISTS = {
    "session description": SDP,
    "ffconcat": b"ffconcat version 1.0\nfile video.mp4\n",
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nvideo.mp4\n#EXT-X-ENDLIST\n",
    "dash": b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">\n</MPD>\n',
    "rtsp": b"RTSPtextrtsp://127.0.0.1:1/a\n",
}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "video.mp4")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A video larger than what is read into memory at once."""
    path = tmp_path_factory.mktemp("large") / "large.avi"
    write_video(path, height=240, width=320, codec="rawvideo")
    assert path.stat().st_size > 3 * video_sources.HEAD_BYTES
    return path


def decode(source, indices, **options) -> torch.Tensor:
    with VideoFile(source, **options) as file:
        return file.frames(indices)


def gif(width: int, height: int) -> bytes:
    """A GIF of one frame that states this size."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + frame + b"\x3b"


class Server(http.server.ThreadingHTTPServer):
    """Server that answers a request with the function of its path, and keeps the headers of requests."""

    daemon_threads = True

    def __init__(self, answers):
        self.requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.server.requests.append((self.path, dict(self.headers)))
                answers[self.path](self)

            def log_message(self, *args):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server_port}"

    def handle_error(self, *args):
        pass

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        super().__exit__(*error)


def content(data: bytes):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def redirect(url: str):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.end_headers()

    return answer


class TestContainers:
    @pytest.mark.parametrize("kind", PLAYLISTS)
    def test_files_that_name_other_files_or_ports_are_refused_before_they_are_read(self, video, kind, monkeypatch):
        monkeypatch.chdir(video.parent)
        path = video.parent / f"{kind}.mp4"
        path.write_bytes(PLAYLISTS[kind])
        for source in (path, PLAYLISTS[kind], io.BytesIO(PLAYLISTS[kind])):
            with pytest.raises(VideoDecodeError, match="container that is not supported|Invalid data"):
                decode(source, [0])

    def test_ffmpeg_gets_neither_a_name_nor_a_protocol(self, video, monkeypatch):
        calls = []
        monkeypatch.setattr("av.open", lambda file, **options: calls.append((file, options)))
        video_sources.open_container(video_sources.open_source(video), 100)
        ((file, options),) = calls
        assert file.name == "" and not hasattr(file, "write") and options["mode"] == "r"
        assert options["container_options"]["protocol_whitelist"] == ""
        formats = set(options["container_options"]["format_whitelist"].split(","))
        assert {"mov", "matroska", "png_pipe"} < formats
        assert not formats & {"concat", "hls", "dash", "sdp", "rtsp", "image2", "imf", "lavfi", "vobsub", "webm_dash"}

    @pytest.mark.parametrize("folder", ["clip%02d", "100%d", "a*", "b?{c}"])
    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
    def test_a_pattern_in_the_name_of_a_picture_has_no_meaning(self, tmp_path, folder, suffix):
        Image = pytest.importorskip("PIL.Image")
        for name, color in ((folder, 200), ("clip01", 20), ("1001", 20), ("aa", 20)):
            (tmp_path / name).mkdir()
            Image.new("RGB", (32, 32), (color,) * 3).save(tmp_path / name / f"0{suffix}")
        assert decode(tmp_path / folder / f"0{suffix}", [0]).float().mean() > 150

    def test_only_regular_files_are_opened(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.mp4")
        for path in (tmp_path / "pipe.mp4", tmp_path, "/dev/zero", "/dev/stdin"):
            with pytest.raises(VideoDecodeError, match="not a regular file|Is a directory"):
                VideoFile(path)


class TestPixels:
    def test_the_default_admits_8k(self):
        assert 8192 * 4320 <= video_sources.MAX_PIXELS < 16000 * 16000

    def test_a_huge_frame_is_refused(self):
        with pytest.raises(VideoDecodeError, match="max_pixels=67108864"):
            VideoFile(gif(16000, 16000))
        assert decode(gif(160, 160), [0]).shape == (1, 3, 160, 160)

    @pytest.mark.parametrize("suffix, codec", [(".mp4", "libx264"), (".ts", "libx264"), (".avi", "mjpeg")])
    def test_the_limit_is_an_argument(self, tmp_path, suffix, codec):
        pixels = {"pix_fmt": "yuvj420p"} if codec == "mjpeg" else {}
        path = write_video(tmp_path / f"a{suffix}", codec=codec, **pixels)
        assert len(decode(path, [0, 9], max_pixels=48 * 64)) == 2
        with pytest.raises(VideoDecodeError, match="max_pixels=3071"):
            VideoFile(path, max_pixels=48 * 64 - 1)

    def test_a_size_that_grows_midway_is_refused_too(self, tmp_path):
        small = write_video(tmp_path / "small.h264").read_bytes()
        large = write_video(tmp_path / "large.h264", height=480, width=640).read_bytes()
        assert len(decode(small + large, [79])) == 1
        with pytest.raises(VideoDecodeError):
            decode(small + large, [79], max_pixels=64 * 64)


class TestFileObjects:
    @pytest.mark.parametrize("size", ["small", "large"])
    @pytest.mark.parametrize(
        "kind", ["r+b", "spooled", "spooled on disk", "named", "upload", "tar stream", "no seekable"]
    )
    def test_uploads_and_members_of_archives_are_read(self, video, large, tmp_path, kind, size):
        path = video if size == "small" else large
        data = path.read_bytes()
        if kind == "r+b":
            file = path.open("r+b")
        elif kind == "tar stream":
            with tarfile.open(tmp_path / "a.tar", "w") as tar:
                tar.add(path, "a.mp4")
            archive = tarfile.open(tmp_path / "a.tar", "r|")  # its members read from it
            file = archive.extractfile(archive.next())
        else:
            makers = {
                "spooled": lambda: tempfile.SpooledTemporaryFile(max_size=2**30),
                "named": tempfile.NamedTemporaryFile,
            }
            file = makers.get(kind, lambda: tempfile.SpooledTemporaryFile(max_size=1))()
            file.write(data)
        if kind == "no seekable":  # as SpooledTemporaryFile of Python 3.10
            file = types.SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)
        if kind == "upload":
            file = types.SimpleNamespace(file=file, read=None, filename="a.mp4")
        assert decode(file, [0, 39]).equal(decode(path, [0, 39]))

    def test_a_file_object_that_wrongly_says_that_it_can_seek_is_read_into_memory(self, large):
        class Forward(io.BytesIO):
            """As a member of a tar stream: going back fails, but only when it is read."""

            farthest = 0

            def read(self, size=-1):
                if self.tell() < self.farthest:
                    raise tarfile.StreamError("seeking backwards is not allowed")
                data = super().read(size)
                self.farthest = self.tell()
                return data

        assert decode(Forward(large.read_bytes()), [0, 39]).equal(decode(large, [0, 39]))

    def test_any_error_of_a_file_object_is_the_one_error(self, large):
        class Failing(io.BytesIO):
            def read(self, size=-1):
                if self.tell() > 2 * video_sources.HEAD_BYTES:
                    raise tarfile.StreamError("gone")
                return super().read(size)

        data = large.read_bytes()
        with pytest.raises(VideoDecodeError, match="<Failing>.*StreamError: gone"):
            decode(Failing(data), [0, 39])
        for source in (None, 3, large.open(encoding="latin-1"), ["a.mp4"]):
            with pytest.raises(VideoDecodeError):
                VideoFile(source)

    def test_a_view_of_bytes_is_read(self, video):
        for kind in (bytearray, memoryview):
            assert decode(kind(video.read_bytes()), [3]).equal(decode(video, [3]))


class TestAddresses:
    @pytest.mark.parametrize(
        "name, asked",
        [
            ("a b.mp4", "/a%20b.mp4"),
            ("a%20b.mp4", "/a%20b.mp4"),
            ("100%.mp4", "/100%25.mp4"),
            ("a%25b.mp4", "/a%25b.mp4"),
            ("über.mp4?sig=a%2Fb&x=[1] 2", "/%C3%BCber.mp4?sig=a%2Fb&x=[1]%202"),
        ],
    )
    @pytest.mark.parametrize("scheme", ["http", "HTTP"])
    def test_addresses_are_read_as_people_write_them(self, video, name, asked, scheme):
        with Server({asked: content(video.read_bytes())}) as server:
            assert decode(f"{scheme}://{server.address}/{name}", [3]).equal(decode(video, [3]))
            assert [path for path, _ in server.requests] == [asked]

    def test_file_addresses_may_be_in_capitals_or_not_encoded(self, video):
        (video.parent / "a b.mp4").write_bytes(video.read_bytes())
        for address in (f"FILE://{video}", f"file://localhost{video}", f"file://{video.parent}/a b.mp4"):
            assert len(decode(address, [3])) == 1

    def test_user_and_password_are_sent_but_not_to_the_target_of_a_redirect(self, video):
        with Server({"/b": content(video.read_bytes())}) as other:
            with Server({"/a": redirect(f"http://{other.address}/b")}) as server:
                decode(f"http://me:p%40ss@{server.address}/a", [3])
                assert server.requests[0][1]["Authorization"] == f"Basic {base64.b64encode(b'me:p@ss').decode()}"
                assert "Authorization" not in other.requests[0][1]

    @pytest.mark.parametrize("target", ["ftp://127.0.0.1/a.mp4", "file:///etc/passwd", "gopher://127.0.0.1/"])
    def test_a_redirect_does_not_change_the_scheme(self, target):
        with Server({"/a": redirect(target)}) as server:
            with pytest.raises(VideoDecodeError, match="redirects from http to|is not allowed"):
                VideoFile(f"http://{server.address}/a")

    def test_a_redirect_may_go_to_https_but_not_back(self):
        handler = video_sources._SafeRedirects()
        for old, new, is_followed in (("http", "https", True), ("http", "http", True), ("https", "http", False)):
            request = video_sources._request(f"{old}://host/a")
            arguments = (request, None, 302, "Found", {}, f"{new}://host/b")
            if is_followed:
                assert handler.redirect_request(*arguments).full_url == f"{new}://host/b"
            else:
                with pytest.raises(ValueError, match="from https to http"):
                    handler.redirect_request(*arguments)

    def test_a_download_has_a_limit_of_size(self, video, monkeypatch):
        data = video.read_bytes()

        def without_length(handler):
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(data)

        with Server({"/a": content(data), "/b": without_length}) as server:
            monkeypatch.setattr(video_sources, "MAX_DOWNLOAD_BYTES", len(data))
            for path in "ab":
                assert len(decode(f"http://{server.address}/{path}", [3])) == 1
            monkeypatch.setattr(video_sources, "MAX_DOWNLOAD_BYTES", len(data) - 1)
            for path in "ab":
                with pytest.raises(VideoDecodeError, match=f"exceeds {len(data) - 1} bytes"):
                    VideoFile(f"http://{server.address}/{path}")

    @pytest.mark.parametrize("part", ["headers", "content"])
    def test_a_download_has_a_limit_of_time(self, monkeypatch, part):
        stop = threading.Event()

        def slow(handler):
            handler.wfile.write(
                b"HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\nX: " + b"\r\n\r\n" * (part == "content")
            )
            while not stop.wait(0.05):
                handler.wfile.write(b"a")

        monkeypatch.setattr(video_sources, "MAX_DOWNLOAD_SECONDS", 0.5)
        with Server({"/a": slow}) as server:
            with pytest.raises(VideoDecodeError, match="0.5 s; download it first"):
                VideoFile(f"http://{server.address}/a")
            stop.set()

    @pytest.mark.parametrize(
        "address",
        [
            "http://somebody:secret@127.0.0.1:1/a.mp4?key=secret",
            "http://somebody:secret@127.0.0.1:1/a b.mp4?key=secret",
            "http://somebody:secret@127.0.0.1:port/a.mp4",
            "http://somebody:secret@[::1/a.mp4?key=secret",
            "http://somebody:secret@\u2100/a.mp4",
            "http://somebody:secret@" + "a" * 70 + "/a.mp4",
            "sftp://somebody:secret@host/a.mp4?key=secret#secret",
        ],
    )
    def test_messages_show_neither_user_nor_password_nor_query(self, address):
        with pytest.raises(VideoDecodeError) as error:
            VideoFile(address)
        cause: BaseException | None = error.value
        assert "mp4" in str(cause)
        while cause is not None:
            assert "secret" not in str(cause) and "somebody" not in str(cause)
            cause = cause.__cause__

    def test_names_of_addresses(self):
        assert source_name("https://me:pw@host:8/a/b.mp4?sig=1#x") == "https://host:8/a/b.mp4?..."
        assert source_name("/videos/what?.mp4") == "/videos/what?.mp4"
        assert source_name("s3://bucket/a@b.mp4") == "s3://bucket/a@b.mp4"
        chained = "tar://a.mp4::https://me:pw@host/b.tar?sig=1"
        assert without_secrets(f"no {chained} here") == "no tar://a.mp4::https://host/b.tar?... here"
