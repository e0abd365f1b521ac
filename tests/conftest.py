"""What every test may ask for: tiny models, toy videos, a launcher of examples, the folder of real videos.

Nothing here touches the network or needs a GPU; tests with the marker `cuda` are skipped without one.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

# The same examples in every run: a test that fails for somebody fails for everybody.
hypothesis.settings.register_profile("vjepa_hf", derandomize=True, deadline=None, max_examples=50, database=None)
hypothesis.settings.load_profile("vjepa_hf")

# Before huggingface_hub is imported: a test that reaches for the network must fail at once, here and everywhere.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402

from house import REPO, SHARED  # noqa: E402
from programs import cpu_environment  # noqa: E402


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests that need a GPU where there is none."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(scope="session", autouse=True)
def one_thread_each():
    """Tests run side by side, one core each: more threads would only make them wait for one another."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real videos and reference numbers that stands beside a checkout; not part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference material at {SHARED}; set VJEPA_SHARED to where it is")
    return SHARED


@pytest.fixture
def tiny_config():
    """4 frames of 32 x 32 in tubelets of 2 x 8 x 8: a grid of 2 x 4 x 4, N = 32 tokens of width D = 48."""
    from vjepa_hf import VJEPAConfig

    return VJEPAConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        tubelet_size=2,
        num_frames=4,
        pred_hidden_size=24,
        pred_num_hidden_layers=2,
    )


@pytest.fixture(scope="session")
def tiny_models():
    """Class -> the model of that class, made once in a session; never handed out but as a copy."""
    return {}


def _copy_of(models, name, config):
    import vjepa_hf
    from tiny_models import seeded

    if name not in models:
        models[name] = seeded(getattr(vjepa_hf, name), copy.deepcopy(config))
    return copy.deepcopy(models[name])


@pytest.fixture
def tiny_model(tiny_models, tiny_config):
    return _copy_of(tiny_models, "VJEPAModel", tiny_config)


@pytest.fixture
def tiny_pretraining_model(tiny_models, tiny_config):
    return _copy_of(tiny_models, "VJEPAForPreTraining", tiny_config)


@pytest.fixture
def tiny_classifier(tiny_models, tiny_config):
    tiny_config.num_labels = 3
    return _copy_of(tiny_models, "VJEPAForVideoClassification", tiny_config)


@pytest.fixture
def tiny_clip() -> torch.Tensor:
    """Two clips of noise for the tiny models, (B, T, C, H, W) = (2, 4, 3, 32, 32)."""
    return torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def toy_videos(tmp_path_factory) -> Path:
    """A few clips of the toy set: real H.264 files with labels, made once in a session."""
    from make_toy_videos import make_toy_videos

    folder = tmp_path_factory.mktemp("toy_videos")
    make_toy_videos(folder, num_train=16, num_test=8, seed=0, size=32)
    return folder


@pytest.fixture(scope="session")
def lists(toy_videos, tmp_path_factory) -> list[Path]:
    """A training and a test list with two classes that both have: so few toy videos miss some motions."""
    folder = tmp_path_factory.mktemp("lists")
    for split in ("train", "test"):
        paths = sorted((toy_videos / split).glob("*.mp4"))
        rows = [f"{path},{('left', 'right')[number % 2]}" for number, path in enumerate(paths)]
        (folder / f"{split}.csv").write_text("\n".join(["video,side", *rows]) + "\n")
    return [folder / "train.csv", folder / "test.csv"]


@pytest.fixture(scope="session")
def toy_video_path(toy_videos) -> Path:
    return sorted(toy_videos.rglob("*.mp4"))[0]


@pytest.fixture(scope="session")
def run_example(tmp_path_factory):
    """Runs a command line as a user would, from the repository root, on one CPU thread, with an empty HF home."""
    home = tmp_path_factory.mktemp("hf_home")

    def run(*command, expect_failure: bool = False, timeout: float = 300, **env: str) -> subprocess.CompletedProcess:
        program, *arguments = map(str, command)
        result = subprocess.run(
            [str(Path(sys.executable).parent / program), *arguments],
            cwd=REPO,
            env=cpu_environment(home) | env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        shown = f"$ {' '.join(map(str, command))}\n{result.stdout[-4000:]}\n{result.stderr[-8000:]}"
        assert (result.returncode != 0) == expect_failure, shown
        return result

    return run
