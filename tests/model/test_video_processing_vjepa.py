"""The video processor: from any kind of video to the inputs of the model."""

import io
import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoVideoProcessor
from transformers.image_utils import PILImageResampling
from transformers.video_utils import VideoMetadata

from video_files import picture, read_all, write_image, write_video
from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.data.videos import decode_video
from vjepa_hf.model.tubelets import to_tubelets
from vjepa_hf.model.video_io import VideoDecodeError

pandas = pytest.importorskip("pandas")  # which `datasets` brings

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """70 frames of 48 x 64."""
    return write_video(tmp_path_factory.mktemp("videos") / "video.mp4", num_frames=70, options={"g": "12"})


@pytest.fixture(scope="module")
def frames(video):
    return read_all(video)


@pytest.fixture
def processor():
    """Crops of 32 x 32; keeps the other defaults: 16 frames, step 4, one clip."""
    return VJEPAVideoProcessor(crop_size=32)


@pytest.fixture
def plain():
    """Samples frames and does not change their pixels."""
    return VJEPAVideoProcessor(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)


def chosen(output, frames) -> list[int]:
    """Return the numbers of the frames of a plain clip, by comparison with all frames."""
    clip = output["pixel_values_videos"][0].permute(0, 2, 3, 1).numpy()
    return [int(np.flatnonzero((frames == frame).all(axis=(1, 2, 3)))[0]) for frame in clip]


