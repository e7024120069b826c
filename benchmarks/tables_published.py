"""The published figures of the method, and the commands that repeat their protocols here.

Source: Xie, Xue, Feng, Hu, Sun, Li, Zhang, "Variational Autoencoding Discrete Diffusion with Enhanced Dimensional
Correlations Modeling", arXiv 2505.17384. The column MDLM is the paper's own run of that masked diffusion model. Metrics
have the paper's names; what they are is said on the page.
"""

from typing import Any, NamedTuple

#: The metric of a row that is ours alone.
NOT_PUBLISHED = "not published"
#: Numbers of steps of the published FID.
FID_STEPS = (10, 20, 30, 50, 100)


class Figure(NamedTuple):
    """A published pair of figures, as text with the published digits; "" where the paper's is not known here."""

    setting: str
    mdlm: str
    vadd: str


class Published(NamedTuple):
    """A row of the page.

    Attributes:
        task: data and tokens.
        metric: the paper's name of it.
        figures: for each setting.
        protocol: in :data:`PROTOCOLS`.
    """

    task: str
    metric: str
    figures: tuple[Figure, ...]
    protocol: str


#: Of each protocol the example and its options; without a latent ``--baseline mdm`` in place of ``--recipe paper``.
#: Where operations are counted, also the tokens, and what the table calls the longer training.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "checkerboard": {"example": "toy2d_svi", "options": "--toy checkerboard"},
    "swiss_roll": {"example": "toy2d_svi", "options": "--toy swiss_roll"},
    "circles": {"example": "toy2d_svi", "options": "--toy circles"},
    "binarized-mnist": {
        "example": "binarized_mnist_svi",
        "options": "--protocol padded --preset paper --recipe paper --precision bf16",
        "image_shape": (32, 32),
        "vocab_size": 2,
    },
    "cifar10": {
        "example": "cifar10_svi",
        "options": "--preset paper --recipe paper --precision bf16 --fid",
        "image_shape": (32, 32, 3),
        "vocab_size": 256,
    },
    "lm1b": {
        "example": "text_svi",
        "options": "--protocol lm1b-padded-train --heldout-data dvruette/lm1b --heldout-split test --preset paper "
        "--recipe paper",
        "length": 128,
        "vocab_size": 30_522,
    },
    "openwebtext": {
        "example": "text_svi",
        "options": "--protocol openwebtext-train --heldout-data Skylion007/openwebtext --heldout-split "
        "'train[-100000:]' --preset paper --recipe paper --zero-shot arxiv lm1b lambada wikitext-103 pubmed ag-news",
        "length": 1024,
        "vocab_size": 50_257,
    },
}

PUBLISHED = (
    Published(
        "checkerboard, 2 tokens",
        '"JS"',
        (Figure("1 step", "1.395", "0.062"), Figure("5 steps", "0.211", "0.048")),
        "checkerboard",
    ),
    Published("swiss roll, 2 tokens", '"JS"', (Figure("1 step", "2.619", "0.086"),), "swiss_roll"),
    Published("circles, 2 tokens", '"JS"', (Figure("1 step", "2.273", "0.161"),), "circles"),
    Published("binarized MNIST, cut at 0.5, 32x32", "BPD", (Figure("", "0.075", "0.063"),), "binarized-mnist"),
    Published("CIFAR-10, 256 values", "BPD", (Figure("", "2.80", "2.74"),), "cifar10"),
    Published(
        "CIFAR-10, samples",
        "FID",
        (
            Figure("10 steps", "334.3", "170.3"),
            Figure("20", "261.3", "108.7"),
            Figure("30", "203.4", "84.8"),
            Figure("50", "140.3", "64.6"),
            Figure("100", "76.5", "50.5"),
        ),
        "cifar10",
    ),
    Published(
        "LM1B, 128 tokens, padded",
        "PPL",
        (Figure("1M updates", "27.70", "20.53"), Figure("10M updates", "23.00", "")),
        "lm1b",
    ),
    Published("Wikipedia, 256 characters", NOT_PUBLISHED, (), "text_wiki27"),
    *(
        Published(f"OpenWebText, zero-shot on {name}", "PPL", (Figure("", "", vadd),), "openwebtext")
        for name, vadd in (
            ("arXiv", "36.39"),
            ("LM1B", "69.71"),
            ("LAMBADA", ""),
            ("WikiText", "34.78"),
            ("PubMed", "40.62"),
            ("AG News", "68"),
        )
    ),
)


def command(protocol: str) -> str:
    """The command of a protocol at full scale."""
    found = PROTOCOLS[protocol]
    return f"python examples/{found['example']}.py {found['options']}"
