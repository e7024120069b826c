"""The pages on extending the library run as they stand, but for the training steps, and print what they say."""

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).resolve().parents[1] / "docs" / "extending").glob("*.md"))
CHECKS = {"prior": "check_prior", "backbone": "check_denoiser", "recognition": "check_recognition"}


def blocks(text):
    """Code blocks of a page in order: pairs of language and content."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run(text, printed, names):
    """Execute the Python blocks in one namespace; each text block must be what the block before it printed."""
    said = ""
    for language, content in blocks(text):
        if language == "python":
            assert said == "", "a block printed what the page does not show"
            exec(re.sub(r"range\(\d{3,}\)", "range(3)", content), names)
            said = " ".join(printed().split())
        else:
            assert said == " ".join(content.split())
            said = ""
    assert said == ""


def test_each_extension_point_has_a_page():
    assert {page.stem for page in PAGES} >= CHECKS.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_runs_and_prints_what_it_shows(page, capsys):
    run(page.read_text(), lambda: capsys.readouterr().out, {"__name__": f"docs.extending.{page.stem}"})


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in CHECKS], ids=lambda page: page.stem)
def test_the_page_shows_a_part_of_fewer_than_thirty_lines_its_check_and_mistakes(page):
    text = page.read_text()
    (part,) = (code for language, code in blocks(text) if language == "python" and "@register" in code)
    assert len(part[part.index("class") :].splitlines()) < 30
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