class TestInputs:
    def test_every_kind_of_file_gives_the_same_clip(self, processor, video):
        expected = processor(str(video))["pixel_values_videos"]
        assert expected.shape == (1, 16, 3, 32, 32) and expected.dtype == torch.float32
        data = video.read_bytes()
        for source in (video, video.as_uri(), data, io.BytesIO(data)):
            assert torch.equal(processor(source)["pixel_values_videos"], expected)

    def test_every_kind_of_array_gives_the_clip_of_the_file(self, processor, video, frames):
        expected = processor(video)["pixel_values_videos"]
        tensor = torch.from_numpy(frames)
        images = [Image.fromarray(frame) for frame in frames]
        for array in (frames, tensor, tensor.permute(0, 3, 1, 2), frames.transpose(0, 3, 1, 2), images, list(frames)):
            assert torch.equal(processor(array)["pixel_values_videos"], expected)

    def test_lists_are_batches(self, processor, video, frames):
        images = [Image.fromarray(frame) for frame in frames]
        one = processor(video)["pixel_values_videos"]
        for batch in ([video, video], [frames, frames], np.stack([frames] * 2), [images, images], [video, frames]):
            assert torch.equal(processor(batch)["pixel_values_videos"], torch.cat([one, one]))

    def test_an_image_is_a_still_clip(self, processor, frames):
        image = Image.fromarray(frames[3])
        still = processor(image)["pixel_values_videos"]
        assert still.shape == (1, 16, 3, 32, 32)
        assert (still == still[:, :1]).all()
        for same in (frames[3], frames[3:4], torch.from_numpy(frames[3]), [image], [[image]]):
            assert torch.equal(processor(same)["pixel_values_videos"], still)
        assert torch.equal(processor(image, short_video="error")["pixel_values_videos"], still)
        assert processor([[image], [image]])["pixel_values_videos"].shape == (2, 16, 3, 32, 32)

    def test_gray_and_palette_images_become_rgb(self, processor):
        for mode in ("L", "P", "RGBA"):
            image = Image.new(mode, (40, 40))
            assert processor(image)["pixel_values_videos"].shape == (1, 16, 3, 32, 32)

    def test_arrays_with_alpha_or_gray_give_the_clip_of_the_images(self, processor, frames):
        rgba = np.concatenate([frames, frames[..., :1]], axis=-1)[:20]
        kinds = {"RGBA": rgba, "gray with an axis": rgba[..., :1], "gray": rgba[..., 0]}
        for kind, array in kinds.items():
            expected = processor([Image.fromarray(frame.squeeze()) for frame in array])["pixel_values_videos"]
            tensor = torch.from_numpy(array)
            same = [array, tensor, list(array), list(tensor), array[::-1][::-1], array.astype(np.int32)]
            same += [tensor.movedim(-1, 1)] if array.ndim == 4 else []
            for video in same:
                assert torch.equal(processor(video)["pixel_values_videos"], expected), kind
            batch = processor([array, array])["pixel_values_videos"]
            assert torch.equal(batch, torch.cat([expected, expected])), kind

    @pytest.mark.parametrize("mode", ["I;16", "I", "F"])
    def test_images_of_more_than_8_bits_are_errors(self, processor, mode):
        with pytest.raises(ValueError, match=f"mode {mode} has more than 8 bits"):
            processor([Image.new(mode, (40, 40))])

    def test_rows_and_columns_of_datasets_give_the_clip_of_the_file(self, processor, video):
        expected = processor(str(video))["pixel_values_videos"]
        paths = datasets.Dataset.from_dict({"video": [str(video)] * 2})
        media = paths.cast_column("video", datasets.Video(decode=False))
        content = datasets.Dataset.from_dict({"video": [video.read_bytes()] * 2})
        for table in (paths, media, content):
            assert torch.equal(processor(table[0]["video"])["pixel_values_videos"], expected)
            for column in (table["video"], table["video"][:], tuple(table["video"])):
                assert torch.equal(processor(column)["pixel_values_videos"], torch.cat([expected, expected]))
        for several in (np.array([str(video)] * 2), pandas.Series([str(video)] * 2)):
            assert len(processor(several)["pixel_values_videos"]) == 2
        row = {"bytes": video.read_bytes(), "path": "a.mp4"}
        assert torch.equal(processor([row])["pixel_values_videos"], expected)

    def test_a_folder_of_frames_is_a_video(self, plain, tmp_path):
        for number in range(20):
            write_image(tmp_path / f"{number}.png", number)
        clip = plain(str(tmp_path), num_frames=4)["pixel_values_videos"][0]
        assert torch.equal(clip, decode_video(str(tmp_path), [3, 7, 11, 15]).float())

    @pytest.mark.parametrize("num_channels", [1, 2, 4, 12])
    def test_the_number_of_channels_is_that_of_the_means(self, num_channels):
        processor = VJEPAVideoProcessor(
            crop_size=16, image_mean=[0.5] * num_channels, image_std=[0.25] * num_channels, return_tubelets=True
        )
        video = np.random.default_rng(0).integers(0, 256, (16, 20, 24, num_channels), dtype=np.uint8)
        output = processor(video)
        assert output["pixel_values_videos"].shape == (1, 16, num_channels, 16, 16)
        assert output["tubelets"].shape == (1, 8, num_channels * 2 * 16 * 16)

    def test_an_ambiguous_layout_can_be_specified(self, plain):
        video = np.random.default_rng(0).integers(0, 256, (16, 3, 5, 3), dtype=np.uint8)
        assert plain(video)["pixel_values_videos"].shape == (1, 16, 3, 5, 3)
        assert plain(video, input_data_format="channels_last")["pixel_values_videos"].shape == (1, 16, 3, 3, 5)


