"""Laws of the transformers on patches alone; those of all networks for images are in test_image_networks.py."""

import pytest
import torch

from vadd.backbones import PatchDiTDenoiser, PatchDiTRecognition
from vadd.errors import ConfigError

VOCAB = 5
SMALL = {"hidden_size": 16, "depth": 1, "num_heads": 2, "embedding_size": 4, "modulation_size": 8}


@pytest.mark.parametrize("patch", [1, 2])
def test_patches_hold_their_pixels_and_come_back(patch):
    trunk = PatchDiTDenoiser((4, 6, 3), VOCAB, patch=patch, **SMALL).trunk
    image = torch.arange(4 * 6 * 3 * 2).reshape(4, 6, 3, 2)
    parts = trunk.to_patches(image.flatten(0, 2)[None])
    across = 6 // patch
    for number, part in enumerate(parts[0]):
        i, j = number // across * patch, number % across * patch
        assert torch.equal(part, image[i : i + patch, j : j + patch].reshape(-1, 2))
    assert torch.equal(trunk.to_tokens(parts), image.flatten(0, 2)[None])


def test_the_features_of_a_patch_come_from_its_position_and_its_tokens():
    network = PatchDiTDenoiser((4, 6, 2), VOCAB, **SMALL)
    with torch.no_grad():  # positions do not talk
        for block in network.trunk.trunk.blocks:
            block.attention_out.weight.zero_()
    image = torch.randint(VOCAB, (1, 4, 6, 2))
    other = image.clone()
    other[0, 3, 2, 1] = (image[0, 3, 2, 1] + 1) % VOCAB  # in the patch of rows 2, 3 and columns 2, 3
    t, z = torch.rand(1), torch.zeros(1, 0)
    features, changed = (network.features(x.flatten(1), t, z).reshape(4, 6, 2, -1) for x in (image, other))
    differs = (features - changed).abs().amax(-1) > 1e-5
    inside = torch.zeros(4, 6, 2, dtype=torch.bool)
    inside[2:4, 2:4] = True
    assert torch.equal(differs, inside)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"patch": 3}, "patch=3 must divide"), ({"patch": 0}, "patch"), ({"positions": "sine"}, "positions")],
    ids=str,
)
@pytest.mark.parametrize("make", [PatchDiTDenoiser, PatchDiTRecognition])
def test_options_that_do_not_fit_are_refused(make, wrong, message):
    with pytest.raises(ConfigError, match=message):
        make((4, 6), VOCAB, 2, **{**SMALL, **wrong})
