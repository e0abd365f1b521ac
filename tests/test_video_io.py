"""Reading videos: the right frames, from any source, and one kind of error."""

import csv
import functools
import http.server
import io
import os
import pickle
import random
import sys
import threading
import types

import av
import numpy as np
import pytest
import torch

from video_files import read_all, write_audio, write_video
from vjepa_hf import video_io
from vjepa_hf.video_io import VideoDecodeError, VideoInfo, decode, probe

GROUPS = {"g": "12", "bf": "2", "sc_threshold": "0"}
LATE_AND_UNEVEN = [5000 + 40 * number + 7 * (number % 3) for number in range(40)]
FILES = {
    "b_frames": ("b.mp4", {"options": GROUPS}),
    "open_groups": ("o.mp4", {"options": {**GROUPS, "x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}}),
    "gradual_refresh": ("i.mp4", {"options": {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}}),
    "fragments": ("f.mp4", {"options": GROUPS}),
    "matroska": ("m.mkv", {"options": GROUPS}),
    "transport_stream": ("t.ts", {"options": GROUPS}),
    "no_presentation_times": ("a.avi", {"codec": "mpeg4", "options": {"g": "10", "bf": "2"}}),
    "vp9_with_hidden_frames": (
        "v.webm",
        {
            "codec": "libvpx-vp9",
            "options": {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "10", "deadline": "good"},
        },
    ),
    "vp8": ("v8.webm", {"codec": "libvpx", "options": {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "10"}}),
    "uneven_times": ("u.mp4", {"options": GROUPS, "times": LATE_AND_UNEVEN}),
    "ten_bits": ("x.mp4", {"pix_fmt": "yuv420p10le", "options": GROUPS}),
    "full_color": ("c.mp4", {"pix_fmt": "yuv444p", "options": GROUPS}),
    "odd_size": ("s.mp4", {"pix_fmt": "yuv444p", "height": 37, "width": 51, "options": GROUPS}),
    "turned": ("r.mp4", {"rotation": 90, "options": GROUPS}),
    "one_frame": ("1.mp4", {"num_frames": 1}),
}
SOURCES = {
    "text": str,
    "path": lambda path: path,
    "file URL": lambda path: path.as_uri(),
    "bytes": lambda path: path.read_bytes(),
    "file": lambda path: path.open("rb"),
    "file in memory": lambda path: io.BytesIO(path.read_bytes()),
}
# Two files of encrypted pictures, which a decoder takes for damaged ones: gray frames, counted in the table.
ENCRYPTED = {"sample_fragmented_sgpd_v2.mp4", "sample_fragmented_variable_length_sgpd.mp4"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def video(folder):
    """40 frames in groups of 12, with frames that are stored before those they are shown after."""
    return write_video(folder / "video.mp4", options=GROUPS)


@pytest.fixture(scope="module")
def unreadable(folder, video):
    data = video.read_bytes()
    files = {"empty.mp4": b"", "text.mp4": b"not a video" * 99, "no_index.mp4": data[: len(data) // 2]}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    write_audio(folder / "audio.wav")
    return [folder / name for name in [*files, "audio.wav", "missing.mp4"]]


@pytest.fixture(scope="module")
def robustness_files(shared):
    with open(shared / "videos/robustness.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) > 100
    return [(shared / "videos" / row["path"], int(row["frames"]), row) for row in rows]


@pytest.fixture
def decoded_frames(monkeypatch):
    """The frame numbers that come out of the decoder after the file has been listed."""
    numbers, from_key = [], video_io._PyAVVideo._from_key

    def counting(self, *args):
        for number, frame in from_key(self, *args):
            numbers.append(number)
            yield number, frame

    monkeypatch.setattr(video_io._PyAVVideo, "_from_key", counting)
    return numbers


def same(frames: torch.Tensor, expected: np.ndarray) -> bool:
    return np.array_equal(frames.permute(0, 2, 3, 1).numpy(), expected)


@pytest.mark.parametrize("name", FILES)
def test_frame_i_is_frame_i_of_a_full_decode(name, folder):
    file_name, arguments = FILES[name]
    path = write_video(folder / file_name, **arguments)
    expected = read_all(path)
    info = probe(path)
    assert (info.num_frames, info.height, info.width) == expected.shape[:3]
    for index in range(len(expected)):
        assert same(decode(path, [index]), expected[index : index + 1]), index


def test_frames_come_in_the_order_and_as_often_as_asked(video):
    indices = [30, 2, 2, 17, 39, 0]
    assert same(decode(video, indices), read_all(video)[indices])
    assert same(decode(video, np.array([[3, 7], [11, 15]])), read_all(video)[[3, 7, 11, 15]])


def test_frames_are_uint8_rgb_with_channels_first(video):
    frames = decode(video, [0, 4, 8])
    assert frames.dtype == torch.uint8 and frames.shape == (3, 3, 48, 64)
    # The pattern's blue grows from top to bottom, and the green bar starts on the left.
    assert frames[0, 2, -1].float().mean() > frames[0, 2, 0].float().mean() + 150
    assert frames[0, 1, :, 4].float().mean() > frames[0, 1, :, 40].float().mean() + 100


def test_probe_counts_frames_and_measures_time(folder):
    path = write_video(folder / "fps.mp4", fps=10, num_frames=25)
    info = probe(path)
    assert info == VideoInfo(num_frames=25, fps=10.0, height=48, width=64)
    assert info.duration == 2.5


def test_a_function_may_choose_the_frames_from_what_the_video_holds(video):
    assert same(decode(video, lambda info: [info.num_frames - 1]), read_all(video)[-1:])


def test_decoding_starts_at_the_last_key_frame_and_stops_after_the_last_wanted_frame(video, decoded_frames):
    decode(video, [26, 28])
    assert decoded_frames == [24, 25, 26, 27, 28]


def test_a_list_of_packets_that_lies_is_found_out(video, monkeypatch):
    listed = video_io._PyAVVideo._list_packets

    def lying(self):
        listed(self)
        # As if a packet before frame 30 had held no frame of its own.
        self.times.insert(30, self.times[29] + 1)

    monkeypatch.setattr(video_io._PyAVVideo, "_list_packets", lying)
    assert same(decode(video, [28, 33]), read_all(video)[[28, 33]])


@pytest.mark.parametrize(
    "codec, first, last, shown",
    [
        ("vp9", 0b10000110, 0, True),
        ("vp9", 0b10000100, 0, False),
        ("vp9", 0b10001000, 0, True),  # shows a frame stored before
        ("vp9", 0b10000100, 0b11000001, True),  # several frames in one packet, the last of them shown
        ("vp9", 0b10110001, 0, True),  # profile 3 has one bit more
        ("vp9", 0b10110010, 0, False),
        ("vp8", 0b00010000, 0, True),
        ("vp8", 0b00000000, 0, False),
        ("h264", 0, 0, True),
    ],
)
def test_packets_without_a_frame_to_show_are_not_counted(codec, first, last, shown):
    assert video_io._is_shown(av.Packet(bytes([first, 0, last])), codec) is shown


def test_frames_can_be_scaled_while_they_are_converted(folder, video):
    assert decode(video, [0, 9], size=(24, 40)).shape == (2, 3, 24, 40)
    turned = write_video(folder / "turned.mp4", rotation=90)
    upright = decode(turned, [0], size=(32, 24))
    assert upright.shape == (1, 3, 32, 24)
    whole = torch.nn.functional.interpolate(decode(turned, [0]).float(), (32, 24), mode="area")
    assert (upright.float() - whole).abs().mean() < 25


def test_rotation_tags_are_honored(folder):
    plain = decode(write_video(folder / "plain.mp4"), [5]).float()
    turned_path = write_video(folder / "turned_90.mp4", rotation=90)
    turned = decode(turned_path, [5]).float()
    assert (probe(turned_path).height, probe(turned_path).width) == (64, 48)
    assert (torch.rot90(plain, 1, (2, 3)) - turned).abs().mean() < 1
    assert (torch.rot90(plain, -1, (2, 3)) - turned).abs().mean() > 20


class TestSources:
    @pytest.mark.parametrize("kind", SOURCES)
    def test_every_kind_gives_the_same_frames(self, video, kind):
        source = SOURCES[kind](video)
        assert probe(source).num_frames == 40
        assert same(decode(source, [1, 33]), read_all(video)[[1, 33]])

    def test_a_web_address_is_downloaded_once(self, video):
        requests = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args):
                requests.append(args)

        handler = functools.partial(Handler, directory=video.parent)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}"
            assert same(decode(f"{address}/{video.name}", lambda info: [info.num_frames - 1]), read_all(video)[-1:])
            assert len(requests) == 1
            with pytest.raises(VideoDecodeError, match="missing.mp4.*404"):
                decode(f"{address}/missing.mp4", [0])
            server.shutdown()

    def test_files_are_closed_again(self, video, folder):
        if not os.path.isdir("/proc/self/fd"):
            pytest.skip("open files are counted in /proc")
        broken = folder / "broken.mp4"
        broken.write_bytes(video.read_bytes()[:2000])
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            decode(video, [3])
            with pytest.raises(VideoDecodeError):
                decode(broken, [3])
        assert len(os.listdir("/proc/self/fd")) == before


class TestErrors:
    def test_unreadable_files_are_named_with_the_cause(self, unreadable):
        for path in unreadable:
            for read in (probe, lambda path: decode(path, [0])):
                with pytest.raises(VideoDecodeError) as error:
                    read(path)
                assert error.value.file == str(path) and str(path) in str(error.value)
                assert error.value.cause and error.value.asked

    def test_a_folder_is_not_a_video(self, folder):
        with pytest.raises(VideoDecodeError):
            probe(folder)

    def test_a_frame_beyond_the_end_is_an_error_and_not_another_frame(self, video):
        with pytest.raises(VideoDecodeError, match="frames 38 to 40: ValueError: it has only 40 frames"):
            decode(video, [38, 40])

    @pytest.mark.parametrize("indices", [[-1], []])
    def test_impossible_indices_are_the_callers_mistake(self, video, indices):
        with pytest.raises(ValueError, match="at least one frame number"):
            decode(video, indices)

    def test_a_mistake_in_the_callers_function_is_not_blamed_on_the_file(self, video):
        def choose(info):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            decode(video, choose)

    def test_the_error_survives_the_way_back_from_a_worker(self):
        error = pickle.loads(pickle.dumps(VideoDecodeError("a.mp4", "frames 0 to 9", "truncated")))
        assert str(error) == "a.mp4: cannot read frames 0 to 9: truncated"

    def test_damaged_copies_give_frames_or_that_error_and_nothing_else(self, folder, video):
        files = [video, write_video(folder / "d.mkv"), write_video(folder / "d.avi", codec="mpeg4")]
        generator, outcomes = random.Random(0), set()
        for _ in range(150):
            data = bytearray(generator.choice(files).read_bytes())
            start = generator.randrange(len(data))
            damage = generator.choice(["flip", "cut", "splice"])
            if damage == "flip":
                for _ in range(20):
                    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            elif damage == "cut":
                del data[start:]
            else:
                del data[start : start + generator.randrange(500)]
            try:
                frames = decode(bytes(data), lambda info: [0, info.num_frames - 1])
                outcomes.add(frames.dtype)
            except VideoDecodeError as error:
                outcomes.add(type(error))
        assert outcomes == {torch.uint8, VideoDecodeError}


class TestDecoderChoice:
    @pytest.fixture
    def torchcodec(self, monkeypatch, video):
        """A torchcodec that opens only `video`, and whose frames are all 7."""

        class VideoDecoder:
            metadata = types.SimpleNamespace(average_fps=30.0)

            def __init__(self, source, dimension_order, num_ffmpeg_threads):
                if source != str(video):
                    raise RuntimeError("cannot open")

            def __len__(self):
                return 40

            def __getitem__(self, index):
                return torch.full((48, 64, 3), 7, dtype=torch.uint8)

            def get_frames_at(self, indices):
                return types.SimpleNamespace(data=torch.stack([self[index] for index in indices]))

        module = types.SimpleNamespace(VideoDecoder=VideoDecoder)
        monkeypatch.setitem(sys.modules, "torchcodec", types.SimpleNamespace(decoders=module))
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
        video_io._torchcodec_decoder.cache_clear()
        yield
        video_io._torchcodec_decoder.cache_clear()

    def test_torchcodec_reads_what_it_opens(self, torchcodec, video):
        assert probe(video) == VideoInfo(40, 30.0, 48, 64)
        assert (decode(video, [5, 2, 2]) == 7).all()
        assert decode(video, [5, 2, 2], size=(12, 16)).shape == (3, 3, 12, 16)
        with pytest.raises(VideoDecodeError, match="only 40 frames"):
            decode(video, [40])

    def test_pyav_reads_what_torchcodec_refuses(self, torchcodec, folder):
        other = write_video(folder / "other.mp4")
        assert same(decode(other, [5]), read_all(other)[5:6])
        assert same(decode(other.open("rb"), [5]), read_all(other)[5:6])

    def test_a_torchcodec_without_ffmpeg_is_as_good_as_none(self, monkeypatch):
        module = types.SimpleNamespace(VideoDecoder=object)
        for version, decoder in ((None, None), (7, object)):
            package = types.SimpleNamespace(decoders=module, ffmpeg_major_version=version)
            monkeypatch.setitem(sys.modules, "torchcodec", package)
            monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
            video_io._torchcodec_decoder.cache_clear()
            assert video_io._torchcodec_decoder() is decoder
        video_io._torchcodec_decoder.cache_clear()

    def test_a_torchcodec_that_does_not_load_is_as_good_as_none(self, monkeypatch, video):
        # None in sys.modules makes the import fail, as it does where torchcodec finds no FFmpeg.
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
        video_io._torchcodec_decoder.cache_clear()
        assert probe(video).num_frames == 40
        assert video_io._torchcodec_decoder() is None
        video_io._torchcodec_decoder.cache_clear()


class TestRealFiles:
    """Odd and broken files of other projects; the table beside them says how many frames a full decode gives."""

    def test_files_without_readable_frames_raise_the_one_error(self, robustness_files):
        bad = [path for path, frames, _ in robustness_files if frames == 0 or path.name in ENCRYPTED]
        assert len(bad) > 40
        for path in bad:
            with pytest.raises(VideoDecodeError):
                decode(path, [0])

    def test_encrypted_pictures_are_named_as_the_cause(self, robustness_files):
        encrypted = [path for path, _, _ in robustness_files if path.name in ENCRYPTED]
        assert len(encrypted) == 2
        for path in encrypted:
            with pytest.raises(VideoDecodeError, match="encrypted"):
                probe(path)

    def test_frames_of_odd_files_equal_a_full_decode(self, robustness_files):
        checked, generator = 0, random.Random(0)
        for path, num_frames, row in robustness_files:
            # The large ones take minutes; they hold nothing that a small one does not.
            if not 0 < num_frames * int(row["width"] or 0) * int(row["height"] or 0) < 12_000_000:
                continue
            if path.name in ENCRYPTED:
                continue
            expected = read_all(path)
            assert probe(path).num_frames == num_frames == len(expected), path
            for indices in ([0, num_frames - 1], generator.choices(range(num_frames), k=3), [num_frames // 2]):
                assert same(decode(path, indices), expected[indices]), (path, indices)
            checked += 1
        assert checked > 20
