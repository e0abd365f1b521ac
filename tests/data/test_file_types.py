"""Videos are told from other files by their suffix, or by their first bytes where it is unknown.

pytest tests/data/test_file_types.py
"""

import os

import pytest

from video_files import write_audio, write_image, write_video
from vjepa_hf.data.file_types import is_binary, is_video, suffix

FORMATS = {  # suffix -> codec
    ".mp4": "libx264",
    ".mov": "libx264",
    ".mkv": "libx264",
    ".webm": "libvpx-vp9",
    ".avi": "mpeg4",
    ".ts": "libx264",
    ".m2ts": "libx264",
    ".mpg": "mpeg1video",
    ".flv": "flv",
    ".wmv": "wmv2",
    ".gif": "gif",
    ".mxf": "mpeg2video",
    ".ogv": "libtheora",
    ".ivf": "libvpx",
    ".h264": "libx264",
    ".hevc": "libx265",
    ".m2v": "mpeg2video",
}
PIXELS = {".gif": "rgb8"}


@pytest.mark.parametrize("kind", FORMATS)
def test_videos_are_known_by_their_first_bytes(tmp_path, kind):
    try:
        path = write_video(tmp_path / f"a{kind}", 4, codec=FORMATS[kind], pix_fmt=PIXELS.get(kind, "yuv420p"), fps=25)
    except (ValueError, OSError) as error:
        pytest.skip(f"this FFmpeg does not write it: {error}")
    for name in ("0f3a9c", "a.unknown"):
        os.replace(path, path := tmp_path / name)
        assert is_video(str(path)) and is_binary(str(path))


def test_other_files_are_not_videos(tmp_path):
    write_audio(tmp_path / "a.wav")
    write_image(tmp_path / "a.png", 0)
    (tmp_path / "icon").write_bytes(b"\0\0\1\0\1\0\x10\x10")
    (tmp_path / "DS_Store").write_bytes(b"\0\0\0\1Bud1\0\0")
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500))
    (tmp_path / "list").write_text("GGG.mp4\nGame.mp4\n")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "zeros").write_bytes(bytes(1000))
    os.replace(tmp_path / "a.wav", tmp_path / "sound")
    os.replace(tmp_path / "a.png", tmp_path / "picture")
    names = os.listdir(tmp_path)
    assert len(names) == 8 and not [name for name in names if is_video(str(tmp_path / name))]
    assert not is_video(str(tmp_path / "gone")) and not is_video(str(tmp_path))


def test_text_in_any_encoding_is_not_binary(tmp_path):
    for number, encoding in enumerate(("utf-8", "latin-1", "utf-16", "utf-8-sig")):
        (tmp_path / str(number)).write_text("vidéo.mp4\n", encoding=encoding)
        assert not is_binary(str(tmp_path / str(number)))
    assert not is_binary(str(tmp_path / "gone"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in its file system")
def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not is_video(str(tmp_path / "pipe"))


def test_a_suffix_is_in_lower_case_and_without_the_query():
    assert suffix("https://host/a.MP4?key=b.csv") == ".mp4"
    assert suffix("a?b.MOV") == ".mov" and suffix("0f3a9c") == ""
