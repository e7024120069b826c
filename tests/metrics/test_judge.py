"""The autoregressive judge: a law of sequences, causal, blind to padding, storable, and it prefers real text."""

import gzip
import itertools
import json
import math

import pytest
import torch
from torch.utils.data import Dataset

from vadd.errors import CheckpointError, ConfigError, DataError, DomainError, ShapeError
from vadd.metrics import (
    CausalJudge,
    generative_perplexity,
    load_causal_judge,
    save_causal_judge,
    train_causal_judge,
)


def random_judge(vocab_size: int = 3, max_length: int = 8, depth: int = 2, **options) -> CausalJudge:
    """With weights so large that tokens matter to each other."""
    judge = CausalJudge(vocab_size, max_length, hidden_size=16, depth=depth, num_heads=2, **options)
    with torch.no_grad():
        for parameter in judge.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return judge.eval().requires_grad_(False)


def sentences(num: int = 64, dim: int = 8, seed: int = 0) -> torch.Tensor:
    """Rows that count upwards modulo 5 from a random start."""
    start = torch.randint(5, (num, 1), generator=torch.Generator().manual_seed(seed))
    return (start + torch.arange(dim)) % 5


class Items(Dataset):
    """A map-style data set of padded rows."""

    def __init__(self, rows: torch.Tensor, is_padding: torch.Tensor | None = None) -> None:
        self.rows, self.is_padding = rows, is_padding

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        item = {"x_0": self.rows[row]}
        return item if self.is_padding is None else {**item, "is_padding": self.is_padding[row]}


@pytest.mark.parametrize(("vocab_size", "dim"), [(1, 3), (2, 5), (3, 4), (4, 1)])
def test_probabilities_of_all_sequences_sum_to_one(vocab_size, dim):
    judge = random_judge(vocab_size).double()
    everything = torch.tensor(list(itertools.product(range(vocab_size), repeat=dim)))
    probabilities = judge(everything).sum(-1).exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)
    if vocab_size > 1:
        assert probabilities.max() / probabilities.min() > 2


def test_tokens_depend_on_earlier_ones():
    judge = random_judge()
    rows = torch.tensor([[0, 1, 2, 0], [1, 1, 2, 0]])
    assert (judge(rows)[0, 1:] - judge(rows)[1, 1:]).abs().min() > 1e-4


@pytest.mark.parametrize("position", range(1, 8))
def test_later_tokens_do_not_change_the_probability_of_earlier_ones(position):
    judge = random_judge(vocab_size=5)
    rows = torch.randint(5, (6, 8))
    changed = rows.clone()
    changed[:, position:] = (changed[:, position:] + torch.randint(1, 5, (6, 8 - position))) % 5
    assert torch.equal(judge(changed)[:, :position], judge(rows)[:, :position])
    assert not torch.equal(judge(changed)[:, position], judge(rows)[:, position])


def test_the_order_of_earlier_tokens_matters():
    # One block without positions would mix the tokens before a position as a set.
    log_probs = random_judge(depth=1)(torch.tensor([[0, 1, 2, 0], [1, 0, 2, 0]]))[:, 3]
    assert abs(float(log_probs[0] - log_probs[1])) > 1e-4


def test_padding_is_neither_scored_nor_read():
    judge = random_judge().double()
    rows = torch.randint(3, (4, 8))
    lengths = torch.tensor([1, 3, 7, 8])
    is_padding = torch.arange(8) >= lengths[:, None]
    filled = rows.masked_fill(is_padding, -100)  # no token at all
    scores = judge.score(filled, is_padding)
    assert scores.num_tokens.tolist() == lengths.tolist()
    assert torch.equal(judge(filled, is_padding)[is_padding], torch.zeros(13, dtype=torch.float64))
    for row, length, nats, own, features in zip(
        rows, lengths, scores.nats, scores.entropy, judge.features(filled, is_padding), strict=True
    ):
        alone = judge.score(row[None, :length])
        assert float(nats) == pytest.approx(float(alone.nats), abs=1e-12)
        assert float(own) == pytest.approx(float(alone.entropy), abs=1e-12)
        assert torch.allclose(features, judge.features(row[None, :length])[0], atol=1e-12)


def test_scores_do_not_depend_on_the_batch(monkeypatch):
    judge = random_judge().double()
    rows = torch.randint(3, (9, 6))
    together = judge.score(rows)
    assert torch.allclose(together.nats, -judge(rows).sum(-1), atol=1e-12)
    monkeypatch.setattr("vadd.metrics.judge._LOGITS_AT_ONCE", 1)
    alone = judge.score(rows)
    assert torch.allclose(alone.nats, together.nats, atol=1e-12)
    assert torch.equal(alone.num_tokens, together.num_tokens)


