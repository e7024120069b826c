"""FID: only with its own network, whose files are checked, and which gets the images as it wants them."""

import hashlib
import sys
import types

import pytest
import torch

from vadd.errors import ConfigError, DataError, DomainError
from vadd.metrics import InceptionFeatures, frechet_distance, image_distances, inception, to_uint8


class Pooling(torch.nn.Module):
    """Stands in for the network: mean of each channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        return images.double().mean((2, 3))


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """A file that passes for the weights, and a torchmetrics whose network is a stand-in."""
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, path)
    monkeypatch.setattr(inception, "_SHA256_START", hashlib.sha256(path.read_bytes()).hexdigest()[:8])

    class Metric:
        def __init__(self, feature: int, feature_extractor_weights_path: str) -> None:
            assert (feature, feature_extractor_weights_path) == (2048, str(path))
            self.inception = Pooling()

    fid = types.SimpleNamespace(FrechetInceptionDistance=Metric)
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", fid)
    return path


def test_channels_reach_the_network_in_their_places(weights):
    images = torch.randint(256, (5, 4, 3, 3), dtype=torch.uint8)
    network = InceptionFeatures((4, 3, 3), 256, weights=weights, batch_size=2)
    features = network.features(images.flatten(1))
    assert torch.allclose(features, images.double().mean((1, 2)))


def test_no_more_images_than_a_batch_are_made_at_once(monkeypatch, weights):
    made = []
    monkeypatch.setattr(
        inception, "to_uint8", lambda tokens, *sizes: made.append(len(tokens)) or to_uint8(tokens, *sizes)
    )
    InceptionFeatures((2, 2), 3, weights=weights, batch_size=4).features(torch.randint(3, (10, 4)))
    assert made == [4, 4, 2]


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1)])
def test_grey_is_shown_as_colour_from_black_to_white(weights, shape):
    tokens = torch.tensor([[0] * 12, [16] * 12, [8] * 12])
    features = InceptionFeatures(shape, 17, weights=weights).features(tokens)
    assert features.tolist() == [[0] * 3, [255] * 3, [128] * 3]


def test_its_distances_are_called_fid_and_kid(weights):
    a, b = (torch.randint(256, (num, 12), dtype=torch.uint8) for num in (9, 8))
    network = InceptionFeatures((2, 2, 3), 256, weights=weights)
    found = image_distances(network, a, b).as_dict()
    assert list(found) == ["FID", "KID"]
    assert found["FID"] == frechet_distance(network.features(a), network.features(b))


def test_missing_weights_are_named_with_their_address(monkeypatch, weights, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(DataError, match=r"no file .*hub.checkpoints.weights-inception.*download https://.*weights="):
        InceptionFeatures((8, 8), 2)


def test_other_weights_are_refused(weights):
    weights.write_bytes(b"other")
    with pytest.raises(DataError, match="does not hold the weights of the FID's network"):
        InceptionFeatures((8, 8), 2, weights=weights)


def test_a_file_that_could_execute_something_is_refused(monkeypatch, weights):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("executed",)

    torch.save(Trap(), weights)
    monkeypatch.setattr(inception, "_SHA256_START", hashlib.sha256(weights.read_bytes()).hexdigest()[:8])
    with pytest.raises(DataError, match="cannot be read"):
        InceptionFeatures((8, 8), 2, weights=weights)


@pytest.mark.parametrize("package", ["torch_fidelity", "torchmetrics.image.fid"])
def test_missing_packages_name_the_remedy(monkeypatch, weights, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"pip install 'vadd\[metrics\]'"):
        InceptionFeatures((8, 8), 2, weights=weights)


def test_images_and_sizes_that_do_not_fit_are_an_error(weights):
    for options in ({"image_shape": (8, 8, 2)}, {"image_shape": (8,)}, {"image_shape": (8, 8), "batch_size": 0}):
        with pytest.raises(ConfigError, match="expected images of shape"):
            InceptionFeatures(num_levels=2, weights=weights, **options)
    with pytest.raises(DomainError):
        InceptionFeatures((2, 2), 2, weights=weights).features(torch.full((3, 4), 2))


@pytest.mark.slow
def test_the_real_network_makes_2048_features(monkeypatch, tmp_path):
    """With random weights: those of the FID are in no package."""
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    pytest.importorskip("torchmetrics")
    made = {}
    original = extractor.FeatureExtractorInceptionV3.load_state_dict
    monkeypatch.setattr(extractor, "load_state_dict_from_url", lambda *a, **k: None)
    monkeypatch.setattr(
        extractor.FeatureExtractorInceptionV3, "load_state_dict", lambda self, s: made.update(self.state_dict())
    )
    extractor.FeatureExtractorInceptionV3("x", ["2048"])
    monkeypatch.setattr(extractor.FeatureExtractorInceptionV3, "load_state_dict", original)
    path = tmp_path / "random.pth"
    torch.save(made, path)
    monkeypatch.setattr(inception, "_SHA256_START", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    network = InceptionFeatures((8, 8), 17, weights=path, batch_size=2)
    features = network.features(torch.randint(17, (3, 64)))
    assert features.shape == (3, 2048)
    assert not features.requires_grad