class TestFrames:
    def test_the_clip_is_the_middle_of_the_video_at_the_step(self, plain, video, frames):
        assert chosen(plain(video), frames) == list(range(4, 65, 4))

    def test_arguments_of_the_call_override_settings(self, plain, video, frames):
        assert chosen(plain(video, num_frames=3, frame_step=10), frames) == [24, 34, 44]

    def test_fps_replaces_the_step(self, plain, video, frames):
        assert chosen(plain(video, num_frames=3, fps=3), frames) == [24, 34, 44]
        assert chosen(
            plain(frames, num_frames=3, fps=3, video_metadata={"total_num_frames": 70, "fps": 30}), frames
        ) == [
            24,
            34,
            44,
        ]

    def test_fps_gives_clips_of_equal_duration_if_the_frame_rate_varies(self, plain, tmp_path):
        times = [200 * number for number in range(20)] + [4000 + 20 * number for number in range(200)]
        path = write_video(tmp_path / "varies.mp4", num_frames=220, times=times, options={"qp": "0"})
        every = read_all(path)
        for clip in plain(path, fps=5, num_frames=8, num_clips=4)["pixel_values_videos"][0]:
            shown = chosen({"pixel_values_videos": [clip]}, every)
            assert times[shown[-1]] - times[shown[0]] == pytest.approx(1400, abs=240)

    @pytest.mark.parametrize(
        "short_video, expected", [("repeat_last", [0, 30, 60, 69, 69]), ("wrap", [0, 30, 60, 20, 50])]
    )
    def test_short_videos_follow_the_policy(self, plain, video, frames, short_video, expected):
        output = plain(video, num_frames=5, frame_step=30, short_video=short_video)
        assert chosen(output, frames) == expected
        with pytest.raises(
            ValueError, match="the video has 70 frames but a clip of num_frames=5 at frame_step=30 spans 121"
        ):
            plain(video, num_frames=5, frame_step=30, short_video="error")

    def test_several_clips_have_an_axis_of_their_own(self, processor, plain, video, frames):
        assert processor(video, num_clips=3)["pixel_values_videos"].shape == (1, 3, 16, 3, 32, 32)
        clips = plain(video, num_clips=2, num_frames=4)["pixel_values_videos"][0]
        for clip, start in zip(clips, (0, 57), strict=True):
            assert chosen({"pixel_values_videos": clip[None]}, frames) == [start + 4 * number for number in range(4)]

    def test_an_array_of_as_many_frames_as_a_clip_is_the_clip(self, plain, frames):
        assert chosen(plain(frames[:16]), frames) == list(range(16))
        assert plain(frames[:16], num_clips=2)["pixel_values_videos"].shape == (1, 2, 16, 3, 48, 64)

    def test_sampling_can_be_disabled(self, plain, video, frames):
        assert chosen(plain(video, do_sample_frames=False), frames) == list(range(70))
        assert chosen(plain(frames[:7], do_sample_frames=False), frames) == list(range(7))

    def test_metadata_has_the_frame_numbers(self, processor, video):
        (metadata,) = processor(video, return_metadata=True, num_frames=2)["video_metadata"]
        assert (metadata.total_num_frames, metadata.fps, metadata.height, metadata.width) == (70, 30, 48, 64)
        assert metadata.frames_indices.tolist() == [32, 36]


