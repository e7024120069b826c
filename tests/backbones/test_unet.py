"""Laws of the U-Nets alone; those of all networks for images are in test_image_networks.py."""

import pytest
import torch

from vadd.backbones import UNET_PRESETS, UNetDenoiser, UNetRecognition, grid_patches
from vadd.backbones.unet_conditioning import BlockConditioning
from vadd.backbones.unet_layers import ChannelNorm, PixelAttention, ResidualBlock, Shape, enlarged
from vadd.errors import ConfigError
from vadd.testing import check_denoiser, check_recognition

from .parts import perturb

VOCAB, BATCH = 5, 3
SMALL = {"channels": 8, "depth": 1, "num_heads": 2, "embedding_size": 4, "modulation_size": 8}


def without_attention(network):
    """Pixels see their neighbourhood alone."""
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.attention = torch.nn.Identity()


@pytest.mark.parametrize(
    ("shape", "multipliers"), [((5, 3), (1, 2)), ((1, 7), (1, 1, 2)), ((3, 2, 2), (2, 1, 1)), ((2, 2), (1,))], ids=str
)
def test_any_size_goes(shape, multipliers):
    check_denoiser(UNetDenoiser(shape, VOCAB, 2, multipliers=multipliers, **SMALL))
    check_recognition(
        UNetRecognition(shape, VOCAB, 2, multipliers=multipliers, **SMALL), VOCAB, torch.Size(shape).numel()
    )


def transposed(network, other):
    """Give ``other`` the weights of ``network`` with all filters transposed."""
    weights = {name: p.transpose(2, 3) if p.ndim == 4 else p for name, p in network.state_dict().items()}
    other.load_state_dict(weights)
    return other


@pytest.mark.parametrize("shape", [(4, 6), (5, 3)], ids=str)
def test_rows_and_columns_are_where_the_order_of_tokens_says(shape):
    """The transposed image under transposed filters has the transposed output, with all channels in their places."""
    height, width = shape
    options = {**SMALL, "multipliers": (1, 2), "attention_at": (max(shape),), "latent_map": False}
    network = perturb(UNetDenoiser((height, width, 2), VOCAB, 3, **options))
    other = transposed(network, UNetDenoiser((width, height, 2), VOCAB, 3, **options))
    image, t, z = torch.randint(VOCAB + 1, (BATCH, height, width, 2)), torch.rand(BATCH), torch.randn(BATCH, 3)
    out = network(image.flatten(1), t, z).unflatten(1, (height, width, 2))
    moved = other(image.transpose(1, 2).flatten(1), t, z).unflatten(1, (width, height, 2))
    torch.testing.assert_close(moved.transpose(1, 2), out, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network(image.flip(1).flatten(1), t, z), out.flatten(1, 3), atol=1e-3)


def test_channels_are_where_the_order_of_tokens_says():
    """Channels in another order, with the layers that read and write them, give the outputs in that order."""
    network, other = (UNetDenoiser((3, 4, 3), VOCAB, 3, **SMALL) for _ in range(2))
    perturb(network)
    order = torch.tensor([2, 0, 1])
    weights = dict(network.state_dict())
    first, spread = "encoder.entries.0.weight", "spread."
    weights[first] = weights[first].unflatten(1, (3, -1))[:, order].flatten(1, 2)
    for name in (spread + "weight", spread + "bias"):
        weights[name] = weights[name].unflatten(0, (3, -1))[order].flatten(0, 1)
    other.load_state_dict(weights)
    image, t, z = torch.randint(VOCAB + 1, (BATCH, 3, 4, 3)), torch.rand(BATCH), torch.randn(BATCH, 3)
    out = network(image.flatten(1), t, z).unflatten(1, (3, 4, 3))
    permuted = other(image[..., order].flatten(1), t, z).unflatten(1, (3, 4, 3))
    torch.testing.assert_close(permuted, out[..., order, :], rtol=1e-4, atol=1e-5)