def test_features_are_the_state_that_predicts_the_next_token():
    judge = random_judge().double()
    rows = torch.randint(3, (5, 7))
    log_probs = torch.log_softmax(judge.features(rows) @ judge.embedding.weight.T, -1)
    for token in range(3):
        longer = torch.cat([rows, torch.full((5, 1), token)], 1)
        assert torch.allclose(log_probs[:, token], judge(longer)[:, -1], atol=1e-12)


def test_the_log_density_is_wide_where_the_network_is_half():
    judge = random_judge()
    rows = torch.randint(3, (4, 8))
    half = CausalJudge(3, 8, 16, 2, 2).bfloat16().eval()
    half.load_state_dict(judge.state_dict())
    assert half(rows).dtype == torch.float32
    assert torch.allclose(half(rows), judge(rows), atol=0.1)


@pytest.mark.parametrize("form", ["tensor", "mapping", "items"])
def test_learns_a_language_from_any_form_of_rows(form):
    rows, held_out = sentences(), sentences(seed=1)
    wrap = {"tensor": lambda x: x, "mapping": lambda x: {"x_0": x}, "items": Items}[form]
    judge, found, num_updates = train_causal_judge(
        wrap(rows), 5, seed=0, num_updates=150, held_out=wrap(held_out), hidden_size=32, depth=1, num_heads=2
    )
    assert num_updates == 150
    assert math.log(5) / 8 < found.mean < 1.2 * math.log(5) / 8  # the start alone is uncertain
    assert found.num_tokens == held_out.numel()
    assert not judge.training
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    exact = generative_perplexity(judge, held_out)
    assert math.log(exact.perplexity) == pytest.approx(found.mean)
    assert exact.stderr == pytest.approx(exact.perplexity * found.stderr)


def test_training_does_not_read_padding():
    rows = sentences()
    is_padding = torch.arange(8) >= torch.randint(1, 9, (64, 1))

    def train(filler: int) -> torch.Tensor:
        data = Items(rows.masked_fill(is_padding, filler), is_padding)
        judge = train_causal_judge(data, 5, seed=0, num_updates=3, hidden_size=16, depth=1).judge
        return judge(rows)

    assert torch.equal(train(0), train(-7))


