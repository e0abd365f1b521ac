"""Reading videos: the right frames, from any source, and one type of error."""

import csv
import dataclasses
import faulthandler
import functools
import http.server
import io
import os
import pickle
import random
import threading
import types
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from video_files import read_all, read_some, write_audio, write_video
from vjepa_hf.model import video_io
from vjepa_hf.model.video_io import VideoDecodeError, VideoFile, VideoInfo

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
    "hevc_open_groups": (
        "h.mp4",
        {"codec": "libx265", "options": {"x265-params": "keyint=12:open-gop=1:bframes=3:log-level=none"}},
    ),
    "av1": ("av1.mp4", {"codec": "libsvtav1", "options": {"g": "12", "svtav1-params": "lp=1"}}),
    "vp9_in_mp4": ("v9.mp4", {"codec": "libvpx-vp9", "options": {"g": "15", "lag-in-frames": "10"}}),
    "mpeg4_in_mp4": ("4.mp4", {"codec": "mpeg4", "options": {"g": "10", "bf": "2"}}),
    "wrong_times": ("w.avi", {"options": GROUPS}),
    "program_stream": ("p.mpg", {"codec": "mpeg2video", "options": {"g": "10", "bf": "2"}}),
    "no_times": ("n.h264", {"options": GROUPS}),
    "windows_media": ("w.wmv", {"codec": "wmv2", "options": {"g": "10"}}),
    "flash": ("f.flv", {"options": GROUPS}),
    "pictures_only": ("j.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "all_packets_called_key_frames": ("q.mov", {"codec": "qtrle", "pix_fmt": "rgb24"}),
    "animation": ("a.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
    "alpha": ("alpha.mov", {"codec": "png", "pix_fmt": "rgba"}),
}
SOURCES = {
    "text": str,
    "path": lambda path: path,
    "file URL": lambda path: path.as_uri(),
    "bytes": lambda path: path.read_bytes(),
    "file": lambda path: path.open("rb"),
    "file in memory": lambda path: io.BytesIO(path.read_bytes()),
}
# Two encrypted files, which the decoder of the table treats as damaged: it counts their gray frames.
ENCRYPTED = {"sample_fragmented_sgpd_v2.mp4", "sample_fragmented_variable_length_sgpd.mp4"}


def open_files() -> set[Path]:
    """Return the files that this process holds open."""
    return {link.resolve() for link in Path("/proc/self/fd").iterdir()}


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
    """The numbers of the frames that are decoded for a request."""
    numbers, after_key = [], VideoFile._after_key

    def counting(self, *args):
        for number, frame in after_key(self, *args):
            numbers.append(number)
            yield number, frame

    monkeypatch.setattr(VideoFile, "_after_key", counting)
    return numbers


@pytest.fixture
def hang_guard():
    """Stop the test run with a traceback if it hangs, even inside FFmpeg."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def decode(source, indices, size=None) -> torch.Tensor:
    with VideoFile(source) as video:
        return video.frames(indices, size)


def probe(source) -> VideoInfo:
    with VideoFile(source) as video:
        return video.info


def ends(source) -> torch.Tensor:
    """Decode the first and the last frame."""
    with VideoFile(source) as video:
        return video.frames([0, video.info.num_frames - 1])


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


def test_frames_have_the_order_and_repetitions_of_the_request(video):
    indices = [30, 2, 2, 17, 39, 0]
    assert same(decode(video, indices), read_all(video)[indices])


def test_the_result_has_the_shape_of_the_indices(video):
    clips = decode(video, np.array([[3, 7, 11], [5, 3, 3]]))
    assert clips.shape == (2, 3, 3, 48, 64)
    assert torch.equal(clips.flatten(0, 1), decode(video, [3, 7, 11, 5, 3, 3]))


def test_frames_of_an_open_file_do_not_depend_on_earlier_requests(folder):
    for name in ("b_frames", "open_groups", "matroska", "transport_stream", "no_presentation_times", "wrong_times"):
        file_name, arguments = FILES[name]
        path = write_video(folder / file_name, **arguments)
        expected = read_all(path)
        generator = random.Random(name)
        with VideoFile(path) as file:
            for number in range(20):
                indices = generator.choices(range(len(expected)), k=generator.randrange(1, 5))
                assert same(file.frames(indices), expected[indices]), (name, number, indices)
            assert file.info == probe(path)


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


def test_decoding_starts_at_the_last_key_frame_and_stops_after_the_last_requested_frame(video, decoded_frames):
    decode(video, [26, 28])
    assert decoded_frames == [24, 25, 26, 27, 28]


def test_frames_that_are_neither_requested_nor_referred_to_are_skipped(video, decoded_frames):
    frames = decode(video, [24, 35])
    assert decoded_frames[0] == 24 and decoded_frames[-1] == 35
    assert len(decoded_frames) < 10, "all were decoded"
    assert same(frames, read_all(video)[[24, 35]])


def test_no_frame_is_skipped_if_times_do_not_show_the_reordering(folder, video, decoded_frames):
    """Some programs write times in stored order for a stream whose frames are shown in another order."""
    path = folder / "times_in_stored_order.mp4"
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts, packet.stream = packet.dts, stream
                target.mux(packet)
    expected = read_all(path)
    for index in (13, 30):
        assert same(decode(path, [index]), expected[index : index + 1]), index
    with VideoFile(path) as file:
        assert not file._index.may_skip


@pytest.mark.parametrize("errors", [{"is_keyframe": True}, {"pos": 1}, {"timestamp": 5}], ids=str)
def test_a_wrong_index_does_not_change_frames(video, monkeypatch, errors):
    container_index = VideoFile._container_index

    def wrong_index(self):
        index = container_index(self)
        names = ("timestamp", "pos", "is_keyframe")
        entries = [{name: getattr(entry, name) for name in names} for entry in index.entries]
        return dataclasses.replace(index, entries=[types.SimpleNamespace(**(entry | errors)) for entry in entries])

    monkeypatch.setattr(VideoFile, "_container_index", wrong_index)
    assert same(decode(video, [28, 33]), read_all(video)[[28, 33]])


def test_the_packets_of_a_file_with_an_index_are_not_all_read(video, monkeypatch):
    monkeypatch.setattr(video_io, "MAX_REORDERING", 4)
    read, packets = [], VideoFile._packets

    def counting(self):
        for packet in packets(self):
            read.append(packet.pts)
            yield packet

    monkeypatch.setattr(VideoFile, "_packets", counting)
    assert probe(video).num_frames == 40
    assert len(read) < 15


def test_frames_cut_off_at_the_end_are_not_counted(folder, video):
    """The index is at the beginning and lists all 40 frames."""
    path = write_video(folder / "index_first.mp4", options=GROUPS, container_options={"movflags": "faststart"})
    cut = folder / "cut.mp4"
    cut.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
    num_frames = probe(cut).num_frames
    assert 10 < num_frames < 40
    assert same(decode(cut, [num_frames - 2]), read_all(video)[[num_frames - 2]])
    with pytest.raises(VideoDecodeError, match="only"):
        decode(cut, [39])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_far_apart_are_sought_and_not_decoded_up_to(folder, decoded_frames, suffix):
    path = write_video(folder / f"long{suffix}", num_frames=400, options={"g": "100", "sc_threshold": "0", "bf": "2"})
    expected = read_all(path)
    numbers = [3, 205, 207, 399]
    assert same(decode(path, numbers), expected[numbers])
    assert not any(20 < number < 200 or 220 < number < 300 for number in decoded_frames)
    with VideoFile(path) as file:
        assert same(torch.stack([frame.frame for frame in file.iter_frames(numbers)]), expected[numbers])


def test_near_frames_are_decoded_in_one_pass(video, monkeypatch):
    seeks, after_key = [], VideoFile._after_key
    monkeypatch.setattr(VideoFile, "_after_key", lambda *args: seeks.append(args[2]) or after_key(*args))
    decode(video, range(0, 40, 4))
    assert seeks == [0]


def test_an_index_outlives_a_second_opening_of_its_file(video):
    """PyAV's entries of an index are memory of the container, which must not be closed before."""
    with VideoFile(video) as file:
        for _ in range(5):
            file._restart()
            assert [entry.is_keyframe for entry in file._index.entries].count(True) == 4
            assert len(file.frames([0, 39])) == 2


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_numbers_of_a_constant_rate_are_replaced_by_the_frames_shown_at_their_times(folder, suffix):
    # 2 s at 5 fps, then 2 s at 50 fps
    times = [200 * number for number in range(10)] + [2000 + 20 * number for number in range(101)]
    path = write_video(folder / f"varies{suffix}", num_frames=111, times=times, options=GROUPS)
    seconds = np.array(times) / 1000
    with VideoFile(path) as file:
        assert file.info.num_frames == 111
        numbers = np.arange(111).reshape(3, 37)
        assert file.info.fps == pytest.approx(110 / 4, rel=0.001)
        shown = file.at_constant_rate(numbers)
        assert shown.shape == (3, 37) and shown[0, 0] == 0 and shown[-1, -1] == 110
        even = numbers * 4 / 110
        nearest = np.abs(seconds - even[..., None]).min(axis=-1)
        assert np.allclose(np.abs(seconds[shown] - even), nearest, atol=0.002)
        assert same(file.frames([0, 110]), read_all(path)[[0, 110]])


@pytest.mark.parametrize("name", ["b_frames", "uneven_times", "matroska", "wrong_times", "no_times", "one_frame"])
def test_numbers_of_a_constant_rate_do_not_change_in_a_file_of_constant_rate(folder, name):
    file_name, arguments = FILES[name]
    path = write_video(folder / file_name, **arguments)
    with VideoFile(path) as file:
        numbers = np.arange(file.info.num_frames)
        assert np.array_equal(file.at_constant_rate(numbers), numbers)


@pytest.mark.parametrize("name", ["b_frames", "matroska", "wrong_times", "no_times"])
def test_check_decodes_every_frame(folder, name, monkeypatch):
    file_name, arguments = FILES[name]
    path = write_video(folder / file_name, **arguments)
    decoded, decode_numbers = [], VideoFile._decode

    def counting(self, numbers):
        for number, frame in decode_numbers(self, numbers):
            decoded.append(number)
            yield number, frame

    monkeypatch.setattr(VideoFile, "_decode", counting)
    with VideoFile(path) as file:
        file.check()
    assert sorted(set(decoded)) == list(range(40))


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
        ("mpeg4", 0, 0, None),  # so few bytes may contain no new frame
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


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip, vflip", [(False, False), (True, False), (False, True), (True, True)])
def test_every_orientation_is_applied(folder, degrees, hflip, vflip):
    arguments = {"num_frames": 2, "codec": "png", "pix_fmt": "rgb24"}
    plain = decode(write_video(folder / "plain.mov", **arguments), [1])
    path = write_video(folder / "oriented.mov", rotation=degrees, hflip=hflip, vflip=vflip, **arguments)
    turned = torch.rot90(plain, degrees // 90, (2, 3))
    turned = turned.flip(3) if hflip else turned
    turned = turned.flip(2) if vflip else turned
    assert torch.equal(decode(path, [1]), turned)
    assert (probe(path).height, probe(path).width) == turned.shape[2:]
    assert decode(path, [1], size=(20, 30)).shape[2:] == (20, 30)


def test_if_pyav_cannot_list_side_data_the_orientation_is_that_of_the_angle():
    class Frame:
        rotation = -89

        @property
        def side_data(self):
            raise ValueError("99 is not a valid Type")

    picture = np.arange(6).reshape(1, 2, 3, 1)
    assert np.array_equal(video_io._orientation(Frame()).turn(picture)[0], np.rot90(picture[0], -1))


def test_rotation_tags_are_applied(folder):
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

    def test_a_url_is_downloaded_once(self, video):
        requests = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args):
                requests.append(args)

        handler = functools.partial(Handler, directory=video.parent)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}"
            assert same(ends(f"{address}/{video.name}"), read_all(video)[[0, -1]])
            assert len(requests) == 1
            with pytest.raises(VideoDecodeError, match="missing.mp4.*404"):
                decode(f"{address}/missing.mp4", [0])
            server.shutdown()

    def test_an_incomplete_download_is_an_error_with_its_url(self, video):
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", "100000000")
                self.end_headers()
                self.wfile.write(video.read_bytes())

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with pytest.raises(VideoDecodeError, match=r"http://127.0.0.1:\d+/a.mp4.*IncompleteRead"):
                probe(f"http://127.0.0.1:{server.server_port}/a.mp4")
            server.shutdown()
        with pytest.raises(VideoDecodeError, match="a b.mp4"):
            probe("http://127.0.0.1:1/a b.mp4")

    def test_a_stream_that_cannot_seek_is_read_once(self, video):
        class Pipe(io.BytesIO):
            def seekable(self):
                return False

            def seek(self, *args):
                raise io.UnsupportedOperation("seek")

        assert same(decode(Pipe(video.read_bytes()), [1, 33]), read_all(video)[[1, 33]])

    def test_a_file_object_is_read_from_its_beginning_and_stays_open(self, video):
        with video.open("rb") as file:
            file.seek(100)
            for _ in range(2):
                assert same(decode(file, [7]), read_all(video)[[7]])
            assert not file.closed

    @pytest.mark.parametrize("name", ["a:b.mp4", "100%d.mp4", "sp ace?#.mp4", "-y.mp4"])
    def test_any_file_name_works(self, folder, video, name, monkeypatch):
        monkeypatch.chdir(folder)
        (folder / name).write_bytes(video.read_bytes())
        assert same(decode(name, [3]), read_all(video)[[3]])

    def test_files_are_closed_again(self, video, folder):
        if not os.path.isdir("/proc/self/fd"):
            pytest.skip("this system has no /proc/self/fd, the list of the files that a process holds open")
        broken = folder / "broken.mp4"
        broken.write_bytes(video.read_bytes()[:2000])
        for _ in range(20):
            decode(video, [3])
            with pytest.raises(VideoDecodeError):
                decode(broken, [3])
        assert not open_files() & {video.resolve(), broken.resolve()}
        with video.open():
            assert video.resolve() in open_files()


