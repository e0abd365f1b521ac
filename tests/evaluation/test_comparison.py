"""Two sets of videos are compared by one feature per video, whatever holds the videos, and mistakes write nothing.

pytest tests/evaluation/test_comparison.py
"""

import json
import logging
import os
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import save_file
from typer.testing import CliRunner

from tiny_models import seeded
from video_files import read_all, write_image, write_video
from vjepa_hf import VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.cli import app
from vjepa_hf.conversion.meta import POOLER_PROJECTION
from vjepa_hf.evaluation import comparison, shards
from vjepa_hf.evaluation.comparison import compare_videos, load_set_encoder, write_comparison
from vjepa_hf.evaluation.distance import VideoSetDistance
from vjepa_hf.model.video_io import VideoDecodeError

SUMS = ("jedi", "jedi_unbiased", "floor", "similarity")


@pytest.fixture(scope="module")
def sets(toy_videos) -> tuple[list[str], list[str]]:
    paths = [str(path) for path in sorted(toy_videos.rglob("*.mp4"))]
    return paths[:7], paths[7:12]


@pytest.fixture
def probe_folder(tiny_classifier, tmp_path) -> Path:
    """Return the folder of a classifier, as examples/probe.py writes it."""
    folder = tmp_path / "probe"
    with torch.no_grad():
        tiny_classifier.pooler.query_tokens += 1  # the initial query is zero
    tiny_classifier.save_pretrained(folder)
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2).save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(probe_folder):
    return load_set_encoder(probe_folder, batch_size=2)


def clip_of(path: str, processor: VJEPAVideoProcessor) -> torch.Tensor:
    frames = read_all(path)
    return processor(frames[[0, 5, 10, 15]])["pixel_values_videos"]  # 4 frames from the first to the last of 16


# --- features ---


@pytest.mark.parametrize("features", ["pooler", "mean"])
def test_a_feature_is_the_pooled_output_for_frames_spread_over_the_video(probe_folder, sets, features):
    encoder = load_set_encoder(probe_folder, features, batch_size=2)
    ((vectors, failures),) = encoder.encode(sets[0][:2])
    classifier = VJEPAForVideoClassification.from_pretrained(probe_folder)
    processor = VJEPAVideoProcessor.from_pretrained(probe_folder)
    with torch.no_grad():
        tokens = classifier.vjepa(torch.cat([clip_of(path, processor) for path in sets[0][:2]])).last_hidden_state
        expected = classifier.pooler(tokens) if features == "pooler" else tokens.mean(dim=1)
    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-5)
    assert failures == [] and vectors.dtype == np.float32


def test_a_pooler_of_several_layers_gives_the_vector_that_its_classifier_reads(tiny_config, sets, tmp_path):
    tiny_config.num_labels, tiny_config.pooler_layers = 3, [0, 1]
    classifier = seeded(VJEPAForVideoClassification, tiny_config)
    torch.nn.init.normal_(classifier.pooler.query_tokens)
    classifier.save_pretrained(tmp_path / "probe")
    processor = VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2)
    processor.save_pretrained(tmp_path / "probe")
    encoder = load_set_encoder(tmp_path / "probe")
    (streamed, _), *_ = encoder.encode(sets[0][:2])
    ((_, cached),) = encoder.moments(sets[0][:2], tmp_path / "features").batches()
    with torch.no_grad():
        logits = classifier(torch.cat([clip_of(path, processor) for path in sets[0][:2]])).logits
        for vectors in (streamed, np.asarray(cached).reshape(2, -1)):
            torch.testing.assert_close(classifier.classifier(torch.from_numpy(vectors)), logits, atol=1e-5, rtol=0)


def test_a_stored_projection_changes_the_pooler_and_its_fingerprint(probe_folder, sets):
    plain = load_set_encoder(probe_folder)
    assert plain.settings == load_set_encoder(probe_folder, "pooler").settings
    save_file({"weight": torch.full((48, 48), 0.1), "bias": torch.ones(48)}, probe_folder / POOLER_PROJECTION)
    projected, trained = (load_set_encoder(probe_folder, features) for features in ("pooler", "trained_pooler"))
    vectors = [next(encoder.encode(sets[0][:2]))[0] for encoder in (plain, trained, projected)]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[2] - vectors[1]).max() > 0.1
    assert projected.settings["pooler"] != trained.settings["pooler"] == plain.settings["pooler"]
    assert not projected.is_published  # only the released ViT-H/16 is