class TestPixels:
    @pytest.mark.parametrize("case", ["land120", "land240", "port160", "square40"])
    def test_opencv_equals_the_reference_evaluation_transform_and_the_default_to_a_gray_level(self, shared, case):
        tensors = load_file(shared / "fixtures/data/transforms.safetensors")
        settings = json.loads((shared / "fixtures/data/transforms.json").read_text())["eval"][f"{case}.views1"]
        processor = VJEPAVideoProcessor(crop_size=settings["crop_size"], do_sample_frames=False)
        expected = tensors[f"eval.{case}.views1.view0"].transpose(0, 1)
        exact = processor(tensors[f"eval.{case}.input"], resample="opencv")["pixel_values_videos"][0]
        assert torch.equal(exact, expected)
        default = processor(tensors[f"eval.{case}.input"])["pixel_values_videos"][0]
        levels = ((default - expected) * STD[:, None, None] * 255).abs()
        assert 0.99 < levels.max() < 1.01 and levels.mean() < 0.35  # noise, where rounding shows most

    def test_antialias_differs_from_it(self, processor, frames):
        assert not torch.equal(
            processor(frames)["pixel_values_videos"], processor(frames, antialias=True)["pixel_values_videos"]
        )

    @pytest.mark.parametrize("resample", [PILImageResampling.BILINEAR, "opencv"])
    def test_resizing_is_bilinear_to_within_a_gray_level(self, resample):
        video = torch.randint(0, 256, (2, 3, 37, 53), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        plain = {"do_sample_frames": False, "do_rescale": False, "do_normalize": False, "resample": resample}
        for size in ((20, 24), (37, 53), (80, 61), (1, 200)):
            output = VJEPAVideoProcessor(size=size, **plain)(video)["pixel_values_videos"][0]
            expected = torch.nn.functional.interpolate(video.float(), size, mode="bilinear")
            assert (output - expected).abs().max() < 1

    def test_settings_that_opencv_does_not_support_are_errors(self, processor, frames):
        with pytest.raises(ValueError, match="resample='opencv' takes uint8 pixels, not torch.float32"):
            processor(frames.astype(np.float32), resample="opencv")
        with pytest.raises(ValueError, match="resample='opencv' does not smooth"):
            processor(frames, resample="opencv", antialias=True)

    def test_float_pixels_are_treated_alike(self, processor, frames):
        assert torch.allclose(
            processor(frames.astype(np.float32))["pixel_values_videos"],
            processor(frames)["pixel_values_videos"],
            atol=1.01 / 255 / 0.224,
        )

    def test_normalization_is_the_stated_one(self, frames):
        processor = VJEPAVideoProcessor(do_resize=False, do_center_crop=False, num_frames=70)
        expected = (torch.from_numpy(frames) / 255 - MEAN) / STD
        assert torch.allclose(processor(frames)["pixel_values_videos"][0], expected.permute(0, 3, 1, 2), atol=1e-6)

    @pytest.mark.parametrize("resample", [PILImageResampling.BICUBIC, PILImageResampling.NEAREST, 2])
    def test_other_filters_work(self, processor, frames, resample):
        assert processor(frames, resample=resample)["pixel_values_videos"].shape == (1, 16, 3, 32, 32)


class TestSizes:
    @pytest.mark.parametrize(
        "arguments, expected",
        [
            ({}, (224, 224)),
            ({"crop_size": 32}, (32, 32)),
            ({"crop_size": (32, 48)}, (32, 48)),
            ({"crop_size": (48, 32)}, (48, 32)),
            ({"crop_size": (16, 96)}, (16, 96)),
            ({"crop_size": {"height": 20, "width": 24}}, (20, 24)),
            ({"size": 40}, (40, 40)),
            ({"size": {"shortest_edge": 40}}, (40, 40)),
            ({"size": (40, 30)}, (40, 30)),
            ({"size": 40, "crop_size": 32}, (32, 32)),
            ({"size": 40, "do_center_crop": False}, (40, 53)),
            ({"do_resize": False, "do_center_crop": False}, (48, 64)),
        ],
    )
    def test_sizes_are_respected(self, video, arguments, expected):
        assert VJEPAVideoProcessor(**arguments)(video)["pixel_values_videos"].shape[-2:] == expected

    def test_the_crop_leaves_the_reference_margin(self, frames):
        output = VJEPAVideoProcessor(crop_size=224, do_center_crop=False)(frames)
        assert output["pixel_values_videos"].shape[-2:] == (256, 341)

    def test_a_crop_that_does_not_fit_is_an_error_and_not_padding(self, video):
        with pytest.raises(ValueError, match="crop_size=.*64.* larger than the frames, which are 50 x 66"):
            VJEPAVideoProcessor(size=50, crop_size=64)(video)


class TestCrops:
    def test_crops_are_views_that_cover_the_frame(self, plain, frames):
        cut = {"num_crops": 3, "crop_size": 48, "do_center_crop": True}
        views = plain(frames[:16], **cut)["pixel_values_videos"][0]
        assert views.shape == (3, 16, 3, 48, 48)
        whole = torch.from_numpy(frames[:16]).permute(0, 3, 1, 2)
        for view, left in zip(views, (0, 8, 16), strict=True):
            assert torch.equal(view, whole[..., left : left + 48].float())
        turned = plain(frames[:16].swapaxes(1, 2), **cut)["pixel_values_videos"][0]
        assert torch.equal(turned, views.swapaxes(-1, -2))

    def test_all_clips_of_a_crop_come_before_the_next_crop(self, processor, video):
        views = processor(video, num_clips=2, num_crops=3)["pixel_values_videos"]
        assert views.shape == (1, 6, 16, 3, 32, 32)
        whole = VJEPAVideoProcessor(size=32, do_center_crop=False, num_clips=2)(video)["pixel_values_videos"][0]
        assert torch.equal(views[0, :2], whole[..., :32]) and torch.equal(views[0, 4:], whole[..., -32:])

    def test_smaller_crops_are_in_the_middle_of_the_shorter_side(self, plain, frames):
        cut = {"num_crops": 2, "crop_size": 32, "do_center_crop": True}
        views = plain(frames[:16], **cut)["pixel_values_videos"][0]
        whole = torch.from_numpy(frames[:16]).permute(0, 3, 1, 2).float()
        assert torch.equal(views[0], whole[..., 8:40, :32]) and torch.equal(views[1], whole[..., 8:40, 32:])

    @pytest.mark.parametrize("wrong", [{"num_crops": 0}, {"num_crops": 2, "do_center_crop": False}])
    def test_crops_without_a_crop_are_an_error(self, processor, video, wrong):
        with pytest.raises(ValueError, match="num_crops=.* must be (from 1 to|1 without do_center_crop)"):
            processor(video, **wrong)


class TestTubelets:
    def test_tubelets_are_those_of_the_clip(self, processor, video):
        output = processor(video, return_tubelets=True, tubelet_size=4, patch_size=8)
        assert torch.equal(output["tubelets"], to_tubelets(output["pixel_values_videos"], 4, 8))
        assert output["tubelets"].shape == (1, 4 * 4 * 4, 3 * 4 * 8 * 8)

    def test_several_clips_have_tubelets_each(self, processor, video):
        output = processor([video, video], return_tubelets=True, num_clips=3)
        assert output["tubelets"].shape == (2, 3, 8 * 2 * 2, 1536)
        assert torch.equal(output["tubelets"][1, 2], to_tubelets(output["pixel_values_videos"][1], 2, 16)[2])

    def test_they_are_returned_only_on_request(self, processor, video):
        assert set(processor(video)) == {"pixel_values_videos"}

    def test_a_clip_that_is_not_a_multiple_of_the_tubelet_is_an_error(self, processor, video):
        with pytest.raises(ValueError, match="num_frames=15"):
            processor(video, num_frames=15, return_tubelets=True)


class TestSaving:
    def test_a_saved_processor_loads_with_every_setting(self, tmp_path):
        settings = {
            "crop_size": {"height": 48, "width": 80},
            "num_frames": 8,
            "frame_step": 2,
            "num_clips": 2,
            "num_crops": 3,
            "short_video": "wrap",
            "antialias": True,
            "return_tubelets": True,
            "tubelet_size": 4,
            "patch_size": 8,
            "image_mean": [0.1, 0.2, 0.3],
            "resample": "opencv",
        }
        saved = VJEPAVideoProcessor(**settings)
        saved.save_pretrained(tmp_path)
        loaded = VJEPAVideoProcessor.from_pretrained(tmp_path)
        assert loaded.to_dict() == saved.to_dict()
        assert settings.items() <= {**loaded.to_dict(), "image_mean": list(loaded.image_mean)}.items()
        assert VJEPAVideoProcessor.from_pretrained(tmp_path, num_clips=5).num_clips == 5
        assert isinstance(AutoVideoProcessor.from_pretrained(tmp_path), VJEPAVideoProcessor)

    def test_the_size_follows_the_crop_of_a_saved_processor(self, tmp_path, frames):
        VJEPAVideoProcessor(crop_size=112).save_pretrained(tmp_path)
        loaded = VJEPAVideoProcessor.from_pretrained(tmp_path, crop_size=64)
        assert loaded(frames, do_center_crop=False)["pixel_values_videos"].shape[-2:] == (73, 97)

    def test_numpy_and_lists_can_be_returned(self, processor, video):
        assert isinstance(processor(video, return_tensors="np")["pixel_values_videos"], np.ndarray)
        assert isinstance(processor(video, return_tensors=None)["pixel_values_videos"], list)


class TestValueRange:
    @pytest.mark.parametrize("settings", [{}, {"do_rescale": False}])
    @pytest.mark.parametrize("black, white", [(-1, 1), (0, 1), (0, 255)])
    def test_a_stated_range_gives_the_clip_of_8_bits(self, processor, frames, black, white, settings):
        array = (frames / 255 * (white - black) + black).astype(np.float32)
        expected = processor(frames.astype(np.float32))["pixel_values_videos"]
        for video in (array, torch.from_numpy(array), list(array)):
            clip = processor(video, value_range=(black, white), **settings)["pixel_values_videos"]
            assert torch.allclose(clip, expected, atol=1e-4)

    @pytest.mark.parametrize("settings", [{}, {"do_rescale": False}])
    @pytest.mark.parametrize(
        "values, seen",
        [((-1, 1), "from -1 to 1"), ((-2.1, 2.6), "from -2.1 to 2.6"), ((-0.2, 0.3), "from -0.2 to 0.3")],
    )
    def test_values_below_black_are_an_error_that_says_what_was_seen(self, processor, frames, values, seen, settings):
        array = np.interp(frames, (frames.min(), frames.max()), values)
        with pytest.raises(ValueError, match=rf"values {seen}, but black is 0 .* value_range=\(-1, 1\)"):
            processor(array, **settings)

    def test_the_range_is_that_of_the_video_and_not_of_a_clip(self, processor, frames):
        array = frames / 255.0
        array[0] = -1  # a frame that is not in the clip
        with pytest.raises(ValueError, match="from -1 to 1, but black is 0"):
            processor(array)

    def test_values_beyond_the_stated_range_are_an_error(self, processor, frames):
        with pytest.raises(ValueError, match=r"values from 0 to 255, beyond value_range=\(-1, 1\)"):
            processor(frames.astype(np.float32), value_range=(-1, 1))
        with pytest.raises(ValueError, match=r"value_range=\(1, -1\) must be the values of black and of white"):
            processor(frames, value_range=(1, -1))

    def test_other_sensors_may_have_any_values(self, frames):
        radar = VJEPAVideoProcessor(crop_size=32, image_mean=[-12.0], image_std=[5.0], do_rescale=False)
        assert radar(-(frames[..., :1].astype(np.float32)))["pixel_values_videos"].min() < -40

    def test_it_is_saved(self, tmp_path, frames):
        VJEPAVideoProcessor(crop_size=32, value_range=(-1, 1)).save_pretrained(tmp_path)
        loaded = VJEPAVideoProcessor.from_pretrained(tmp_path)
        assert list(loaded.value_range) == [-1, 1]
        assert loaded(frames / 127.5 - 1)["pixel_values_videos"].abs().max() < 3


class TestErrors:
    @pytest.mark.parametrize("nothing", [None, [], 7, np.zeros(3)])
    def test_what_is_not_a_video_is_refused(self, processor, nothing):
        with pytest.raises(ValueError, match="is not a path, URL"):
            processor(nothing)

    def test_an_unreadable_file_is_named(self, processor, tmp_path):
        with pytest.raises(VideoDecodeError, match="missing.mp4"):
            processor(tmp_path / "missing.mp4")

    def test_unknown_arguments_are_refused(self, processor, video):
        with pytest.raises(TypeError, match="frame_stride"):
            processor(video, frame_stride=4)

    def test_unknown_frame_rates_are_not_guessed(self, processor, frames):
        with pytest.raises(ValueError, match="fps=4"):
            processor(frames, fps=4)

    def test_a_wrong_number_of_channels_is_explained(self, processor):
        with pytest.raises(ValueError, match="no axis of 3 channels"):
            processor(np.zeros((16, 20, 20, 5), dtype=np.uint8))

    def test_pixels_that_are_rescaled_already_are_an_error(self, processor, frames):
        with pytest.raises(ValueError, match="do_rescale=False"):
            processor(frames / 255)
        assert processor(frames / 255, do_rescale=False)["pixel_values_videos"].abs().max() < 3

    def test_every_video_needs_metadata(self, processor, frames):
        with pytest.raises(ValueError, match="1 entries for 2 videos"):
            processor([frames, frames], video_metadata=[{"total_num_frames": 70}])


def test_pictures_of_the_test_pattern_differ(frames):
    """`chosen` would prove nothing on frames that are equal."""
    assert len({frame.tobytes() for frame in frames}) == len(frames) == 70
    assert not np.array_equal(picture(0, 8, 8), picture(0, 8, 8)[::-1])


def test_sample_frames_may_be_called_as_that_of_the_base_class():
    processor = VJEPAVideoProcessor(num_frames=4, frame_step=2)
    metadata = VideoMetadata(total_num_frames=100, fps=20)
    assert processor.sample_frames(metadata).tolist() == [46, 48, 50, 52]
    assert processor.sample_frames(metadata, num_frames=2).tolist() == [48, 50]
    assert processor.sample_frames(metadata, num_frames=2, fps=5).tolist() == [47, 51]
    processor.fps = 5
    expected = processor.sample_frames(metadata, fps=5)
    assert processor.sample_frames(metadata).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("wrong", "right"), [("frame_steps", "frame_step"), ("num_clip", "num_clips"), ("crop_sizes", "crop_size")]
)
def test_a_misspelt_setting_is_an_error_and_what_others_add_is_kept(wrong, right, tmp_path):
    message = f"unknown setting {wrong}=2 in VJEPAVideoProcessor; did you mean {right}?"
    with pytest.raises(ValueError, match=message):
        VJEPAVideoProcessor(**{wrong: 2})
    VJEPAVideoProcessor(notes="videos of a lab").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        VJEPAVideoProcessor.from_pretrained(tmp_path, **{wrong: 2})
    assert VJEPAVideoProcessor.from_pretrained(tmp_path).notes == "videos of a lab"


