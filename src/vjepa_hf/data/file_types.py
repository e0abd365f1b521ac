"""Which files are videos, by their suffix or, where it is unknown, by their first bytes."""

import os

from ..model.video_inputs import IMAGE_SUFFIXES

VIDEO_SUFFIXES = frozenset(
    ".264 .265 .3g2 .3gp .amv .asf .avi .divx .dv .f4v .flv .gif .gxf .h264 .h265 .hevc .ivf .m1v .m2t .m2ts .m2v "
    ".m4v .mjpeg .mjpg .mkv .mov .mp4 .mpe .mpeg .mpg .mpv .mts .mxf .nut .obu .ogm .ogv .qt .rm .rmvb .ts .vob .webm "
    ".wmv .wtv .y4m".split()
)
# In the containers of videos, but without one.
AUDIO_SUFFIXES = frozenset(".aac .ac3 .flac .m4a .m4b .mka .mp3 .oga .ogg .opus .wav .wma".split())
HEADS = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"GIF8",
    b"0&\xb2u\x8ef\xcf\x11",  # ASF, WMV
    b"\x06\x0e+4\x02\x05\x01\x01",  # MXF
    b"DKIF",  # IVF
    b".RMF",
    b"YUV4MPEG2 ",
    b"\x1f\x07\x00",  # DV
)
MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
OTHER_BRANDS = (b"M4A ", b"M4B ", b"avif", b"heic", b"mif1")  # audio and images
HEAD_BYTES = 4096


def suffix(file: str) -> str:
    """Return the suffix of a path or address in lower case."""
    return os.path.splitext(file.split("?")[0] if "://" in file else file)[1].lower()


def is_video(file: str) -> bool:
    """Return whether a file is a video, by its suffix or its first bytes; the latter only of local regular files."""
    kind = suffix(file)
    if kind in VIDEO_SUFFIXES:
        return True
    return kind not in IMAGE_SUFFIXES | AUDIO_SUFFIXES and has_video_head(_head(file))


def is_binary(file: str) -> bool:
    """Return whether a local file is not text in any encoding."""
    head = _head(file)
    return b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff"))


def has_video_head(head: bytes) -> bool:
    """Return whether these are the first bytes of a video."""
    if head[4:8] in MP4_BOXES:
        return head[8:12] not in OTHER_BRANDS
    if head.startswith((b"\x00\x00\x01", b"\x00\x00\x00\x01")):  # a start code of MPEG, H.264 or HEVC
        code = head[3:4] if head[2] else head[4:5]
        return code not in (b"", b"\x00") and head[4:8] != b"Bud1"  # an icon; .DS_Store
    # Packets of 188 bytes, with 4 more in front on Blu-ray discs.
    is_transport_stream = any(head[start::size][:3] == b"GGG" for start, size in ((0, 188), (4, 192)))
    is_other = head[:4] == b"RIFF" and head[8:12] == b"AVI " or (head[:4] == b"OggS" and b"theora" in head)
    return head.startswith(HEADS) or is_transport_stream or is_other


def _head(file: str) -> bytes:
    if "://" in file or not os.path.isfile(file):  # opening a pipe could wait forever
        return b""
    try:
        with open(file, "rb") as opened:
            return opened.read(HEAD_BYTES)
    except OSError:  # reported when the video is opened
        return b""
