"""The pages on extending the library run as they stand, but for the training steps, and print what they say."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from doc_pages import blocks, run  # noqa: E402

PAGES = sorted((Path(__file__).resolve().parents[1] / "docs" / "extending").glob("*.md"))
# Packages beside the core that a page needs.
NEEDS = {"callback": "accelerate", "data": "accelerate", "tokenizer": "datasets"}
CHECKS = {"prior": "check_prior", "backbone": "check_denoiser", "recognition": "check_recognition"}


def test_each_extension_point_has_a_page():
    assert {page.stem for page in PAGES} >= CHECKS.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_runs_and_prints_what_it_shows(page, capsys):
    if page.stem in NEEDS:
        pytest.importorskip(NEEDS[page.stem])
    run(page.read_text(), lambda: capsys.readouterr().out, {"__name__": f"docs.extending.{page.stem}"})


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in CHECKS], ids=lambda page: page.stem)
def test_the_page_shows_a_part_of_fewer_than_thirty_lines_its_check_and_mistakes(page):
    text = page.read_text()
    parts = [code for language, code in blocks(text) if language == "python" and "@register" in code]
    assert parts
    assert all(len(part[part.index("class") :].splitlines()) < 30 for part in parts)
    assert f"{CHECKS[page.stem]}(" in text
    assert "## Common mistakes" in text


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(1)\n```\n```text\n2\n```\n",
        "```python\nprint(1)\n```\n```python\nprint(2)\n```\n```text\n2\n```\n",
        "```python\nprint(1)\n```\n",
        "```text\n1\n```\n",
    ],
)
def test_a_page_that_prints_something_else_is_refused(text, capsys):
    with pytest.raises(AssertionError):
        run(text, lambda: capsys.readouterr().out, {})
