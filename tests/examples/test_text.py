"""The example on text: smoke runs on small files, and what is said of wrong input."""

import json
import random
import shutil

import pytest
import torch

from vadd import VADDModel
from vadd.priors import TrunkPrior
from vadd.text import Tokenizer, load_tokenizer

from .scripts import module_of

pytest.importorskip("matplotlib")
pytest.importorskip("datasets")

WORDS = "the sun a river runs and stones hold still while grass grows over old walls in light rain".split()


@pytest.fixture
def example():
    return module_of("text_svi")


def write_text(path, seed=0, lines=150):
    draw = random.Random(seed)
    path.write_text("\n".join(" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(lines)) + "\n")
    return path


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "lines.txt")


def smoke(example, text, out, *given):
    torch.set_num_threads(1)
    return example.main(
        ["--data", str(text), "--preset", "smoke", "--quiet", "--out", str(out), "--data-root", "", *map(str, given)]
    )


def folder_of(out):
    return next(path for path in out.iterdir() if not path.name.startswith("judge-"))


def test_a_run_leaves_report_samples_curves_and_a_model_with_its_tokenizer(example, text, tmp_path, capsys):
    report = smoke(example, text, tmp_path / "out")
    assert "Tokenizing" not in capsys.readouterr().err  # --quiet
    folder = folder_of(tmp_path / "out")
    assert json.loads((folder / "report.json").read_text())["results"]["updates"] == report["updates"] == 6
    assert 0 <= report["dropped"]["tokens"] < 16  # behind the last row
    assert report["dropped"]["documents"] == 0
    assert {"samples.txt", "curves.png", "model"} <= {path.name for path in folder.iterdir()}
    rows = {row["name"]: row for row in report["bounds"]}
    for name, row in rows.items():
        prefix = "delbo_" if name.startswith("DELBO") else ""
        assert (f"{prefix}bits_per_character" in row) == (not name.startswith("one jump"))
    # A row of characters without anything else is as many characters as tokens.
    first = rows["finite-step, T=1"]
    assert first["bits_per_character"] == pytest.approx(first["bits_per_dim"])
    assert first["perplexity"] == pytest.approx(2 ** first["bits_per_dim"])
    judged = report["samples"]["rows"]
    assert [row["steps"] for row in judged] == [None, 1, 2, 16]
    assert judged[0]["real_words"] > 0.9
    assert "trained on the same corpus" in report["samples"]["judge"]

    model = VADDModel.from_pretrained(folder / "model")
    tokenizer = load_tokenizer(folder / "model" / "tokenizer")
    assert tokenizer.vocab_size == model.process.vocab_size
    assert len(tokenizer.decode(model.sample(2, num_steps=2, seed=0))) == 2


@pytest.mark.parametrize(
    "given",
    [
        ("--baseline", "mdm", "--packing", "padded"),
        ("--recipe", "paper", "--latents", "positions", "--packing", "padded", "--recognition", "shared"),
        ("--recognition", "embedding", "--tokenizer", "wiki27", "--unit", "file", "--prior", "conditional"),
        ("--recipe", "paper", "--latents", "positions", "--prior", "trunk"),
        ("--latents", "patches", "--length", "18", "--recognition", "shared", "--kl-warmup", "0.8"),
    ],
    ids=["mdm", "paper", "wiki27", "prior", "patches"],
)
def test_architectures_and_packings(example, tmp_path, given):
    text = write_text(tmp_path / "lines.txt")
    if "wiki27" in given:
        text.write_text(text.read_text().replace("\n", " "))
    report = smoke(example, text, tmp_path / "out", *given)
    assert report["is_finished"]
    if "patches" in given:
        folder = folder_of(tmp_path / "out")
        assert VADDModel.from_pretrained(folder / "model").latent_shape == (5, 8)  # the last of two tokens
        assert "default-kl0.8" in folder.name
    if "padded" in given:  # fewer tokens are scored than there are positions
        row = report["bounds"][0]
        assert row["nats"] < 16 * 0.6931471805599453 * row["bits_per_dim"]


def test_a_stream_is_trained_on(example, text, tmp_path):
    held = write_text(tmp_path / "held.txt", seed=1, lines=60)
    tokenizer = load_tokenizer("chars", texts=[text.read_text()]).save(tmp_path / "tokenizer")
    given = ("--streaming", "--heldout-data", held, "--tokenizer", tokenizer)
    assert smoke(example, text, tmp_path / "out", *given)["is_finished"]
    with pytest.raises(SystemExit, match="--heldout-data"):
        smoke(example, text, tmp_path / "other", "--streaming")


def test_the_text_that_is_trained_on_is_not_held_out(example, text, tmp_path):
    with pytest.raises(SystemExit, match="error: .*is the text that is trained on"):
        smoke(example, text, tmp_path / "out", "--heldout-data", text.parent / "." / text.name)


def test_a_text_that_is_the_current_folder_has_an_end_to_hold_out(example, tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    write_text(tmp_path / "texts" / "lines.txt")
    monkeypatch.chdir(tmp_path / "texts")
    assert smoke(example, ".", tmp_path / "out")["is_finished"]


def test_vadd_starts_from_a_trained_mdm(example, text, tmp_path):
    smoke(example, text, tmp_path / "out", "--baseline", "mdm")
    mdm = folder_of(tmp_path / "out") / "model"
    args = example.parse(["--data", str(text), "--preset", "smoke", "--from-mdm", str(mdm), "--data-root", ""])
    pair = example.texts.build(example.load(args, example.PRESETS["smoke"]), example.PRESETS["smoke"], args)
    stored = VADDModel.from_pretrained(mdm)
    x_t, t = torch.full((2, 16), stored.process.mask_id), torch.ones(2)
    assert torch.equal(pair.model.denoise(x_t, t, torch.randn(2, 4)).logits, stored.denoise(x_t, t).logits)
    report = smoke(example, text, tmp_path / "vadd", "--from-mdm", mdm)
    assert report["options"]["from_mdm"] == str(mdm)
    upper = tmp_path / "upper.txt"
    upper.write_text(text.read_text().upper())  # as many characters, but others
    with pytest.raises(SystemExit, match="error: .*not the same ones"):
        smoke(example, upper, tmp_path / "upper", "--from-mdm", mdm)
    assert not list((tmp_path / "upper").rglob("options.json"))  # which would keep the right one from its place


def test_a_run_does_not_go_on_with_other_options(example, text, tmp_path):
    smoke(example, text, tmp_path / "out")
    with pytest.raises(SystemExit, match="error: .*made with detokenizer None, now 'lm1b'"):
        smoke(example, text, tmp_path / "out", "--detokenizer", "lm1b")
    assert smoke(example, text, tmp_path / "out", "--detokenizer", "lm1b", "--again")["is_finished"]
    smoke(example, text, tmp_path / "out", "--detokenizer", "lm1b", "--zero-shot", f"same={text}")  # judged otherwise


def test_every_text_has_a_judge_of_its_own(example, tmp_path):
    """Which has not seen the rows that are held out."""
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        smoke(example, write_text(tmp_path / str(seed) / "lines.txt", seed), tmp_path / "out", "--seed", seed)
    assert len([path for path in (tmp_path / "out").iterdir() if path.name.startswith("judge-")]) == 2


def test_words_and_characters_are_those_of_the_text_alone():
    data = module_of("text_data")

    class Words(Tokenizer):
        """Every word a token; 3 ends documents."""

        def __init__(self):
            super().__init__(name="words", vocab_size=4, separator=3, fingerprint="")

        def encode_texts(self, texts):
            raise NotImplementedError

        def decode_rows(self, rows, mask):
            return [" ".join(("one", "two", "six", "<|end|>", mask)[token] for token in row) for row in rows]

    rows = {"x_0": torch.tensor([[3, 0, 1, 3, 2, 2]]), "is_padding": torch.tensor([[False] * 5 + [True]])}
    assert data.documents_of(rows, Words()) == [["one two", "six"]]
    assert data.texts_of(rows, Words()) == ["one two\nsix"]


def test_words_and_characters_of_rows_are_those_of_the_text(example, text):
    """A word that the border of two rows cuts is one."""
    args = example.parse(["--data", str(text), "--preset", "smoke", "--data-root", "", "--length", "5"])
    data = example.load(args, example.PRESETS["smoke"])
    num = len(data.test["x_0"])
    before = data.tokenizer.decode([data.source.tokens(data.start)["x_0"].flatten().tolist()])[0]
    whole = data.tokenizer.decode([data.source.tokens(data.start + num)["x_0"].flatten().tolist()])[0]
    counts = data.test_counts(num)
    assert counts["num_words"] == len(whole.split()) - len(before.split())
    assert counts["num_characters"] == len(whole) - len(before) == 5 * num
    assert torch.equal(data.source.tokens(data.start + num)["x_0"][data.start :], data.test["x_0"])


def test_a_run_that_stops_before_its_first_log_line_reports(example, text, tmp_path):
    report = smoke(example, text, tmp_path / "out", "--num-updates", "60", "--minutes", "0")
    assert not report["is_finished"]
    folder = folder_of(tmp_path / "out")
    (folder / "training" / "metrics.csv").write_text("step,name,value\n1,validation,2.0\n")
    assert module_of("runs").history_of(folder) == {}


def test_another_text_under_the_same_options_is_noticed(example, text, tmp_path):
    smoke(example, text, tmp_path / "out", "--baseline", "mdm")
    lines = text.read_text().splitlines()
    text.write_text("\n".join([lines[-1], *lines[:-1]]) + "\n")  # as many rows, others held out
    with pytest.raises(SystemExit, match="rows '.*use the same"):
        smoke(example, text, tmp_path / "out", "--baseline", "mdm")


def test_the_words_of_the_training_text_are_not_those_of_what_is_held_out(example, tmp_path):
    text = write_text(tmp_path / "lines.txt")
    text.write_text(text.read_text() + "unheard of words at the end of all\n" * 3)
    args = example.parse(["--data", str(text), "--preset", "smoke", "--data-root", ""])
    words = example.load(args, example.PRESETS["smoke"]).words
    assert set(WORDS) - {"a"} <= words
    assert "unheard" not in words


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_rows_of_a_published_protocol_are_trained_on(example, tmp_path, packing):
    tokenizers = pytest.importorskip("tokenizers")
    root = tmp_path / "root"
    (root / "bert-base-uncased").mkdir(parents=True)
    words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", *WORDS]
    words += [f"word{i}" for i in range(30_522 - len(words))]
    assert words[100:103] == ["[UNK]", "[CLS]", "[SEP]"]
    (root / "bert-base-uncased" / "vocab.txt").write_text("\n".join(words) + "\n")
    assert tokenizers is not None
    text = write_text(tmp_path / "lines.txt")
    given = ("--protocol", f"lm1b-{packing}-train", "--length", 16, "--data-root", root)
    args = example.parse(["--data", str(text), "--preset", "smoke", *map(str, given)])
    data = example.load(args, example.PRESETS["smoke"])
    x, is_padding = data.test["x_0"], data.test.get("is_padding", torch.zeros_like(data.test["x_0"], dtype=torch.bool))
    assert bool((x[:, 0] == 101).all())
    last = (~is_padding).sum(1) - 1
    assert bool((x.gather(1, last[:, None]) == 102).all())
    assert ("is_padding" in data.test) == (packing == "padded")
    smoke(example, text, tmp_path / "out", *given[:4], "--data-root", root, "--baseline", "mdm")
    (filled,) = infill(folder_of(tmp_path / "out"), "the [MASK] stones", "--num", 1, "--num-steps", 1)[1]
    assert filled.startswith("the ")
    assert filled.endswith(" stones")


def test_the_protocol_of_openwebtext_is_run_with_its_six_other_texts(example, data_root, tmp_path):
    """On lines in place of the corpora, with the vocabulary of GPT-2."""
    text = write_text(tmp_path / "lines.txt")
    with text.open("a") as file:
        file.write("held out\n" * 100_000)  # the protocol leaves as many of its last documents alone
    names = ("arxiv", "lm1b", "lambada", "wikitext-103", "pubmed", "ag-news")
    others = [f"{name}={write_text(tmp_path / f'{name}.txt', seed)}" for seed, name in enumerate(names, 1)]
    given = ("--protocol", "openwebtext-train", "--length", 16, "--data-root", data_root)
    report = smoke(example, text, tmp_path / "out", *given, "--judge-updates", 1, "--zero-shot", *others)
    assert report["unit"] == "nats per row of 16 tokens of gpt2, packed"
    assert [part["name"] for part in report["zero_shot"]] == list(names)
    for part in report["zero_shot"]:
        perplexities = [row["perplexity"] for row in part["bounds"] if row.get("perplexity") is not None]
        assert perplexities
        assert min(perplexities) > 1


@pytest.mark.parametrize(
    ("is_padded", "tokens", "known", "padding"),
    [
        (True, [8, 5, 6, 9, 0], [1, 1, 0, 1, 1], [0, 0, 0, 0, 1]),
        (False, [8, 5, 6, 0, 9], [1, 1, 0, 1, 1], [0, 0, 0, 1, 0]),
    ],
)
def test_a_frame_goes_around_the_text_or_the_row(is_padded, tokens, known, padding):
    module = module_of("text_infill")
    flags = [torch.tensor([[True, False, True]]), torch.tensor([[False, False, True]])]
    framed = module.frame_row((torch.tensor([[5, 6, 0]]), *flags), module.Form(is_padded, (8, 9)))
    assert [value[0].int().tolist() for value in framed] == [tokens, known, padding]


@pytest.mark.parametrize("stride", [None, 4])
def test_other_texts_are_evaluated(example, text, tmp_path, stride):
    other = write_text(tmp_path / "other.txt", seed=2, lines=30)
    given = [f"--zero-shot=other={other}", *([] if stride is None else ["--stride", stride])]
    report = smoke(example, text, tmp_path / "out", *given)
    (part,) = report["zero_shot"]
    assert part["name"] == "other"
    assert [row["name"] for row in part["bounds"]][-1] == "DELBO, the published metric"
    assert all("perplexity" in row for row in part["bounds"][:-1])
    assert "delbo_perplexity" in part["bounds"][-1]
    assert ("windows of 4" in part["what"]) == (stride is not None)


@pytest.mark.parametrize(
    ("content", "given", "message"),
    [
        ("", (), "empty"),
        ("a b c d e f g\n" * 20, (), "too few to hold"),
        (b"\xff\xfe\x00bad", (), "UTF-8"),
        (None, ("--zero-shot", "nonsense"), "NAME=SOURCE"),
        ("9 lives\n" * 100, ("--tokenizer", "wiki27"), "'9'"),
        (None, ("--num-updates", "0"), "num_updates"),
        (None, ("--length", "0"), "length"),
        (None, ("--baseline", "mdm", "--prior", "trunk"), "--prior"),
        (None, ("--stride", "17", "--zero-shot", "x=y"), "--stride"),
        (None, ("--stride", "4"), "--zero-shot"),
        (None, ("--judge-updates", "0"), "--judge-updates must be at least 1"),
        (None, ("--judge", "gpt2", "--judge-updates", "5"), "no --judge"),
        (None, ("--kl-warmup", "1.5"), "--kl-warmup is a share"),
        (None, ("--baseline", "mdm", "--kl-warmup", "0.5"), "--kl-warmup 0.5 is of a latent"),
        (None, ("--latents", "patches", "--prior", "trunk"), "--prior trunk"),
        (None, ("--zero-shot", f"x={__file__}", f"x={__file__}"), "two texts of the name 'x'"),
        (None, ("--heldout-split", "test"), "--heldout-data"),
        (None, ("--baseline", "mdm", "--latents", "positions"), "--latents positions"),
        (None, ("--baseline", "mdm", "--recipe", "paper"), "not both"),
        (None, ("--protocol", "lm1b-padded-train", "--tokenizer", "gpt2"), "--tokenizer gpt2"),
        (None, ("--protocol", "lm1b-padded-train", "--packing", "packed"), "--packing packed"),
    ],
    ids=[
        *("empty", "short", "bytes", "zero-shot", "alphabet", "updates", "length", "prior", "stride"),
        *(
            "stride alone",
            "no updates of a judge",
            "two judges",
            "share",
            "no latent to warm up",
            "prior of patches",
            "two of a name",
            "heldout split",
        ),
        *("latents", "two models", "tokenizer", "packing"),
    ],
)
def test_wrong_input_is_one_message(example, text, tmp_path, content, given, message):
    if content is not None:
        text.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        smoke(example, text, tmp_path / "out", *given)


def test_a_prior_that_was_asked_for_stays(example, text, tmp_path):
    smoke(example, text, tmp_path, "--prior", "trunk")
    model = VADDModel.from_pretrained(next(tmp_path.glob("*/model")))
    assert isinstance(model.prior, TrunkPrior)


def test_fresh_latents_are_judged_by_draws_from_guide_and_prior(example, text, tmp_path):
    rows = {row["name"]: row for row in smoke(example, text, tmp_path, "--recipe", "paper")["bounds"]}
    assert {rows[name]["proposal"] for name in ("finite-step, T=1", "finite-step, T=2", "one jump, 50% masked")} == {
        "mixture"
    }
    assert rows["DELBO, the published metric"]["proposal"] == "guide"


def test_text_that_is_not_there_is_one_message(example, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*nowhere\.txt"):
        smoke(example, tmp_path / "nowhere.txt", tmp_path / "out")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    smoke(module_of("text_svi"), write_text(out / "lines.txt"), out / "runs")
    return folder_of(out / "runs")


def infill(trained, text, *given):
    return module_of("text_infill").main(["--checkpoint", str(trained), "--text", text, *map(str, given)])


@pytest.mark.parametrize("latents", ["prior", "posterior"])
def test_gaps_are_filled_and_known_text_stays(trained, latents):
    found = infill(trained, "a [MASK:3] sun[MASK]", "--num", 4, "--num-steps", 1, 2, "--latents", latents)
    assert list(found) == [1, 2]
    for texts in found.values():
        assert len(texts) == 4
        assert all(len(text) == len("a ___ sun_") and text[:2] == "a " and text[5:9] == " sun" for text in texts)


def test_an_open_gap_takes_what_is_left(trained):
    (text,) = infill(trained, "the [MASK:*] sun", "--num", 1, "--num-steps", 1)[1]
    assert len(text) == 16
    assert text.startswith("the ")
    assert text.endswith(" sun")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the sun", "no gap"),
        ("[MASK:*] sun [MASK:*]", "several"),
        ("the sun and stones[MASK]", "shorten"),
        ("[MASK:17]", "shorten"),
        ("a [MASK:-1] [MASK]", "none of"),
        ("a [MASK:0] b", "no tokens"),
        ("a 9[MASK]", "'9'"),
    ],
)
def test_what_cannot_be_filled_is_one_message(trained, text, message):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        infill(trained, text)


def test_a_tokenizer_of_another_vocabulary_is_refused(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    load_tokenizer("chars", texts=["abc"]).save(tmp_path / "run" / "model" / "tokenizer")
    with pytest.raises(SystemExit, match="error: .* tokens, the tokenizer"):
        infill(tmp_path / "run", "a[MASK]")
    with pytest.raises(SystemExit, match="error: .*no model of text"):
        infill(tmp_path, "a[MASK]")
