"""Operations counted without computing are those of an update."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]
IMAGES = SimpleNamespace(train=SimpleNamespace(image_shape=(8, 8), num_levels=3))
TEXT = SimpleNamespace(tokenizer=SimpleNamespace(vocab_size=30), length=12)


@pytest.mark.parametrize("model", ["mdm", "paper"])
@pytest.mark.parametrize(
    ("example", "data", "length"), [("binarized_mnist_svi", IMAGES, 64), ("text_svi", TEXT, 12)], ids=["image", "text"]
)
def test_counted_operations_are_those_of_an_update(example, data, length, model):
    import published
    from measuring import count_operations

    from vadd.recipes import get_recipe

    argv = ["--preset", "smoke", *published.MODELS[model]]
    pair, _ = published.fresh_pair(example, data, argv)
    objective = get_recipe(model).objective(pair.model.process)
    drawn = objective.draw(pair.model, torch.randint(3, (4, length)))
    loss = objective(*pair)
    _, expected = count_operations(lambda: loss(drawn).backward())
    scored = int(drawn.batch.target.sum())
    with published.without_memory():
        fresh, _ = published.fresh_pair(example, data, argv)
        found = published.operations_of_update(fresh, length, rows=4, num_scored=scored)
    assert found == expected > 0
