"""The pages of the documentation run, the reference is complete, links lead somewhere, and Sphinx builds it all."""

import ast
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
import tomllib
import zlib
from pathlib import Path

import pytest

import vadd
from vadd.errors import ConfigError, DomainError

sys.path.insert(0, str(Path(__file__).parent))
from doc_pages import blocks, run  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = ("start", "mathematics", "evaluation", "troubleshooting", "security")
# Run by tests of their own, as all pages under extending are.
OTHERS = {"images", "latents", "likelihoods", "sampling", "text", "torchtyping", "training"}

LINK = re.compile(r"\]\(([^()\s#]*)(#[^()\s]*)?\)")
DIRECTIVE = re.compile(r"^\.\. auto(?:class|exception|function|data):: (\S+)$", re.MULTILINE)


@pytest.mark.parametrize("name", PAGES)
def test_the_page_runs_and_prints_what_it_shows(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run((DOCS / f"{name}.md").read_text(), lambda: capsys.readouterr().out, {"__name__": f"docs.{name}"})


def test_every_page_with_code_is_run():
    with_code = {page.stem for page in DOCS.glob("*.md") if any(language == "python" for language, _ in text_of(page))}
    assert with_code - OTHERS == set(PAGES)


@pytest.mark.slow
@pytest.mark.usefixtures("_unchecked")
def test_what_the_first_page_promises(capsys):
    names = {"__name__": "docs.start"}
    run((DOCS / "start.md").read_text(), lambda: capsys.readouterr().out, names, shorten=None)
    assert names["agree"] > 0.9
    # The entropy of the data is ln 8 = 2.079 nats: a bound lies above it, but for its error.
    assert 2.07 - 3 * names["result"].stderr < names["result"].nats < 2.3


def test_extension_points_are_listed():
    listed = set(re.findall(r"\]\((\w+)\.md\)", (DOCS / "extending" / "index.md").read_text()))
    assert listed == {page.stem for page in (DOCS / "extending").glob("*.md")} - {"index"}


def test_extras_are_explained():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    table = (DOCS / "troubleshooting.md").read_text().split("| extra | for |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([\w-]+)`", table)) >= extras.keys()


@pytest.mark.parametrize("page", ["evaluation", "troubleshooting", "choosing"])
def test_commands_and_options_are_there(page):
    text = (DOCS / f"{page}.md").read_text()
    for path in re.findall(r"(?:examples|benchmarks)/\w+\.py", text):
        assert (ROOT / path).is_file(), path
    code = "".join(path.read_text() for folder in ("examples", "benchmarks") for path in (ROOT / folder).glob("*.py"))
    ours = "\n".join(
        line for line in text.splitlines() if not re.search("hf download|accelerate launch|pip install", line)
    )
    for option in set(re.findall(r"[` ](--[a-z][a-z-]+)", ours)):
        assert f'"{option}"' in code or f'"{option.replace("--no-", "--")}"' in code, option


def text_of(page):
    return blocks(page.read_text())


def public_names():
    """Every name that a public module exports, with the object."""
    found = [module.name for module in pkgutil.iter_modules(vadd.__path__, "vadd.") if "._" not in module.name]
    for module in ("vadd", *found, "vadd.backbones.families", "vadd.testing.strategies", "vadd.testing.torchtyping"):
        for name in getattr(importlib.import_module(module), "__all__", ()):
            if not name.startswith("__"):
                yield f"{module}.{name}", getattr(importlib.import_module(module), name)


def test_every_public_name_is_in_the_reference():
    named = [name for page in DOCS.glob("api/*.md") for name in DIRECTIVE.findall(page.read_text())]
    assert len(named) == len(set(named))
    public = dict(public_names())
    assert set(named) <= public.keys()
    documented = {id(public[name]) for name in named}
    assert [name for name, value in public.items() if id(value) not in documented] == []


def imports_of(page):
    """What the code of a page, or a program, imports of the library, as ``module.name``."""
    codes = [page.read_text()] if page.suffix == ".py" else [code for kind, code in text_of(page) if kind == "python"]
    for tree in map(ast.parse, codes):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vadd":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


SHOWN = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.stem)
def test_pages_and_examples_import_public_names_alone(page):
    public = {name for name, _ in public_names()}
    assert [name for name in imports_of(page) if name not in public] == []


@pytest.mark.parametrize(("name", "form"), [("page.md", "```python\n{}```\n"), ("example.py", "{}")])
def test_internal_names_are_found(tmp_path, name, form):
    page = tmp_path / name
    page.write_text(form.format("from vadd.backbones.base import Denoiser\nfrom vadd import DELBO\n"))
    public = {name for name, _ in public_names()}
    assert [name for name in imports_of(page) if name not in public] == ["vadd.backbones.base.Denoiser"]


