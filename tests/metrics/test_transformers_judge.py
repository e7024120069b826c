"""Causal language models of transformers as judges: every token once, with the context that is stated."""

import json
import math
import sys

import pytest
import torch

from vadd.errors import ConfigError, DataError, DomainError
from vadd.metrics import TransformersJudge, entropy, generative_perplexity

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

CONTEXT = 8
WORDS = ["<s>", "a", "b", "c", "d"]
TEXTS = ["a b c d a", "c c", "d a b c d a b c", "b d d c a b a a c d b c a d c b d a a c d"]


def save_tokenizer(folder, **special) -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: k for k, word in enumerate(WORDS)}))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A folder with a random GPT-2 of a context of 8 tokens, and the model itself."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder)
    save_tokenizer(folder, bos_token="<s>")
    return folder, model


@pytest.fixture
def judge(gpt2):
    return TransformersJudge(gpt2[0])


def tokens_of(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


@torch.no_grad()
def nats_by_hand(model, tokens: list[int], stride: int, max_length: int = CONTEXT) -> float:
    """One token at a time, each in the first window that holds it."""
    total = 0.0
    for position in range(1, len(tokens)):
        number = max(0, math.ceil((position + 1 - max_length) / stride))
        context = torch.tensor([tokens[number * stride : position]])
        total -= float(model(context).logits[0, -1].double().log_softmax(-1)[tokens[position]])
    return total


@pytest.mark.parametrize("stride", [None, 1, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_token_but_the_first_is_scored_once_in_its_window(gpt2, stride, batch_size):
    folder, model = gpt2
    scores = TransformersJudge(folder, stride=stride, batch_size=batch_size).score(TEXTS)
    expected = [nats_by_hand(model, tokens_of(text), stride or CONTEXT // 2) for text in TEXTS]
    assert scores.nats.tolist() == pytest.approx(expected, abs=1e-5)
    assert scores.num_tokens.tolist() == [4, 1, 7, 20]


def test_a_shorter_context_can_be_asked_for(gpt2):
    folder, model = gpt2
    scores = TransformersJudge(folder, max_length=4, stride=1).score(TEXTS)
    expected = [nats_by_hand(model, tokens_of(text), 1, 4) for text in TEXTS]
    assert scores.nats.tolist() == pytest.approx(expected, abs=1e-5)


def test_perplexity_is_that_of_the_cross_entropy(gpt2, judge):
    model = gpt2[1]
    found = generative_perplexity(judge, TEXTS[:3])
    rows = [torch.tensor([tokens_of(text)]) for text in TEXTS[:3]]
    nats = sum(float(model(row, labels=row).loss.detach()) * (row.shape[1] - 1) for row in rows)
    assert found.perplexity == pytest.approx(math.exp(nats / 12), rel=1e-5)
    assert found.num_tokens == 12
    assert found.judge == str(gpt2[0])
    counts = [torch.bincount(row[0]).double() / row.shape[1] for row in rows]
    assert found.entropy == pytest.approx(sum(map(entropy, counts)) / 3)


def test_with_a_start_token_every_token_is_scored(gpt2):
    folder, model = gpt2
    judge = TransformersJudge(folder, start_token=True)
    scores = judge.score([*TEXTS, "d"])
    expected = [nats_by_hand(model, [0, *tokens_of(text)], CONTEXT // 2) for text in [*TEXTS, "d"]]
    assert scores.nats.tolist() == pytest.approx(expected, abs=1e-5)
    assert scores.num_tokens.tolist() == [5, 2, 8, 21, 1]
    plain = TransformersJudge(folder).score(TEXTS)
    assert torch.equal(scores.entropy[:4], plain.entropy)  # that of the text alone


def test_features_are_the_last_hidden_states_after_the_last_token(gpt2, judge):
    model = gpt2[1]
    features = judge.features(TEXTS)
    for text, found in zip(TEXTS, features, strict=True):
        row = torch.tensor([tokens_of(text)[:CONTEXT]])
        with torch.no_grad():
            expected = model(row, output_hidden_states=True).hidden_states[-1][0, -1]
        assert torch.allclose(found, expected, atol=1e-5)
    assert judge.feature_name == f"last hidden states of {gpt2[0]}"


def test_half_precision_gives_wide_log_probabilities(gpt2, judge):
    half = TransformersJudge(gpt2[0], dtype=torch.bfloat16, name="half")
    assert half.name == "half"
    assert half.score(TEXTS).nats.tolist() == pytest.approx(judge.score(TEXTS).nats.tolist(), rel=0.05)


def test_a_bidirectional_model_is_refused(tmp_path):
    torch.manual_seed(0)
    options = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(WORDS), hidden_size=16, max_position_embeddings=8, **options)
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(DataError, match="not causal"):
        TransformersJudge(tmp_path)
    config.is_decoder = True
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no start token"):
        TransformersJudge(tmp_path, start_token=True)
    assert TransformersJudge(tmp_path).max_length == 8


def test_missing_weights_are_not_made_up(gpt2, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, model = gpt2
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in weights if name.endswith("h.1.mlp.c_fc.weight"))
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="lack weights.*mlp.c_fc.weight"):
        TransformersJudge(tmp_path)


def test_only_safetensors_are_read(gpt2, tmp_path):
    folder, model = gpt2
    model.config.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="safetensors"):
        TransformersJudge(tmp_path)


def test_code_that_comes_with_a_model_is_not_run(gpt2, tmp_path):
    folder, model = gpt2
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(DataError, match="cannot be read"):
        TransformersJudge(tmp_path)
    assert not ran.exists()


def test_what_is_not_there_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="hf download no-such-model --local-dir"):
        TransformersJudge("no-such-model")
    with pytest.raises(DataError, match="there is no folder .*no"):
        TransformersJudge(tmp_path / "no")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'pip install "vadd\[transformers\]"'):
        TransformersJudge(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 9}, r"\[2, 8\]"),
        ({"max_length": 1}, r"\[2, 8\]"),
        ({"stride": 8}, r"\[1, 8\)"),
        ({"stride": 0}, r"\[1, 8\)"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_sizes_out_of_range_are_an_error(gpt2, options, message):
    with pytest.raises(ConfigError, match=message):
        TransformersJudge(gpt2[0], **options)


@pytest.mark.usefixtures("_unchecked")
def test_texts_that_cannot_be_scored_are_an_error(judge):
    for texts in ("a b", [], torch.zeros(2, 3, dtype=torch.int64), [[1, 2]]):
        with pytest.raises(ConfigError, match="reads texts"):
            judge.score(texts)
    with pytest.raises(ConfigError, match="is_padding"):
        judge.score(TEXTS, torch.zeros(1))
    with pytest.raises(DomainError, match="text 1, 'a', has no token to score"):
        judge.score(["a b", "a"])
    with pytest.raises(DomainError, match="text 1 is empty"):
        judge.features(["a", ""])