def test_a_saved_processor_does_not_refer_to_code_of_others(tmp_path):
    processor = VJEPAVideoProcessor(auto_map={"AutoVideoProcessor": "owner/repo--file.Class"})
    processor.save_pretrained(tmp_path)
    assert "auto_map" not in (tmp_path / "video_preprocessor_config.json").read_text()


IMPOSSIBLE = {
    "num_frames": [10**9, 0, -3],
    "num_clips": [10**9],
    "num_crops": [10**9],
    "crop_size": [10**9, {"height": 10**6, "width": 8}],
    "size": [10**9, {"shortest_edge": 10**6}],
}


@pytest.mark.parametrize("name, value", [(name, value) for name in IMPOSSIBLE for value in IMPOSSIBLE[name]])
def test_an_impossible_length_is_an_error_before_anything_is_read(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name}=.* must be from 1 to "):
        VJEPAVideoProcessor(**{name: value})
    VJEPAVideoProcessor().save_pretrained(tmp_path)
    file = tmp_path / "video_preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=f"{name}=.* must be from 1 to "):
        VJEPAVideoProcessor.from_pretrained(tmp_path)


def test_too_many_pixels_are_an_error_before_anything_is_read():
    with pytest.raises(ValueError, match="give 6553600000 pixels per video; at most 4294967296 are allowed"):
        VJEPAVideoProcessor(num_frames=1000, num_clips=100, crop_size=256)
    with pytest.raises(ValueError, match="num_clips=1000000 must be from 1 to 65536"):
        VJEPAVideoProcessor()("missing.mp4", num_clips=10**6)