def test_training_depends_on_its_seed_alone():
    def train(seed: int) -> torch.Tensor:
        options = {"num_updates": 3, "hidden_size": 16, "depth": 1, "dropout": 0.2}
        return train_causal_judge(sentences(), 5, seed=seed, **options).judge(sentences(seed=1))

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = train(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(train(0), first)
    assert not torch.equal(train(1), first)


def test_training_for_a_time_takes_that_time(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("vadd.metrics.judge_training.time.monotonic", lambda: 6.0 * next(clock))
    found = train_causal_judge(sentences(), 5, seed=0, minutes=0.5, hidden_size=16, depth=1)
    assert found.num_updates == 4  # at 6, 12, 18 and 24 of 30 seconds
    assert found.held_out is None


def test_every_row_is_read_once_before_any_is_read_again():
    read = []

    class Watched(Items):
        def __getitems__(self, rows: list[int]) -> list[dict[str, torch.Tensor]]:
            read.extend(rows)
            return [self[row] for row in rows]

    train_causal_judge(Watched(sentences(10)), 5, seed=0, num_updates=5, batch_size=4, hidden_size=16, depth=1)
    assert sorted(read[1:11]) == sorted(read[11:21]) == list(range(10))  # the first read finds the length
    assert read[1:11] != read[11:21]


def test_comes_back_from_its_files(tmp_path):
    judge = random_judge(dropout=0.5)
    folder = save_causal_judge(judge, tmp_path / "new", notes={"text": "a"})
    again, notes = load_causal_judge(folder)
    rows = torch.randint(3, (4, 8))
    assert notes == {"text": "a"}
    assert torch.equal(again(rows), judge(rows))
    assert not again.training
    assert sorted(path.name for path in folder.iterdir()) == ["judge.json", "judge.safetensors"]


def test_damaged_files_are_an_error(tmp_path):
    folder = save_causal_judge(random_judge(), tmp_path)
    header, weights = folder / "judge.json", folder / "judge.safetensors"
    text = header.read_text()
    for changed in ("{", "[]", text.replace('"depth": 2', '"depth": 3'), text.replace('"depth": 2', '"depth": 0')):
        header.write_text(changed)
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_causal_judge(folder)
    header.write_text(json.dumps({**json.loads(text), "format_version": 2}))
    with pytest.raises(CheckpointError, match="format version 2, expected 1"):
        load_causal_judge(folder)
    header.write_text(text)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="belongs to another judge"):
        load_causal_judge(folder)
    with pytest.raises(CheckpointError, match="train_causal_judge"):
        load_causal_judge(tmp_path / "no")


@pytest.mark.usefixtures("_unchecked")
def test_rows_that_cannot_be_scored_are_an_error():
    judge = random_judge()
    rows = torch.zeros(2, 4, dtype=torch.int64)
    for read in (judge, judge.score, judge.features):
        with pytest.raises(DomainError, match="3 is the mask"):
            read(rows.index_fill(1, torch.tensor([2]), 3))
        with pytest.raises(DomainError, match="from -1"):
            read(rows - 1)
        with pytest.raises(DomainError, match="text after padding"):
            read(rows, torch.tensor([[False, True, False, True]] * 2))
        with pytest.raises(DomainError, match="row 0 is nothing but padding"):
            read(rows, torch.ones(2, 4, dtype=torch.bool))
        with pytest.raises(ShapeError, match="at most 8 tokens"):
            read(torch.zeros(2, 9, dtype=torch.int64))
        with pytest.raises(ShapeError, match="is_padding must have the shape"):
            read(rows, torch.zeros(2, 3, dtype=torch.bool))
    for read in (random_judge(dropout=0.1).train().score, random_judge(dropout=0.1).train().features):
        with pytest.raises(ConfigError, match="eval"):
            read(rows)


@pytest.mark.parametrize(
    "sizes", [{"vocab_size": 0}, {"max_length": 0}, {"hidden_size": 12}, {"depth": 0}, {"num_heads": 0}, {"dropout": 1}]
)
@pytest.mark.usefixtures("_unchecked")
def test_meaningless_sizes_are_an_error(sizes):
    with pytest.raises(ConfigError, match=next(iter(sizes))):
        CausalJudge(**{"vocab_size": 3, "max_length": 8, **sizes})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_updates": None}, ConfigError, "one of the two"),
        ({"minutes": 1.0}, ConfigError, "one of the two"),
        ({"num_updates": 0}, ConfigError, "at least 1"),
        ({"num_updates": None, "minutes": 0.0}, ConfigError, "above 0"),
        ({"batch_size": 0}, ConfigError, "batch_size"),
        ({"learning_rate": 0.0}, ConfigError, "learning_rate"),
        ({"vocab_size": 4}, DomainError, "4 is the mask"),
        ({"held_out": sentences(dim=9)}, ShapeError, "at most 8 tokens"),
        ({"held_out": sentences()[:0]}, DataError, "held_out holds no rows"),
        ({"rows": sentences()[:0]}, DataError, "rows holds no rows"),
        ({"rows": {"tokens": sentences()}}, DataError, r"named x_0, got \['tokens'\]"),
        ({"rows": [{"tokens": sentences()[0]}]}, DataError, "named x_0"),
        ({"rows": iter([1])}, ConfigError, "map-style"),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_training_input_is_an_error(change, error, message):
    options = {"rows": sentences(), "vocab_size": 5, "seed": 0, "num_updates": 1, "hidden_size": 16, "depth": 1}
    with pytest.raises(error, match=message):
        train_causal_judge(**{**options, **change})


@pytest.mark.slow
@pytest.mark.usefixtures("_unchecked")
def test_prefers_real_text_to_shuffled_characters_and_to_a_unigram_model(data_root):
    with gzip.open(data_root / "tinyshakespeare" / "input.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read()
    alphabet = sorted(set(text))
    number = {character: k for k, character in enumerate(alphabet)}
    tokens = torch.tensor([number[character] for character in text])
    rows = tokens[: len(tokens) // 128 * 128].reshape(-1, 128)
    train, held_out = rows[:7800], rows[-400:]
    judge, found, _ = train_causal_judge(
        train, len(alphabet), seed=0, num_updates=250, batch_size=16, held_out=held_out, depth=2, learning_rate=4e-3
    )
    frequencies = tokens.bincount().double()
    entropy = -float(torch.xlogy(frequencies / len(tokens), frequencies / len(tokens)).sum())
    shuffled = torch.stack([row[torch.randperm(128)] for row in held_out])
    drawn = torch.multinomial(frequencies, 400 * 128, replacement=True).reshape(400, 128)
    real, broken, unigram = (generative_perplexity(judge, rows) for rows in (held_out, shuffled, drawn))
    assert found.mean < 2.2 < 3.2 < entropy  # nats per character: more than single characters were learnt
    assert real.perplexity + 10 * real.stderr < min(broken.perplexity, unigram.perplexity) / 5
    assert real.entropy == pytest.approx(broken.entropy)
