"""The page of results names every published figure, its commands can be given, and no metric has a wrong name."""

import argparse
import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results.md"
RESULTS = ROOT / "benchmarks" / "results"


def table_of(name):
    """The cells of a table of the page, row by row, without its head."""
    block = re.search(rf"<!-- table {name} -->\n(.*?)<!-- end -->", PAGE.read_text(), re.DOTALL)[1]
    return [line[2:-2].split(" | ") for line in block.splitlines() if line.startswith("| ")][2:]


COMMANDS = [re.fullmatch(r"`python examples/(\w+)\.py (.*)`", row[1]).groups() for row in table_of("full-scale")]


@pytest.fixture
def results_in(tmp_path, monkeypatch):
    """Some of the result files, in a folder that tables read."""
    import tables_shared

    for name in ("toy2d", "latent_design", "binarized_mnist"):
        shutil.copy(RESULTS / f"{name}.json", tmp_path)
    monkeypatch.setattr(tables_shared, "RESULTS", tmp_path)
    return tmp_path


class Parsed(Exception):
    """Raised in place of what an example does with its command line."""


@pytest.mark.parametrize(("example", "options"), COMMANDS)
def test_a_command_of_the_page_parses(example, options, monkeypatch):
    pytest.importorskip("matplotlib")
    from vadd.text import PROTOCOLS

    parse = argparse.ArgumentParser.parse_args

    def stop(parser, argv=None):
        raise Parsed(parse(parser, argv))

    module = importlib.import_module(example)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed) as found:
        module.main(shlex.split(options))
    (args,) = found.value.args
    assert set(getattr(args, "zero_shot", ())) <= PROTOCOLS.keys()


def test_commands_of_all_protocols_are_there():
    import tables_published

    assert {f"python examples/{e}.py {o}" for e, o in COMMANDS} == {
        tables_published.command(name) for name in tables_published.PROTOCOLS
    }


def test_every_published_figure_is_there():
    from tables_published import NOT_PUBLISHED, PROTOCOLS, PUBLISHED

    found = {row[0]: row for row in table_of("results") if row[0]}
    assert found.keys() == {published.task for published in PUBLISHED}
    for published in PUBLISHED:
        _, metric, mdlm, vadd, *_ = found[published.task]
        assert metric == published.metric
        assert metric == NOT_PUBLISHED or published.protocol in PROTOCOLS
        for figure in published.figures:
            assert figure.mdlm in mdlm
            assert figure.vadd in vadd


def test_rows_have_command_and_hours_of_their_protocol():
    from tables_published import PROTOCOLS, PUBLISHED

    hours = dict(zip(PROTOCOLS, ([row[1], row[-1]] for row in table_of("full-scale")), strict=True))
    shown = [row[-2:] for row in table_of("results") if row[0]]
    for published, cells in zip(PUBLISHED, shown, strict=True):
        assert cells == hours.get(published.protocol, ["", ""])
        if published.protocol in hours:
            hours[published.protocol] = ["as above"] * 2
    assert sum(cells == ["as above"] * 2 for cells in shown) == 6  # samples of CIFAR-10, five texts


def test_no_figure_of_ours_has_the_name_of_another_metric():
    names = [row[4] for row in table_of("results")]
    assert any("DELBO" in name for name in names)
    assert not [name for name in names if re.search(r'\b(FID|BPD|PPL)\b|"JS"', name)]


def test_what_was_not_run_says_so_and_appears_once_it_was(results_in):
    import tables_results
    from tables_published import PUBLISHED

    by_task = {published.task: published for published in PUBLISHED}

    def lines(task):
        return tables_results.lines_of(by_task[task])

    for task in ("CIFAR-10, 256 values", "CIFAR-10, samples", *tables_results.STAND_INS):
        assert lines(task) == [("", ["", "", ""], "not run here")]

    shutil.copy(results_in / "binarized_mnist.json", results_in / "cifar10.json")
    assert lines("CIFAR-10, 256 values") == lines("binarized MNIST, cut at 0.5, 32x32")
    found = lines("CIFAR-10, samples")
    assert [title.rsplit(", ")[-1] for title, *_ in found] == [f"{t} steps" for t in tables_results.FID_STEPS]
    assert all("classifier features" in title and all(values) for title, values, _ in found)


def test_stand_ins_are_called_so(results_in):
    import tables_results

    def bounds(model, value):
        row = {"name": "DELBO, the published metric"}
        key = "perplexity" if model == "mdm" else "delbo_perplexity"
        row |= {key: value, f"{key}_stderr": 2.0}
        return [{"name": "finite-step, T=4", "steps": 4, "perplexity": value + 1, "perplexity_stderr": 3.0}, row]

    machine = {"device": "cpu", "cpu": "CPU", "threads": 1}
    runs = [
        {
            "model": model,
            "as_long_as": None,
            "data": "wikitext2",
            "parameters": {"model": 2_000_000, "guide": 0 if model == "mdm" else 500_000},
            "training": {"seconds": 3600.0},
            "updates": 10,
            "preset": {"batch_size": 32},
            "machine": machine,
            "bounds": bounds(model, 50.0),
            "zero_shot": [{"name": "lambada", "what": "9 rows", "bounds": bounds(model, 70.0)}],
        }
        for model in ("mdm", "paper")
    ]
    (results_in / "text_wikitext2-gpt2.json").write_text(json.dumps({"results": {"runs": runs}}))
    found = tables_results.text_lines(*tables_results.STAND_INS["OpenWebText, zero-shot on LAMBADA"])
    assert found[0][:2] == ("trained on a stand-in: DELBO perplexity", ["70.0 ± 2.0", "70.0 ± 2.0", ""])
    assert found[1][:2] == (
        "trained on a stand-in: bound, finite-step, T=4, perplexity",
        ["71.0 ± 3.0", "71.0 ± 3.0", ""],
    )
    assert all(title.startswith("trained on a stand-in: ") for title, _, _ in found)
    assert "2.0M / 2.0M + 0.5M parameters (model + guide)" in found[0][2]
    assert all(ran.startswith("9 rows of this corpus, by models trained on WikiText-2") for _, _, ran in found)
    (not_run,) = tables_results.text_lines(*tables_results.STAND_INS["OpenWebText, zero-shot on PubMed"])
    assert not_run[-1] == "not run here"


def test_hours_are_those_of_the_operations():
    from tables_full_scale import PEAK, gpu_hours

    hour = 3600 * PEAK
    assert gpu_hours(0.45 * hour) == "1.0 to 1.5"
    assert gpu_hours(4500 * hour) == "10,000 to 15,000"