class TestErrors:
    def test_unreadable_files_are_named_with_the_cause(self, unreadable):
        for path in unreadable:
            for read in (probe, lambda path: decode(path, [0])):
                with pytest.raises(VideoDecodeError) as error:
                    read(path)
                assert error.value.file == str(path) and str(path) in str(error.value)
                assert error.value.cause and error.value.part

    def test_a_folder_is_not_a_video(self, folder):
        with pytest.raises(VideoDecodeError):
            probe(folder)

    def test_a_frame_beyond_the_end_is_an_error_and_not_another_frame(self, video):
        for first in (36, 38):  # whether or not the last frame is skipped
            with pytest.raises(VideoDecodeError, match=f"frames {first} to 40: ValueError: it has only 40 frames"):
                decode(video, [first, 40])

    @pytest.mark.parametrize("size", [(0, 8), (8, -1)])
    def test_an_impossible_size_is_the_callers_mistake(self, video, size):
        with pytest.raises(ValueError, match="at least one pixel"):
            decode(video, [0], size=size)

    @pytest.mark.parametrize("indices", [[-1], []])
    def test_impossible_indices_are_the_callers_mistake(self, video, indices):
        with pytest.raises(ValueError, match="at least one frame number"):
            decode(video, indices)

    def test_a_closed_file_is_the_callers_mistake(self, video):
        with VideoFile(video) as file:
            pass
        for read in (lambda: file.info, lambda: file.frames([0]), lambda: next(file.iter_frames([0]))):
            with pytest.raises(ValueError, match="video.mp4 is closed; read it inside `with"):
                read()

    def test_an_error_uses_the_given_name(self):
        with pytest.raises(VideoDecodeError, match="^clip 3 of shard 7: cannot read the file"):
            VideoFile(b"not a video", name="clip 3 of shard 7")

    def test_the_error_can_be_pickled(self):
        error = pickle.loads(pickle.dumps(VideoDecodeError("a.mp4", "frames 0 to 9", "truncated")))
        assert str(error) == "a.mp4: cannot read frames 0 to 9: truncated"

    @pytest.mark.parametrize("kind", ["flip", "cut", "splice"])
    def test_damaged_copies_give_frames_or_that_error(self, folder, video, kind, hang_guard):
        files = [video, write_video(folder / "d.mkv"), write_video(folder / "d.avi", codec="mpeg4")]
        files += [write_video(folder / "d.ts", options=GROUPS), write_video(folder / "d.webm", codec="libvpx")]
        generator, outcomes = random.Random(kind), set()
        for _ in range(60):
            data = bytearray(generator.choice(files).read_bytes())
            start = generator.randrange(len(data))
            if kind == "flip":
                for _ in range(20):
                    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            elif kind == "cut":
                del data[start:]
            else:
                del data[start : start + generator.randrange(500)]
            try:
                frames = ends(bytes(data))
                outcomes.add(frames.dtype)
            except VideoDecodeError as error:
                outcomes.add(type(error))
        assert outcomes == {torch.uint8, VideoDecodeError}

    def test_a_codec_that_ffmpeg_does_not_know_is_an_error(self, folder):
        data = write_video(folder / "unknown.mkv").read_bytes()
        assert data.count(b"V_MPEG4/ISO/AVC") == 1
        with pytest.raises(VideoDecodeError, match="does not know the codec"):
            decode(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/AVC"), [0])


class TestIteration:
    def test_frames_equal_decoded_ones_and_repeat_on_request(self, video):
        numbers = [3, 10, 10, 11, 37]
        with VideoFile(video) as file:
            frames = list(file.iter_frames(numbers))
        assert [frame.number for frame in frames] == numbers
        assert torch.equal(torch.stack([frame.frame for frame in frames]), decode(video, numbers))
        assert [frame.seconds for frame in frames] == pytest.approx([number / 30 for number in numbers])

    def test_indices_that_do_not_ascend_are_errors(self, video):
        with VideoFile(video) as file:
            for wrong in ([], [-1, 4]):
                with pytest.raises(ValueError, match="must contain at least one frame number, and none below 0"):
                    next(file.iter_frames(wrong))
            for wrong in ([3, 2], [[1, 2]]):
                with pytest.raises(ValueError, match="must be a list of frame numbers in ascending order"):
                    next(file.iter_frames(wrong))
            with pytest.raises(VideoDecodeError, match="frames 3 to 40"):
                list(file.iter_frames([3, 40]))

    def test_a_wrong_index_does_not_stop_it(self, video, monkeypatch):
        original = VideoFile._from_key

        def breaks(self, index, numbers):
            for position, numbered in enumerate(original(self, index, numbers)):
                if position == 20:
                    raise video_io._UnexpectedFrame("another frame")
                yield numbered

        monkeypatch.setattr(VideoFile, "_from_key", breaks)
        with VideoFile(video) as file:
            frames = list(file.iter_frames(range(38)))
        assert torch.equal(torch.stack([frame.frame for frame in frames]), decode(video, range(38)))

    def test_other_requests_in_the_middle_are_an_error_and_not_other_frames(self, video):
        for disturb in (lambda file: file.frames([30]), lambda file: next(file.iter_frames([1])), VideoFile.close):
            with VideoFile(video) as file:
                frames = file.iter_frames(range(40))
                next(frames)
                disturb(file)
                with pytest.raises(VideoDecodeError, match="closed or used for another request during"):
                    next(frames)


class TestRealFiles:
    """Odd and broken files of other projects, with a table of the number of frames of a full decode."""

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

    # Decoding the large ones from beginning to end takes a minute.
    @pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["small", "large"])
    def test_frames_of_odd_files_equal_a_full_decode(self, robustness_files, large):
        checked, generator = 0, random.Random(0)
        for path, num_frames, row in robustness_files:
            pixels = num_frames * int(row["width"] or 0) * int(row["height"] or 0)
            if num_frames == 0 or path.name in ENCRYPTED or (pixels > 3e8) != large:
                continue
            assert probe(path).num_frames == num_frames, path
            numbers = [0, num_frames - 1, num_frames // 2, *generator.choices(range(num_frames), k=3)]
            expected = read_some(path, set(numbers))
            for number in numbers:
                assert same(decode(path, [number]), expected[number][None]), (path, number)
            assert same(decode(path, numbers), np.stack([expected[number] for number in numbers])), path
            with VideoFile(path) as file:
                for number in numbers:
                    assert same(file.frames([number]), expected[number][None]), (path, number, "of an open file")
            checked += 1
        assert checked > (2 if large else 70)
