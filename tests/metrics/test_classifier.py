"""The digit classifier: good enough to have meaningful features, and reproducible."""

import jaxtyping
import pytest
import torch

from vadd.data import load_digits_tokens
from vadd.errors import ConfigError, DomainError, ShapeError
from vadd.metrics import DigitClassifier, frechet_distance, prdc, train_digit_classifier


@pytest.fixture(scope="module")
def digits():
    return load_digits_tokens()


@pytest.fixture(scope="module")
def classifier(digits):
    return train_digit_classifier(digits.train, digits.train_labels)


def test_recognizes_heldout_digits(classifier, digits):
    assert classifier.accuracy(digits.heldout, digits.heldout_labels) >= 0.96


def test_accuracy_is_the_share_of_right_guesses(classifier, digits):
    guesses = classifier(digits.heldout).argmax(-1)
    labels = guesses.clone()
    labels[:90] = (labels[:90] + 1) % 10
    assert classifier.accuracy(digits.heldout, labels) == 0.75


def test_features_are_the_input_of_the_head(classifier, digits):
    features = classifier.features(digits.heldout)
    assert features.shape == (360, 64)
    assert not features.requires_grad
    assert torch.allclose(classifier.head(features), classifier(digits.heldout), atol=1e-5)


def test_features_order_sets_by_their_damage(classifier, digits):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(17, digits.heldout.shape, generator=generator)
    uniform = torch.rand(digits.heldout.shape, generator=generator)
    real = classifier.features(digits.train)
    scores = [
        frechet_distance(real, classifier.features(torch.where(uniform < share, noise, digits.heldout)))
        for share in (0.0, 0.1, 0.3, 1.0)
    ]
    assert scores == sorted(scores)
    assert scores[3] > 10 * scores[0]
    fresh = prdc(classifier.features(digits.train[:360]), classifier.features(digits.heldout))
    assert min(fresh.precision, fresh.recall) > 0.8


def test_training_depends_on_its_seed_alone(digits):
    def train(seed: int) -> torch.Tensor:
        trained = train_digit_classifier(digits.train[:200], digits.train_labels[:200], num_epochs=1, seed=seed)
        return trained.features(digits.heldout)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = train(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(train(0), first)
    assert not torch.equal(train(1), first)


def test_other_sizes_levels_and_classes():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, (40, 28 * 20), generator=generator)
    labels = torch.arange(40) % 3
    trained = train_digit_classifier(tokens, labels, image_shape=(28, 20), num_levels=2, num_classes=3, num_epochs=1)
    assert trained(tokens).shape == (40, 3)
    assert not trained.training


def test_images_of_another_kind_are_an_error(classifier):
    with pytest.raises(ShapeError, match="8x8"):
        classifier.features(torch.zeros(2, 63, dtype=torch.int64))
    with pytest.raises(DomainError, match="from 0 to 17"):
        classifier.features(torch.arange(18).repeat(1, 4)[:, :64])


def test_labels_that_do_not_fit_are_an_error(monkeypatch, digits):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ShapeError, match="labels"):
        train_digit_classifier(digits.train, digits.heldout_labels)
    with pytest.raises(DomainError, match="labels"):
        train_digit_classifier(digits.train, digits.train_labels + 1)


def test_meaningless_numbers_of_training_are_an_error(digits):
    for options in ({"num_epochs": 0}, {"num_epochs": True}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} must be an integer of at least 1"):
            train_digit_classifier(digits.train, digits.train_labels, **options)


def test_meaningless_sizes_are_an_error():
    with pytest.raises(ConfigError, match="4x4"):
        DigitClassifier(image_shape=(3, 8))
