"""Files in the layout of Meta's code, of a tiny model."""

import pytest
import torch

from meta_files import pretraining_content, probe_content


@pytest.fixture
def content(tiny_config) -> dict:
    return pretraining_content(tiny_config)


@pytest.fixture
def checkpoint(content, tmp_path):
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    return tmp_path / "checkpoint.pth.tar"


@pytest.fixture
def probe(tiny_config, tmp_path):
    tiny_config.num_labels = 5
    torch.save(probe_content(tiny_config), tmp_path / "probe.pth.tar")
    return tmp_path / "probe.pth.tar"
