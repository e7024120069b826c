"""The digits: what is loaded, and that the split is fixed, disjoint and balanced."""

import sys

import pytest
import torch

from vadd.data import load_digits_tokens
from vadd.errors import ConfigError, DataError


def test_loads_all_digits_as_tokens():
    digits = load_digits_tokens()
    assert digits.train.shape == (1437, 64)
    assert digits.heldout.shape == (360, 64)
    for tokens in (digits.train, digits.heldout):
        assert tokens.dtype == torch.int64
        assert int(tokens.min()) == 0
        assert int(tokens.max()) == digits.num_levels - 1


def test_parts_together_are_the_original_images_with_their_labels():
    from sklearn.datasets import load_digits

    digits = load_digits_tokens()
    images = torch.cat([digits.train, digits.heldout])
    labels = torch.cat([digits.train_labels, digits.heldout_labels])
    ours = torch.cat([images, labels[:, None]], -1)
    pixels, targets = (torch.as_tensor(part).long() for part in load_digits(return_X_y=True))
    theirs = torch.cat([pixels, targets[:, None]], -1)
    assert sorted(ours.tolist()) == sorted(theirs.tolist())


def test_pixels_are_in_row_major_order():
    digits = load_digits_tokens()
    images = digits.train.reshape(-1, *digits.image_shape).double()
    # The digits are upright in a frame: the left and right columns are blank, top and bottom are not.
    assert images[:, :, [0, -1]].mean() < 1
    assert images[:, [0, -1], :].mean() > 2


def test_split_is_stratified():
    digits = load_digits_tokens()
    in_train = digits.train_labels.bincount(minlength=10)
    in_heldout = digits.heldout_labels.bincount(minlength=10)
    expected = (in_train + in_heldout) * 360 / 1797
    assert (in_heldout - expected).abs().max() < 1


def test_split_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = load_digits_tokens()
    torch.manual_seed(2)
    again, other = load_digits_tokens(), load_digits_tokens(seed=1)
    assert torch.equal(first.heldout, again.heldout)
    assert not torch.equal(first.heldout, other.heldout)


def test_default_split_never_changes():
    # Published figures refer to it.
    digits = load_digits_tokens()
    weights = torch.arange(1, 361)
    assert int((digits.heldout.sum(-1) * weights).sum()) == 20286355


@pytest.mark.parametrize("num_heldout", [0, 9, 1788])
def test_rejects_parts_without_every_digit(num_heldout):
    with pytest.raises(ConfigError, match="num_heldout"):
        load_digits_tokens(num_heldout=num_heldout)


def test_missing_dependency_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        load_digits_tokens()