def test_sizes_of_the_levels():
    shape = Shape(28, 21, channels=8, multipliers=(1, 2, 2), depth=2, attention_at=(14,), num_heads=2)
    assert shape.sides == [(28, 21), (14, 11), (7, 6)]
    assert shape.widths == [8, 16, 16]
    assert shape.heads == [None, 2, None]
    assert shape.down == [0, 0, 1, 1, 2, 2, 2, 2]
    assert shape.up == [2, 2, 2, 1, 1, 1, 0, 0, 0]


def test_attention_is_where_it_was_asked_for():
    network = UNetDenoiser((8, 8), VOCAB, 2, multipliers=(1, 2), attention_at=(8,), **SMALL)
    down = [isinstance(block.attention, PixelAttention) for block in network.encoder.blocks]
    up = [isinstance(block.attention, PixelAttention) for block in network.decoder.blocks]
    assert down == [True, False, True, False]  # two levels, and the middle
    assert up == [False, False, True, True]


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 8, 9])
def test_enlarged_repeats_each_cell_over_its_pixels(factor, side):
    cells = -(-side // factor)
    x = torch.arange(cells * cells).reshape(1, 1, cells, cells).float()
    index = torch.arange(side) // factor
    assert torch.equal(enlarged(x, factor, (side, side)), x[:, :, index][..., index])


def test_norms_keep_their_digits_in_half_precision():
    norm = ChannelNorm(8)
    x = 100 + torch.randn(2, 8, 5, 5).bfloat16()  # a spread of a few units in the last place
    modulation = (torch.rand(2, 8, 1, 1), torch.rand(2, 8, 1, 1))
    expected = norm(x.float(), modulation).bfloat16()
    assert torch.equal(norm(x, modulation), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(x, modulation), expected)


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 8, 32, 96, 128, 200, 256])
def test_groups_of_norms_have_four_channels_or_more(channels):
    groups = ChannelNorm(channels).num_groups
    assert channels % groups == 0
    assert groups <= 32
    assert groups == 1 or channels // groups >= 4
    assert groups == {32: 8, 96: 24, 128: 32, 256: 32}.get(channels, groups)


def test_a_vector_a_patch_modulates_each_cell_by_the_mean_over_its_pixels():
    shape = Shape(5, 4, channels=4, multipliers=(1, 1), depth=1, attention_at=(), num_heads=1)
    patches = torch.tensor(grid_patches(5, 4, (5, 1))).reshape(5, 4)  # one patch a column
    conditioning = BlockConditioning(
        torch.Size([4, 2]),
        patches.flatten().tolist(),
        shape,
        [0, 1],
        reads_time=True,
        num_classes=None,
        modulation_size=8,
    )
    perturb(conditioning)
    t, z = torch.rand(BATCH), torch.randn(BATCH, 4, 2)
    (scale, shift), (coarse_scale, coarse_shift) = conditioning(t, z, None)
    (total,) = conditioning.sources(t, z, None)
    for fine, coarse, values in ((scale, coarse_scale, total[0]), (shift, coarse_shift, total[1])):
        own, others = values.split(4, -1)
        torch.testing.assert_close(fine, own[:, patches].permute(0, 3, 1, 2))
        pairs = others.unflatten(1, (2, 2)).mean(2)  # two columns a cell
        torch.testing.assert_close(coarse, pairs.transpose(1, 2)[:, :, None].expand(-1, -1, 3, -1))


def test_a_latent_a_pixel_is_one_a_pixel_also_with_channels():
    network = perturb(UNetRecognition((2, 3, 2), VOCAB, (6, 2), **SMALL))
    assert network.readout.layout.is_per_position
    target = torch.zeros(BATCH, 12, dtype=torch.bool)
    target[:, 5] = True  # the second channel of the third pixel
    q = network(torch.randint(VOCAB, (BATCH, 12)), target, torch.rand(BATCH))
    assert (q.mean != 0).any(-1).equal((torch.arange(6) == 2).expand(BATCH, -1))


