"""Mutants of a small package are noticed or survive as they must, and only what computes something is changed."""

import json
import py_compile
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray")

ROOT = Path(__file__).resolve().parents[2]

FUNCTION = '''
def larger(x: "int | None", *, low: int) -> int:
    """The larger of both, at least 2 - 1."""
    return x if x > low else low
'''
TEST = """
from toy.bounds import larger

def test_larger():
    assert [larger(x, low=1) for x in (0, 1, 3)] == [1, 1, 3]
"""
LOOP = """
START = [3][0]

def count():
    n = START
    while n:
        n = n - 1
"""
SIGNS = '''
@decorated(1 + 1)
def f(a: int | None, *rest: "2", scale=3, **options: 4) -> 5:
    """6 - 7"""
    if not rest:
        raise ValueError(f"{a + 1} is less than {8 - 1}")
    assert a is not None
    return g(a, *rest, scale=scale * a, device=a - 1, strict=True, **{"b": a, **options})

class C:
    def __repr__(self):
        return 9 * "C"
'''


@pytest.fixture
def mutation():
    import mutation

    return mutation


@pytest.fixture
def toy(mutation, tmp_path, monkeypatch):
    """A repository with a package of one function, and one test."""
    for name, text in (("toy/bounds.py", FUNCTION), ("tests/bounds/test_larger.py", TEST), ("toy/__init__.py", "")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / ".gitignore").write_text("outputs/\n")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # quick to start
    monkeypatch.setattr(mutation, "CORE", ("toy/bounds.py",))
    commit(tmp_path)
    return tmp_path


def commit(root):
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "toy"]):
        subprocess.run(["git", "-C", root, "-c", "user.name=t", "-c", "user.email=t@example.org", *command], check=True)


def results_of(mutation, toy):
    mutation.main(["--root", str(toy), "--num-mutants", "9", "--out", str(toy / "outputs")])
    return json.loads((toy / "outputs" / "mutation.json").read_text())["results"]


def test_what_a_test_sees_is_killed_and_what_none_can_see_survives(mutation, toy, monkeypatch):
    found = results_of(mutation, toy)
    assert (found["mutants_in_all"], found["sample"], found["noticed"], found["equivalent"]) == (3, 3, 2, 0)
    assert found["rate"] == pytest.approx(2 / 3)
    (survivor,) = found["survivors"]
    assert (survivor["line"], survivor["function"], survivor["tests"]) == (4, "larger", 1)
    assert survivor["diff"][1] == "+    return x if x >= low else low"
    assert (toy / "toy/bounds.py").read_text() == FUNCTION
    assert (toy / "outputs/mutation/tree/toy/bounds.py").read_text() == FUNCTION

    outcomes = toy / "outputs" / "mutation" / "outcomes.jsonl"
    rows = outcomes.read_text()
    killers = [row["by"] for row in map(json.loads, rows.splitlines()) if row["outcome"] == "killed"]
    assert killers == ["tests/bounds/test_larger.py::test_larger"] * 2
    assert results_of(mutation, toy) == found  # nothing is run a second time
    assert outcomes.read_text() == rows

    listed = toy / "equivalent.json"
    listed.write_text(json.dumps([{**{key: survivor[key] for key in ("module", "function", "diff")}, "reason": "x"}]))
    monkeypatch.setattr(mutation, "EQUIVALENT", listed)
    found = results_of(mutation, toy)
    assert (found["noticed"], found["equivalent"], found["rate"], found["survivors"]) == (2, 1, 1.0, [])


