"""A table of vectors is read in batches and standardized, and damage or another file is an error.

pytest tests/evaluation/test_vector_table.py
"""

import numpy as np
import pytest
from datasets import Dataset

from vector_tables import write_table
from vjepa_hf.evaluation.vector_table import VectorTable


def test_standardized_features_have_mean_0_and_equal_weight(tmp_path):
    vectors = np.random.default_rng(0).normal(loc=[50, 0, 1], scale=[10, 1, 0.1], size=(5000, 3)).astype(np.float32)
    table = write_table(tmp_path / "table.parquet", vectors, clips=1)
    assert len(table) == 5000 and [len(batch) for batch, _ in table.batches(2000)] == [2000, 2000, 1000]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in table.batches()]), vectors)
    standardized = table.standardize(vectors)
    np.testing.assert_allclose(np.linalg.norm(standardized, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(standardized.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.square(standardized).mean(axis=0), 1 / 3, atol=0.02)


def test_a_damaged_table_is_an_error(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    table = write_table(tmp_path / "table.parquet", vectors, clips=1)
    content = bytearray(table.path.read_bytes())
    position = content.find(vectors[50].tobytes())
    content[position : position + 4] = bytes(4)
    table.path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        list(VectorTable(table.path).batches())


def test_only_a_table_of_vectors_is_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        VectorTable(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(ValueError, match="damaged, or not a parquet file"):
        VectorTable(tmp_path / "text.parquet")
    Dataset.from_dict({"a": [1]}).to_parquet(str(tmp_path / "other.parquet"))
    with pytest.raises(ValueError, match="not a table of vectors"):
        VectorTable(tmp_path / "other.parquet")