def test_a_step_takes_frames_around_the_middle(probe_folder, sets):
    encoder = load_set_encoder(probe_folder, frame_step=2)
    processor = VJEPAVideoProcessor.from_pretrained(probe_folder)
    torch.testing.assert_close(encoder.clips(sets[0][0], 0), processor(sets[0][0])["pixel_values_videos"])
    assert "at step 2" in str(encoder.clips) and encoder.clips.settings["frame_step"] == 2


def test_a_video_shorter_than_a_clip_repeats_frames_and_an_image_is_refused(encoder, tmp_path):
    clip = encoder.clips(str(write_video(tmp_path / "short.mp4", num_frames=2)), 0)[0]
    assert torch.equal(clip[0], clip[1]) and torch.equal(clip[2], clip[3]) and not torch.equal(clip[1], clip[2])
    for video in (
        str(write_image(tmp_path / "image.png", 3)),
        np.zeros((1, 40, 40, 3), np.uint8),
        np.zeros((0, 40, 40, 3)),
    ):
        with pytest.raises(VideoDecodeError, match="it has (1|no) frame, so it is not a video"):
            encoder.clips(video, 0)


# --- the comparison ---


def test_the_result_is_the_distance_of_the_features_and_says_where_it_is_from(encoder, sets, tmp_path):
    result = compare_videos(encoder, sets[0], sets[1], tmp_path / "features")
    distance = VideoSetDistance()
    for name, videos in zip(("real", "generated"), sets, strict=True):
        for features, _ in encoder.encode(videos):
            distance.update(**{name: features})
    expected = distance.compute()
    for name in SUMS:
        assert result[name] == pytest.approx(expected[name], rel=1e-5), name
    assert (result["num_real"], result["num_generated"]) == (7, 5)
    assert result["settings"].keys() == {*"features published_setting encoder pooler clips precision".split()}
    assert "CC BY-NC 4.0" in result["license"] and "x from -x" in result["blind_spot"]


def test_the_result_does_not_depend_on_how_sets_are_held(encoder, sets, tmp_path):
    expected = compare_videos(encoder, *sets)
    folder = tmp_path / "real"
    folder.mkdir()
    for path in sets[0]:
        shutil.copy(path, folder / f"{Path(path).parent.name}_{Path(path).name}")
    table = Dataset.from_dict({"video": [Path(path).read_bytes() for path in sets[1]]})
    arrays = [np.stack([read_all(path) for path in videos]) for videos in sets]
    for real, generated in (
        (folder, table),
        (Dataset.from_dict({"clip": sets[0]}).rename_column("clip", "video").to_iterable_dataset(), iter(sets[1])),
        (arrays[0], arrays[1].transpose(0, 1, 4, 2, 3)),
        (torch.from_numpy(arrays[0]), list(arrays[1])),
    ):
        result = compare_videos(encoder, real, generated)
        for name in SUMS:
            # Reading an RGB array and a file differ by nothing; batches differ in the last bits.
            assert result[name] == pytest.approx(expected[name], rel=1e-4), (name, type(real))


@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1), (0, 255)])
def test_float_arrays_in_a_named_range_are_the_uint8_ones(probe_folder, sets, value_range):
    frames = read_all(sets[0][0])
    low, high = value_range
    encoder = load_set_encoder(probe_folder, value_range=value_range)
    scaled = (low + frames / 255 * (high - low)).astype(np.float32)
    scaled.setflags(write=False)  # as a memory-mapped file
    torch.testing.assert_close(encoder.clips(scaled, 0), encoder.clips(frames, 0), atol=2e-2, rtol=0)
    with pytest.raises(ValueError, match=r"values from .* are not in value_range"):
        encoder.clips(scaled * 3 - 1, 0)
    with pytest.raises(ValueError, match="arrays of torch.float32 need a value_range"):
        load_set_encoder(probe_folder).clips(scaled, 0)