@pytest.mark.slow
def test_survivors_alone_are_run_again_once_tests_have_changed(mutation, toy):
    results_of(mutation, toy)
    # The float says which of two equal numbers it was.
    text = TEST + "    assert isinstance(larger(1.0, low=1), int)\n"
    (toy / "tests/bounds/test_larger.py").write_text(text)
    commit(toy)
    assert results_of(mutation, toy)["rate"] == 1.0
    assert len((toy / "outputs" / "mutation" / "outcomes.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_bytecode_of_the_unmutated_module_does_not_stand_in_for_a_mutant(mutation, toy):
    results_of(mutation, toy)
    source = toy / "outputs" / "mutation" / "tree" / "toy" / "bounds.py"
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    text = TEST + "    assert isinstance(larger(1.0, low=1), int)\n"
    (toy / "tests/bounds/test_larger.py").write_text(text)
    commit(toy)
    assert results_of(mutation, toy)["rate"] == 1.0


def test_a_test_that_fails_without_coverage_alone_kills_nothing(mutation, toy):
    text = TEST + "    import sys\n    assert sys.gettrace() is not None\n"
    (toy / "tests/bounds/test_larger.py").write_text(text)
    commit(toy)
    found = results_of(mutation, toy)
    assert found["noticed"] == 0
    assert found["tests_left_out"] == ["tests/bounds/test_larger.py::test_larger"]


@pytest.mark.slow
def test_endless_loops_are_stopped_and_what_cannot_be_imported_is_noticed(mutation, toy, monkeypatch):
    import mutation_tests

    (toy / "toy/bounds.py").write_text(LOOP)
    (toy / "tests/bounds/test_larger.py").write_text("from toy.bounds import count\n\ndef test_count():\n    count()\n")
    commit(toy)
    monkeypatch.setattr(mutation_tests, "LEAST_SECONDS", 2)
    found = results_of(mutation, toy)
    assert found["sample"] == 8
    assert found["noticed_by_being_stopped"] == 3  # steps of 2, of 0, and upwards
    assert found["noticed_by_an_import"] == 1  # [3][1]
    assert found["noticed"] == 4


def test_tests_that_do_not_pass_without_a_mutation_notice_none(mutation, toy):
    (toy / "tests/bounds/test_larger.py").write_text(TEST.replace("[1, 1, 3]", "[1, 1, 4]"))
    commit(toy)
    found = results_of(mutation, toy)
    assert found["noticed"] == 0
    assert found["tests_left_out"] == ["tests/bounds/test_larger.py::test_larger"]


def test_only_what_computes_something_is_changed(mutation):
    source = mutation.Source(SIGNS)
    places = {(name.rpartition("/")[2], place) for name, _, place in mutation.positions(source)}
    lines = SIGNS.splitlines()
    assert {(name, lines[line - 1][column]) for name, (line, column) in places} == {
        ("NumberReplacer", "3"),  # a default
        ("AddNot", "n"),
        ("ReplaceUnaryOperator_Delete_Not", "n"),
        ("ReplaceBinaryOperator_Mul_Div", "*"),  # of the scale, no star of arguments
        ("DropKeyword", "s"),  # the scale
    }


def test_operators_make_what_their_examples_say(mutation):
    import mutation_operators

    for operator in (mutation_operators.SwapName, mutation_operators.DropKeyword):
        for example in operator.examples():
            mutated = mutation.mutate_code(example.pre_mutation_code, operator(), example.occurrence)
            assert mutated == example.post_mutation_code


def test_a_larger_sample_begins_with_the_smaller_one(mutation):
    modules = mutation.modules_of(ROOT, ["vadd/schedules.py", "vadd/samplers/time_grid.py"])
    small, of_all = mutation.draw_sample(ROOT, modules, 3, seed=0)
    large, _ = mutation.draw_sample(ROOT, modules, 6, seed=0)
    assert large[:3] == small
    assert len(set(large)) == 6 < of_all
    assert mutation.draw_sample(ROOT, modules, 3, seed=1)[0] != small


def test_a_change_of_a_line_leaves_the_rest_of_the_sample_alone(mutation, tmp_path):
    lines = [f"x{i} = {i} + y" for i in range(10)]

    def drawn():
        (tmp_path / "a.py").write_text("\n".join(lines))
        sample, of_all = mutation.draw_sample(tmp_path, ["a.py"], 100, seed=0)
        assert len(sample) == of_all
        return [mutant.diff for mutant in sample]

    before = drawn()
    lines[4:5] = ["x4 = y", "new = 2"]
    after = drawn()
    changed = {diff for diff in before if diff not in after}
    assert {diff[0] for diff in changed} == {"-x4 = 4 + y"}
    assert [diff for diff in before if diff not in changed] == [diff for diff in after if diff[0] != "-new = 2"]


def test_the_core_exists_and_each_of_its_modules_has_tests(mutation):
    modules = mutation.modules_of(ROOT, mutation.CORE)
    assert {"vadd/schedules.py", "vadd/objectives/elbo.py"} <= set(modules)
    for module in modules:
        assert mutation.folders_of(ROOT, module), module


def test_equivalent_mutants_are_argued_and_still_there(mutation):
    known = json.loads(mutation.EQUIVALENT.read_text())
    for row in known:
        assert row.keys() == {"module", "function", "diff", "reason"}
        assert len(row["reason"]) > 20
        lines = (ROOT / row["module"]).read_text().splitlines()
        assert all(line[1:] in lines for line in row["diff"] if line.startswith("-")), row
