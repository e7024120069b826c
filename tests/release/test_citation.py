"""The citation is of the Citation File Format 1.2.0, and says of the package what the package says of itself."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Of the keys of the format, those that are of use here, and those that it requires.
KEYS = {
    "file": (
        {"cff-version", "message", "title", "authors"},
        {"abstract", "date-released", "doi", "identifiers", "keywords", "license", "preferred-citation", "references"}
        | {"repository-code", "type", "url", "version"},
    ),
    "work": (
        {"type", "title", "authors"},
        {"abstract", "collection-title", "conference", "date-published", "doi", "identifiers", "journal", "notes"}
        | {"pages", "status", "url", "volume", "year"},
    ),
    "person": (set(), {"affiliation", "alias", "email", "family-names", "given-names", "name-particle", "orcid"}),
    "entity": ({"name"}, {"alias", "city", "country", "date-end", "date-start", "email", "location", "website"}),
    "identifier": ({"type", "value"}, {"description"}),
}
WORKS = {"article", "book", "conference-paper", "proceedings", "report", "software", "thesis", "unpublished"}
DOI = re.compile(r"10\.\d{4,9}(\.\d+)?/[A-Za-z0-9:/_;\-.()\[\]\\]+")


def problems(content):
    """What the format does not allow."""
    found = [*keys_of(content, "file"), *authors_of(content)]
    if content.get("cff-version") != "1.2.0" or content.get("type", "software") not in ("software", "dataset"):
        found.append("cff-version must be 1.2.0, type software or dataset")
    if not isinstance(content.get("version", ""), str):
        found.append("version must be a text: quote it")
    preferred = [content["preferred-citation"]] if "preferred-citation" in content else []
    for work in [*content.get("references", []), *preferred]:
        found += [*keys_of(work, "work"), *authors_of(work), *identifiers_of(work)]
        found += keys_of(work["conference"], "entity") if "conference" in work else []
        if work.get("type") not in WORKS or not isinstance(work.get("year", 0), int):
            found.append("a work's type or year is none")
    return [*found, *identifiers_of(content)]


def keys_of(content, kind):
    required, optional = KEYS[kind]
    lacking = [f"{kind} lacks {key}" for key in sorted(required - content.keys())]
    return lacking + [f"{kind} has {key}" for key in sorted(content.keys() - required - optional)]


def authors_of(content):
    authors = content.get("authors")
    if not authors:
        return ["there are no authors"]
    return [problem for author in authors for problem in keys_of(author, "entity" if "name" in author else "person")]


def identifiers_of(content):
    found = []
    for identifier in content.get("identifiers", []):
        found += keys_of(identifier, "identifier")
        if identifier.get("type") not in ("doi", "url", "swh", "other"):
            found.append("an identifier's type is none")
        if identifier.get("type") == "doi" and not DOI.fullmatch(identifier.get("value", "")):
            found.append("a DOI is none")
    return found


@pytest.fixture
def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_format_is_kept(citation):
    assert problems(citation) == []


def test_the_package_is_named_as_it_names_itself(citation):
    for key, other in {"title": "name", "abstract": "description"}.items():
        assert citation[key] == PROJECT[other]
    for key in ("version", "license", "authors", "keywords"):
        assert citation[key] == PROJECT[key]


def test_the_paper_is_the_one_of_the_readme(citation):
    (paper,) = citation["references"]
    readme = (ROOT / "README.md").read_text()
    assert f"{paper['authors'][0]['family-names']} et al." in readme
    assert f"({paper['url']})" in readme
    assert paper["identifiers"][0]["value"].endswith("arXiv." + paper["url"].rpartition("/")[2])


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("version",), 1.0, "version must be a text: quote it"),
        (("authors",), [], "there are no authors"),
        (("authors", 0, "family-names"), "X", "entity has family-names"),
        (("authour",), "X", "file has authour"),
        (("references", 0, "title"), None, "work lacks title"),
        (("references", 0, "type"), "paper", "a work's type or year is none"),
        (("references", 0, "conference", "name"), None, "entity lacks name"),
        (("references", 0, "authors", 1, "name-given"), "X", "person has name-given"),
        (("references", 0, "identifiers", 0, "value"), "arXiv:2505.17384", "a DOI is none"),
    ],
)
def test_faults_are_found(path, value, expected, citation):
    *parents, key = path
    part = citation
    for parent in parents:
        part = part[parent]
    if value is None:
        del part[key]
    else:
        part[key] = value
    assert problems(citation) == [expected]
