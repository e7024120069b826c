"""Sizes of the networks for text."""

import pytest
import torch

from vadd.backbones import DIT_PRESETS, DiTDenoiser, DiTRecognition


def test_presets_have_the_published_sizes():
    """GPT-2's blocks: 85 and 302 million; in all 162 million with its vocabulary, 132 million with that of BERT."""

    def count(network):
        return sum(parameter.numel() for parameter in network.parameters())

    with torch.device("meta"):
        for name, blocks in (("tiny", 4.7e6), ("small", 85e6), ("medium", 302e6)):
            for network in (DiTDenoiser, DiTRecognition):
                made = network(100, 1024, 16, **DIT_PRESETS[name])
                assert count(made.trunk.blocks) == pytest.approx(blocks, rel=0.01)
        small = DIT_PRESETS["small"]
        assert count(DiTDenoiser(50_257, 1024, **small)) == pytest.approx(162e6, rel=0.01)
        assert count(DiTDenoiser(30_522, 1024, **small)) == pytest.approx(132e6, rel=0.01)
        with_latent = count(DiTDenoiser(50_257, 1024, 128, **small))
        assert with_latent - count(DiTDenoiser(50_257, 1024, **small)) == pytest.approx(5e6, rel=0.01)


def test_the_tiny_preset_runs():
    network = DiTDenoiser(11, 7, 2, **DIT_PRESETS["tiny"])
    assert network(torch.zeros(2, 7, dtype=torch.int64), torch.rand(2), torch.randn(2, 2)).shape == (2, 7, 11)