def inner_pixels(x):
    """Of 32x32, those from which the eleven convolutions do not see the border: of a constant image they are alike."""
    return x.unflatten(1, (32, 32))[:, 12:20, 12:20]


@pytest.mark.parametrize("latent_map", [True, False])
def test_a_latent_in_one_vector_draws_pixels_apart_by_its_map_alone(latent_map):
    size = {"channels": 4, "multipliers": (1,), "depth": 1, "num_heads": 1}
    network = UNetDenoiser((32, 32), 2, 3, latent_map=latent_map, **size).double()
    without_attention(network)
    perturb(network)
    x_t, t = torch.full((2, 1024), 2), torch.ones(2).double()
    logits = inner_pixels(network(x_t, t, torch.randn(2, 3).double()))
    varies = (logits - logits[:, :1, :1]).abs().amax() > 1e-6
    assert bool(varies) == latent_map


@pytest.mark.parametrize("latent_map", [True, False])
def test_recognition_sees_where_something_is_by_its_map_alone(latent_map):
    size = {"channels": 4, "multipliers": (1,), "depth": 1, "num_heads": 1}
    network = UNetRecognition((40, 40), 2, 3, latent_map=latent_map, **size).double()
    without_attention(network)
    image = torch.zeros(40, 40).long()
    image[18:21, 18:21] = 1  # far from the border, as seen by the seven convolutions
    moved = image.roll((2, -1), (0, 1))
    tokens = torch.stack([image, moved]).flatten(1)
    q = network(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.ones(2).double())
    differs = (q.mean[0] - q.mean[1]).abs().amax() > 1e-9
    assert bool(differs) == latent_map


def test_channels_last_gives_the_same():
    network = perturb(UNetDenoiser((5, 4, 2), VOCAB, 2, multipliers=(1, 2), **SMALL))
    x_t, t, z = torch.randint(VOCAB, (BATCH, 40)), torch.rand(BATCH), torch.randn(BATCH, 2)
    expected = network(x_t, t, z)
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(x_t, t, z), expected)


@pytest.mark.parametrize(
    ("name", "millions", "without_latent", "recognition"), [("mnist", 1.96, 1.70, 0.74), ("cifar10", 30.5, 28.3, 11.4)]
)
def test_presets_have_the_sizes_that_they_state(name, millions, without_latent, recognition):
    preset = UNET_PRESETS[name]
    with torch.device("meta"):
        networks = [
            UNetDenoiser(**preset),
            UNetDenoiser(**{**preset, "latent_shape": 0}),
            UNetRecognition(**preset),
        ]
    counts = [sum(p.numel() for p in network.parameters()) / 1e6 for network in networks]
    assert counts == pytest.approx([millions, without_latent, recognition], rel=0.01)
    if name == "cifar10":
        blocks = networks[0].encoder.blocks[:-2]
        assert len(blocks) == 32
        assert all(tuple(block.second.weight.shape) == (128, 128, 3, 3) for block in blocks)
        assert all(entry.stride == (1, 1) for entry in networks[0].encoder.entries)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"multipliers": ()}, "multipliers"),
        ({"multipliers": (1, 0)}, "multipliers"),
        ({"multipliers": (1, 1, 1, 1)}, "multipliers.*single pixel"),
        ({"attention_at": (3,)}, r"attention_at.*\[4, 2\].*\[3\]"),
        ({"num_heads": 3}, "num_heads=3 must divide"),
        ({"feature_size": 0}, "feature_size"),
        ({"patches": (0, 1)}, "patches"),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [UNetDenoiser, UNetRecognition])
def test_options_that_do_not_fit_are_refused(make, wrong, message):
    with pytest.raises(ConfigError, match=message):
        make((4, 4), VOCAB, (2, 2), **{**SMALL, "multipliers": (1, 2), **wrong})
