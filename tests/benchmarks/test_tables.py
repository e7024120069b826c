"""The pages show what the result files say."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "tables.py"


def load():
    spec = importlib.util.spec_from_file_location("tables", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_agree_with_result_files(capsys):
    assert load().main(["--check"]) == 0, capsys.readouterr().out


def test_every_table_is_on_a_page_and_changes_are_seen():
    module = load()
    pages = [(module.ROOT / page).read_text() for page in module.PAGES if (module.ROOT / page).exists()]
    used = {match["name"] for page in pages for match in module.BLOCK.finditer(page)}
    assert used == set(module.TABLES)
    altered = "<!-- table digits -->\nstale\n<!-- end -->"
    assert module.fill(altered) != altered
    assert module.fill(module.fill(altered)) == module.fill(altered)
