"""The image classifier: it learns, is reproducible, comes back from its files, and names its distances honestly."""

import json

import jaxtyping
import pytest
import torch

from vadd.data import load_digits_tokens
from vadd.errors import CheckpointError, ConfigError, DomainError, DtypeError, ShapeError
from vadd.metrics import (
    ImageClassifier,
    ImageFeatures,
    frechet_distance,
    image_distances,
    kernel_distance,
    load_image_classifier,
    save_image_classifier,
    train_image_classifier,
)

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def digits():
    return load_digits_tokens()


@pytest.fixture(scope="module")
def classifier(digits):
    return train_image_classifier(digits.train, digits.train_labels, (8, 8), 17, seed=0, epochs=4, width=8)


def stripes(num: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour images of which one channel, the label, is bright."""
    labels = torch.arange(num) % 3
    images = torch.randint(100, (num, 5, 6, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    images[torch.arange(num), :, :, labels] += 100
    return images.flatten(1), labels


def test_recognizes_heldout_digits(classifier, digits):
    assert classifier.accuracy(digits.heldout, digits.heldout_labels) >= 0.9
    assert not classifier.training


def test_learns_colours_from_bytes():
    tokens, labels = stripes()
    trained = train_image_classifier(
        tokens, labels, (5, 6, 3), 256, seed=0, epochs=12, width=8, num_classes=3, batch_size=16, mirrored=True
    )
    assert trained.accuracy(*stripes(seed=1)) == 1
    assert torch.equal(trained(tokens), trained(tokens.long()))


def test_features_are_the_input_of_the_head(classifier, digits):
    features = classifier.features(digits.heldout)
    assert features.shape == (360, 128)
    assert torch.allclose(classifier.head(features), classifier(digits.heldout), atol=1e-5)


def test_training_depends_on_its_seed_alone(digits):
    def train(seed: int) -> torch.Tensor:
        trained = train_image_classifier(
            digits.train[:100], digits.train_labels[:100], (8, 8), 17, seed=seed, epochs=1, width=8, mirrored=True
        )
        return trained.features(digits.heldout[:20])

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = train(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(train(0), first)
    assert not torch.equal(train(1), first)


def test_training_for_a_time_takes_that_time(digits, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("vadd.metrics.image_classifier.time.monotonic", lambda: 6.0 * next(clock))
    lengths = []
    forward = ImageClassifier.forward

    def counting(self, tokens):
        lengths.append(len(tokens))
        return forward(self, tokens)

    monkeypatch.setattr(ImageClassifier, "forward", counting)
    train_image_classifier(
        digits.train[:40], digits.train_labels[:40], (8, 8), 17, seed=0, minutes=0.5, width=8, batch_size=20
    )
    assert lengths == [20] * 4  # at 6, 12, 18 and 24 of 30 seconds


def test_its_distances_are_not_called_fid(classifier, digits):
    assert isinstance(classifier, ImageFeatures)
    found = image_distances(classifier, digits.train[:100], digits.heldout[:90])
    a, b = classifier.features(digits.train[:100]), classifier.features(digits.heldout[:90])
    assert found.as_dict() == {
        "Fréchet distance in classifier features": frechet_distance(a, b),
        "kernel distance in classifier features": kernel_distance(a, b),
    }
    assert "(90 images against 100)" in str(found)


def test_a_network_without_names_is_an_error(monkeypatch, digits):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError, match="frechet_name"):
        image_distances(torch.nn.Identity(), digits.train, digits.heldout)


def test_comes_back_from_its_files(classifier, digits, tmp_path):
    folder = save_image_classifier(classifier, tmp_path / "new", notes={"accuracy": 0.9})
    again, notes = load_image_classifier(folder)
    assert notes == {"accuracy": 0.9}
    assert torch.equal(again.features(digits.heldout), classifier.features(digits.heldout))
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert sorted(path.name for path in folder.iterdir()) == ["classifier.json", "classifier.safetensors"]


def test_damaged_files_are_an_error(classifier, tmp_path):
    folder = save_image_classifier(classifier, tmp_path)
    header, weights = folder / "classifier.json", folder / "classifier.safetensors"
    text, content = header.read_text(), weights.read_bytes()
    for changed in ("{", "[]", text.replace('"width": 8', '"width": 16'), text.replace('"width": 8', '"width": 7')):
        header.write_text(changed)
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_image_classifier(folder)
    header.write_text(json.dumps({**json.loads(text), "format_version": 2}))
    with pytest.raises(CheckpointError, match="format version 2, expected 1"):
        load_image_classifier(folder)
    header.write_text(text)
    weights.write_bytes(content[:-1] + b"x")
    with pytest.raises(CheckpointError, match="damaged or belongs to another"):
        load_image_classifier(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="classifier.safetensors is missing"):
        load_image_classifier(folder)
    with pytest.raises(CheckpointError, match="classifier.json is missing"):
        load_image_classifier(tmp_path / "no")


def test_what_cannot_be_stored_is_an_error_and_leaves_nothing(classifier, tmp_path):
    with pytest.raises(CheckpointError, match="cannot write"):
        save_image_classifier(classifier, tmp_path, notes={"accuracy": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        save_image_classifier(classifier, tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epochs": None}, ConfigError, "one of the two"),
        ({"minutes": 1.0}, ConfigError, "one of the two"),
        ({"epochs": 0}, ConfigError, "at least 1"),
        ({"epochs": None, "minutes": 0.0}, ConfigError, "above 0"),
        ({"batch_size": 0}, ConfigError, "batch_size"),
        ({"learning_rate": 0.0}, ConfigError, "learning_rate"),
        ({"num_classes": 2}, DomainError, "from 0 to 2"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ShapeError, "labels must have shape"),
        ({"tokens": torch.zeros(64, 90)}, DtypeError, "integers"),
        ({"image_shape": (5, 6)}, ShapeError, r"\(num, 30\)"),
        ({"num_levels": 100}, DomainError, "levels"),
        ({"width": 12}, ConfigError, "that 8 divides"),
    ],
)
def test_bad_training_input_is_an_error(monkeypatch, change, error, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    tokens, labels = stripes()
    options = {"tokens": tokens, "labels": labels, "image_shape": (5, 6, 3), "num_levels": 256, "seed": 0, "epochs": 1}
    with pytest.raises(error, match=message):
        train_image_classifier(**{**options, "num_classes": 3, **change})


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (8,), (8, 8, 0)])
def test_meaningless_sizes_are_an_error(monkeypatch, shape):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError, match="image_shape"):
        ImageClassifier(shape, 2)