def test_unreadable_videos_are_excluded_and_named(encoder, sets, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    write_video(tmp_path / "one.mp4", num_frames=1)
    with_broken = [*sets[0][:3], str(tmp_path / "broken.mp4"), *sets[0][3:], str(tmp_path / "one.mp4")]
    expected = compare_videos(encoder, *sets, tmp_path / "a")
    for folder in (tmp_path / "b", None):
        result = compare_videos(encoder, with_broken, sets[1], folder)
        assert result["jedi"] == pytest.approx(expected["jedi"], rel=1e-5) and result["num_real"] == 7
        assert ["broken.mp4" in result["unreadable_real"][0], "1 frame" in result["unreadable_real"][1]] == [True] * 2
        assert result["unreadable_generated"] == []


def test_a_comparison_that_was_killed_resumes_and_is_equal(encoder, sets, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    expected = compare_videos(encoder, *sets, tmp_path / "whole")
    clips, read = type(encoder.clips), []

    def until_killed(self, video, row, limit=5, call=clips.__call__):
        if len(read) == limit:
            raise KeyboardInterrupt
        read.append(video)
        return call(self, video, row)

    with monkeypatch.context() as patch:
        patch.setattr(clips, "__call__", until_killed)
        with pytest.raises(KeyboardInterrupt):
            write_comparison(encoder, sets[0], {"generated": sets[1]}, tmp_path / "result.json")
    assert not (tmp_path / "result.json").exists()
    read.clear()
    with monkeypatch.context() as patch:
        patch.setattr(clips, "__call__", lambda *words: until_killed(*words, limit=99))
        result = write_comparison(encoder, sets[0], {"generated": sets[1]}, tmp_path / "result.json")
    assert len(read) == 12 - 4  # two shards of two videos were complete
    assert result["generators"]["generated"] == expected == json.loads((tmp_path / "result.json").read_text())
    assert not (tmp_path / "result.features").exists()


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_number_of_processes(run_example, probe_folder, toy_videos, tmp_path):
    results = []
    for processes in (1, 2, 4):
        output = tmp_path / f"{processes}.json"
        command = ["accelerate", "launch", "--num_processes", processes, "--cpu", "-m", "vjepa_hf.cli", "compare"]
        sources = [toy_videos / "train", toy_videos / "test", "-o", output, "--model", probe_folder]
        run_example(*command, *sources, "--num_workers", 0)
        results.append(json.loads(output.read_text()))
    for result in results[1:]:
        assert result.keys() == results[0].keys() and result["settings"] == results[0]["settings"]
        for name in SUMS:
            assert result[name] == pytest.approx(results[0][name], rel=1e-9), name


def test_the_state_of_the_process_does_not_change(encoder, sets, tmp_path):
    def state():
        handlers = {name: len(logging.getLogger(name).handlers) for name in (None, "transformers", "vjepa_hf")}
        return [
            torch.get_rng_state().tolist(),
            np.random.get_state(legacy=False)["state"]["pos"],
            (logging.root.level, handlers),
            (os.getcwd(), sorted(os.environ.items()), torch.is_grad_enabled()),
            torch.distributed.is_initialized(),
        ]

    before = state()
    compare_videos(encoder, *sets, tmp_path / "features")
    compare_videos(encoder, *sets)
    assert state() == before and not torch.distributed.is_initialized()


# --- statistics of the real set ---


def test_statistics_of_the_real_set_are_reused_without_reading_its_videos(encoder, sets, tmp_path, monkeypatch):
    broken = [*sets[0], str(tmp_path / "missing.mp4")]
    stats = tmp_path / "real.safetensors"
    first = compare_videos(encoder, broken, sets[1], tmp_path / "a", real_stats=stats)
    clips = type(encoder.clips)
    call = clips.__call__

    def only_generated(self, video, row):
        assert video in sets[1]
        return call(self, video, row)

    monkeypatch.setattr(clips, "__call__", only_generated)
    assert compare_videos(encoder, broken, sets[1], tmp_path / "b", real_stats=stats) == first


def test_statistics_of_other_settings_videos_or_changed_files_are_refused(probe_folder, sets, tmp_path):
    stats = tmp_path / "real.safetensors"
    copies = [shutil.copy(path, tmp_path / f"{row}.mp4") for row, path in enumerate(sets[0])]
    encoder = load_set_encoder(probe_folder)
    compare_videos(encoder, copies, sets[1], real_stats=stats)
    for options, difference in (
        ({"features": "mean"}, 'features is "pooler" instead of "mean"'),
        ({"frame_step": 2}, 'frame_step is "over the video" instead of 2'),
    ):
        with pytest.raises(ValueError, match=f"real.safetensors has features of other settings: .*{difference}"):
            compare_videos(load_set_encoder(probe_folder, **options), copies, sets[1], real_stats=stats)
    with pytest.raises(ValueError, match="was made from other videos"):
        compare_videos(encoder, copies[1:], sets[1], real_stats=stats)
    with pytest.raises(ValueError, match="of listed videos, not of a stream"):
        compare_videos(encoder, iter(copies), sets[1], real_stats=stats)
    shutil.copy(sets[1][0], copies[2])
    with pytest.raises(ValueError, match=r"2.mp4 was changed after .*real.safetensors was written"):
        compare_videos(encoder, copies, sets[1], real_stats=stats)


# --- the command, and mistakes ---


def run(*words, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["compare", *map(str, words), "--num_workers", "0"])
    assert result.exit_code == exit_code, result.output
    return result.output


def test_the_command_writes_the_result_and_prints_settings_and_warnings(probe_folder, toy_videos, tmp_path):
    output = run(toy_videos / "train", toy_videos / "test", "-o", tmp_path / "r.json", "--model", probe_folder)
    result = json.loads((tmp_path / "r.json").read_text())
    assert "4 frames of 32 x 32 pixels, spread over the video" in output and f"{result['jedi']:.4f}" in output
    assert "below twice the floor" in output and "CC BY-NC" in output and "16 real and 8 generated" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["probe", "r.json"]


def write_copies(folder: Path, source: str, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        shutil.copy(source, folder / f"{number}.mp4")
    return folder


def broken_set(folder: Path, source: str) -> Path:
    write_copies(folder, source, 1)
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder


def still_set(folder: Path, source: str) -> Path:
    folder.mkdir()
    for number in range(3):
        write_video(folder / f"{number}.mp4", num_frames=1)
    return folder


BAD_SETS = {
    "one video": (lambda f, s: write_copies(f, s, 1), "1 {} videos are too few: a set needs at least 2"),
    "one readable": (broken_set, "1 of 2 {} videos can be read, and a set needs at least 2: .*broken.mp4"),
    "one frame": (still_set, "0 of 3 {} videos can be read.*it has 1 frame"),
    "equal files": (lambda f, s: write_copies(f, s, 4), "the features of all 4 {} videos are equal"),
    "nowhere": (lambda f, s: f, "does not exist"),
}


@pytest.mark.parametrize("side", ["real", "generated"])
@pytest.mark.parametrize("kind", BAD_SETS)
def test_a_set_that_cannot_be_compared_is_one_sentence_and_nothing_is_written(
    probe_folder, toy_videos, sets, tmp_path, kind, side
):
    make, message = BAD_SETS[kind]
    bad = make(tmp_path / "bad", sets[0][0])
    before = sorted(tmp_path.rglob("*"))
    good = toy_videos / "test"
    words = [bad, good] if side == "real" else [good, bad]
    *_, line = run(*words, "-o", tmp_path / "r.json", "--model", probe_folder, exit_code=2).splitlines()
    program, _ = line.split(": ", 1)  # whatever runs the tests
    assert " " not in program and re.search(message.format(side), line), line
    assert sorted(tmp_path.rglob("*")) == before


def test_other_mistakes_are_one_sentence_and_nothing_is_written(
    probe_folder, tiny_model, toy_videos, tmp_path, monkeypatch
):
    encoder_folder, wrong = tmp_path / "encoder", tmp_path / "wrong"
    tiny_model.save_pretrained(encoder_folder)
    VJEPAVideoProcessor(crop_size=32, num_frames=4).save_pretrained(encoder_folder)
    shutil.copytree(probe_folder, wrong)
    VJEPAVideoProcessor(crop_size=32, num_frames=8).save_pretrained(wrong)
    headless = tmp_path / "headless"
    shutil.copytree(encoder_folder, headless)
    config = json.loads((headless / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps(config | {"architectures": ["VJEPAForVideoClassification"]}))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"cut off")
    before = sorted(tmp_path.rglob("*"))
    good = [toy_videos / "train", toy_videos / "test", "-o", tmp_path / "r.json", "--model"]
    for words, message in (
        ([*good, encoder_folder], "has no attentive pooler: train one with `python examples/probe.py --model"),
        ([*good, headless], "has no attentive pooler"),
        ([*good, wrong], "makes clips of 8 frames of 32 x 32 pixels, but the model is configured for 4 of 32 x 32"),
        ([*good, probe_folder, "--features", "max"], "features='max' must be one of pooler, trained_pooler, mean"),
        ([*good, probe_folder, "--real_stats", damaged], "damaged.safetensors is not a complete file of statistics"),
        ([*good, tmp_path / "nowhere"], "nowhere"),
        ([good[0], good[0], *good[2:], probe_folder], "the same set was given twice"),
        (
            [good[0], good[0], "-o", tmp_path / "new" / "r.json", "--model", probe_folder],
            "the same set was given twice",
        ),
        ([*good[:3], damaged / "r.json", "--model", probe_folder], "damaged.safetensors"),
    ):
        *_, line = run(*words, exit_code=2).splitlines()
        assert re.search(message, line), (message, line)
        assert sorted(tmp_path.rglob("*")) == before, message


def test_features_that_are_constant_or_not_finite_are_errors_that_name_a_video(encoder, sets, tmp_path):
    with torch.no_grad():
        encoder.pooler.cross_attention_layer.mlp.fc2.bias.fill_(float("nan"))
    for folder, name in ((None, "readable video 0"), (tmp_path / "f", Path(sets[0][0]).name)):
        with pytest.raises(ValueError, match=f"{name} are not finite"):
            compare_videos(encoder, *sets, folder)
    with torch.no_grad():
        encoder.pooler.cross_attention_layer.mlp.fc2.bias.fill_(1.0)
        for layer in (encoder.pooler.cross_attention_layer.mlp.fc2, encoder.pooler.cross_attention_layer.attention.kv):
            layer.weight.zero_()
    with pytest.raises(ValueError, match="the features of all 7 real videos are equal"):
        compare_videos(encoder, *sets)


def test_sources_of_another_kind_are_errors(encoder, sets):
    with pytest.raises(ValueError, match="an array of videos has 5 axes, .* not 4"):
        comparison.as_videos(np.zeros((4, 8, 8, 3)))
    with pytest.raises(ValueError, match="folder, list, table, stream or array, not int"):
        compare_videos(encoder, 3, sets[1])


def test_several_generators_are_ranked_and_shown_on_one_page(probe_folder, toy_videos, sets, tmp_path):
    noise = tmp_path / "noise"
    noise.mkdir()
    for row, path in enumerate(sets[0]):
        rewrite(
            path,
            noise / f"{row}.mp4",
            lambda f, row=row: np.random.default_rng(row).integers(0, 256, f.shape, "uint8"),
        )
    words = [toy_videos / "train", toy_videos / "test", noise, "-o", tmp_path / "r.json", "--model", probe_folder]
    output = run(*words, "--page", tmp_path / "page.html")
    result = json.loads((tmp_path / "r.json").read_text())
    assert list(result["generators"]) == ["test", "noise"]
    (pair,) = result["pairs"]
    assert (pair["first"], pair["second"]) == ("test", "noise") and pair["p_value"] < 0.05
    assert "test is closer than noise" in output
    values = result["generators"]["noise"]
    assert len(values["worst"]) == 7 and sum(record["contribution"] for record in values["worst"]) == pytest.approx(
        values["jedi"], rel=1e-4
    )
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4 * (8 + 7) and page.count("<circle") == 2
    assert re.findall(r'(?:src|href)="?(?!"?data:)', page) == [] and "CC BY-NC" in page
    assert "given twice" in run(*words[:2], words[1], *words[3:], exit_code=2)


def test_names_of_generators_differ():
    assert comparison.generated_names(["a/x", "b/y.csv"]) == ["x", "y"]
    assert comparison.generated_names(["a/x", "b/x/"]) == ["1 x", "2 x"]
    assert comparison.generated_names(["a/real"]) == ["1 real"]


def test_code_on_the_page_runs(probe_folder, sets, repo):
    page = repo / "docs" / "compare.md"
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
    assert program.count("assert") >= 4
    exec(compile(program, page, "exec"), {"folder": probe_folder, "videos": sets[0]})


# --- videos with a difference ---


def rewrite(path: str, target: Path, change) -> str:
    """Write a lossless video of the changed frames (T, H, W, C)."""
    frames = change(read_all(path))
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264rgb", rate=12, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return str(target)


def test_videos_of_noise_are_far_from_real_ones_and_a_second_real_half_is_not(encoder, toy_videos, tmp_path):
    paths = [str(path) for path in sorted(toy_videos.rglob("*.mp4"))]
    noise = [
        rewrite(
            path,
            tmp_path / f"{row}.mp4",
            lambda f, row=row: np.random.default_rng(row).integers(0, 256, f.shape, "uint8"),
        )
        for row, path in enumerate(paths[12:])
    ]
    second_half = compare_videos(encoder, paths[:12], paths[12:])
    far = compare_videos(encoder, paths[:12], noise)
    assert far["jedi"] > 2 * far["floor"] and far["warnings"] == []
    assert far["jedi"] > 2 * second_half["jedi"] and second_half["warnings"] != []
