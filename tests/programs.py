"""The environment of the programs that tests launch."""

import os
from pathlib import Path


def cpu_environment(hf_home: Path) -> dict[str, str]:
    """The variables of a launched program: no GPU, no network, no settings of the person who runs the tests."""
    return os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(hf_home),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
