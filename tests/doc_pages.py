"""Running the code blocks of Markdown pages."""

import doctest
import re
from collections.abc import Callable

_COMPARES = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(text: str) -> list[tuple[str, str]]:
    """Code blocks of a page in order: pairs of language and content."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def fewer_steps(code: str) -> str:
    """The code with three steps in place of hundreds."""
    return re.sub(r"range\(\d{3,}\)", "range(3)", code)


def run(
    text: str, printed: Callable[[], str], names: dict, *, shorten: Callable[[str], str] | None = fewer_steps
) -> None:
    """Execute the Python blocks in one namespace; each text block must be what the block before it printed.

    Blanks and line ends do not matter, and ``...`` in a text block stands for anything.
    """
    said = ""
    for language, content in blocks(text):
        if language == "python":
            assert said == "", "a block printed what the page does not show"
            exec(content if shorten is None else shorten(content), names)
            said = printed()
        elif language == "text":
            assert doctest.OutputChecker().check_output(content, said, _COMPARES), f"{said!r} is not {content!r}"
            said = ""
    assert said == "", "a block printed what the page does not show"