def slug(heading):
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def broken_links(page):
    """Links of a page to files or headings that are not there."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for path, anchor in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"\w+:", path):
            continue
        target = page.parent / path if path else page
        if not target.exists():
            yield path
        elif anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            if anchor[1:] not in map(slug, headings):
                yield path + anchor


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.stem
)
def test_links_lead_somewhere(page):
    assert list(broken_links(page)) == []


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One, two\n[a](#one-two) [b](page.md) [c](gone.md) [d](page.md#three) `[e](x.md)` [f](https://a.b/c)"
    )
    assert list(broken_links(page)) == ["gone.md", "page.md#three"]


def sphinx(folder, *options):
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", *options, str(DOCS), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VADD_TYPECHECK": "0"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


needs_sphinx = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("sphinx", "myst_nb", "furo")),
    reason="needs Sphinx with myst-nb and furo: pip install 'vadd[docs]'",
)


@needs_sphinx
def test_sphinx_has_nothing_to_warn_of(tmp_path):
    result = sphinx(tmp_path / "dummy", "-b", "dummy")
    assert (result.returncode, result.stderr) == (0, "")


@needs_sphinx
@pytest.mark.slow
def test_the_pages_are_built(tmp_path):
    folder = tmp_path / "html"  # pictures of the tutorials are put beside it
    result = sphinx(folder)
    assert (result.returncode, result.stderr) == (0, "")
    *_, compressed = (folder / "objects.inv").read_bytes().split(b"\n", 4)
    inventory = {line.split()[0] for line in zlib.decompress(compressed).decode().splitlines()}
    assert {name for page in DOCS.glob("api/*.md") for name in DIRECTIVE.findall(page.read_text())} <= inventory
    assert "\\alpha_t" in (folder / "mathematics.html").read_text()
    assert "Int[Tensor, 'batch dim']" in re.sub(
        "<[^>]+>", "", (folder / "api" / "process.html").read_text().replace("&#39;", "'")
    )


def raised_in(node):
    """The library's errors that a function raises in its own body."""
    calls = [part.exc for part in ast.walk(node) if isinstance(part, ast.Raise) and isinstance(part.exc, ast.Call)]
    return {ast.unparse(call.func) for call in calls} & set(vadd.errors.__all__)


def silent_errors(name, value):
    """``member: error`` for each error that the documentation of a class or function keeps to itself.

    Constructors, setters and methods without a text of their own are explained by their class, or a base of it.
    """
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    members = [node]
    if inspect.isclass(value):
        is_shown = re.compile("[^_].*|__(init|post_init|call)__").fullmatch
        members = [part for part in node.body if isinstance(part, ast.FunctionDef) and is_shown(part.name)]
    for member in members:
        texts = [ast.get_docstring(member)]
        if not texts[0] or any(ast.unparse(line).endswith(".setter") for line in member.decorator_list):
            texts = [inspect.getdoc(value), inspect.getdoc(getattr(value, member.name, None))]
        said = " ".join(text.partition("\nRaises:\n")[2] for text in texts if text)
        yield from (f"{name}.{member.name}: {error}" for error in sorted(raised_in(member)) if error not in said)


def test_errors_are_in_the_reference():
    public = dict(public_names())
    named = [name for page in DOCS.glob("api/*.md") for name in DIRECTIVE.findall(page.read_text())]
    # Types of arrays have no source, and strategies are wrapped by Hypothesis.
    named = [name for name in named if not name.startswith("vadd.testing.strategies.")]
    objects = {n: public[n] for n in named if getattr(public[n], "__module__", "").startswith("vadd.")}
    sources = {n: value for n, value in objects.items() if inspect.isclass(value) or inspect.isfunction(value)}
    assert len(sources) > 150
    assert [line for name, value in sources.items() for line in silent_errors(name, value)] == []


class Example:
    """Explained.

    Raises:
        ConfigError: always.
    """

    def __init__(self):
        raise ConfigError("no")

    def spoken(self):
        """Explained.

        Raises:
            DomainError: always.
        """
        raise DomainError("no")

    def silent(self):
        """It raises ConfigError."""
        raise ConfigError("no")


def test_errors_that_are_kept_secret_are_found():
    assert list(silent_errors("a", Example)) == ["a.silent: ConfigError"]
    assert list(silent_errors("b", Example.silent)) == ["b.silent: ConfigError"]
