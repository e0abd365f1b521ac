"""Principal components separate different features, with colors that stay the same over time.

pytest tests/visualization/test_pca.py
"""

import numpy as np
import pytest
import torch

from vjepa_hf.visualization.pca import feature_pca, plot_pca


@pytest.fixture
def scene():
    """Features (6, 5, 5, 16) of two shapes that move over a ground, with noise, and where the shapes are."""
    generator = torch.Generator().manual_seed(0)
    ground, disk, square = torch.randn(3, 16, generator=generator)
    features = ground + 0.1 * torch.randn(6, 5, 5, 16, generator=generator)
    shapes = torch.zeros(6, 5, 5, dtype=torch.long)
    for step in range(6):
        shapes[step, step % 5, 1] = 1
        shapes[step, 3, 4 - step % 5] = 2
    for number, shape in ((1, disk), (2, square)):
        features[shapes == number] += shape - ground
    return features, shapes.numpy()


def test_the_first_component_separates_shapes_from_the_ground_and_the_second_the_shapes(scene):
    features, shapes = scene
    projections = feature_pca(features).projections
    bright = projections[..., 0] > (projections[..., 0].min() + projections[..., 0].max()) / 2
    assert (bright & (shapes > 0)).sum() / (bright | (shapes > 0)).sum() >= 0.5
    first, second = projections[shapes == 1][:, :2], projections[shapes == 2][:, :2]
    assert np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)) > 5 * first.std(axis=0).max()


def test_noise_does_not_separate_them(scene):
    """The test above can fail."""
    features, shapes = scene
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    projections = feature_pca(noise).projections[..., 0]
    bright = projections > (projections.min() + projections.max()) / 2
    assert (bright & (shapes > 0)).sum() / (bright | (shapes > 0)).sum() < 0.5


def test_a_feature_has_one_color_at_every_time_and_place(scene):
    features, shapes = scene
    features[shapes == 1] = features[shapes == 1][0].clone()
    colors = feature_pca(features).colors[shapes == 1]
    assert len(colors) == 5 and len(np.unique(colors, axis=0)) == 1


def test_signs_do_not_depend_on_the_solver(scene):
    """Both signs of a component are eigenvectors; the mirrored features would get the other one."""
    features, _ = scene
    values = feature_pca(features).projections
    np.testing.assert_allclose(abs(feature_pca(-features).projections), abs(values), atol=1e-3)
    assert ((values**3).sum(axis=(0, 1, 2)) >= 0).all()


def test_variance_is_that_of_the_projections(scene):
    features, _ = scene
    pca = feature_pca(features, num_components=16)
    assert pca.variance_ratios.sum() == pytest.approx(1)
    assert (np.diff(pca.variance_ratios) <= 0).all()
    variances = pca.projections.reshape(-1, 16).var(axis=0)
    np.testing.assert_allclose(variances / variances.sum(), pca.variance_ratios, atol=1e-5)


def test_constant_features_keep_no_variance():
    pca = feature_pca(torch.ones(2, 3, 3, 8))
    assert pca.variance_ratios.tolist() == [0, 0, 0] and (pca.colors == pca.colors[0, 0, 0]).all()


def test_wrong_features_are_named():
    with pytest.raises(ValueError, match=r"features of shape \(2, 3, 8\) must be \(n, h, w, D\)"):
        feature_pca(torch.ones(2, 3, 8))
    with pytest.raises(ValueError, match="contain nan or inf"):
        feature_pca(torch.full((2, 3, 3, 8), torch.nan))


def test_components_are_drawn_below_the_frames(scene):
    figure = plot_pca(np.zeros((6, 8, 8, 3), np.uint8), feature_pca(scene[0]), num_columns=3)
    assert len(figure.axes) == 6 and figure.axes[3].get_ylabel().startswith("PCA (")
