"""Settings of Sphinx. ``make docs`` builds the pages of this folder and the reference into ``docs/_build``."""

import functools
import pkgutil
import re
import sys
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import vadd

project = "vadd"
author = project_copyright = "The vadd authors"
version = release = vadd.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"vadd {release}"
html_copy_source = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # links to headings, as GitHub makes them
nb_execution_mode = "off"  # tutorials show what `make tutorials` stored

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # a method without text of its own is explained by the base class
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_attr_annotations = False
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

# References into the library are checked, those into other packages are not: it would take their inventories from the
# network. Axes of jaxtyping's annotations look like references, too.
nitpick_ignore_regex = [
    ("py:.*", r"(abc|collections|datasets|hypothesis|jaxtyping|pathlib|pyro|re|torch|typing)\..+"),
    ("py:class", r"Tensor|'.*'"),
]

_PRIVATE_TYPE = re.compile(r"\b(?:vadd\.[\w.]+\.)?_[A-Z]\b")


def setup(app: Sphinx) -> None:
    """Connect the functions below."""
    app.connect("autodoc-process-docstring", explain_data, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", join_names, priority=400)
    app.connect("autodoc-process-bases", show_public_bases)
    app.connect("autodoc-process-signature", show_self)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-read", leave_out_object)
    app.connect("missing-reference", resolve_by_object)


def explain_data(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Explain constants by the comment where they are defined, array types by their shape."""
    if what == "data":
        lines[:] = _comment(name, obj)
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # napoleon would take a first line with a colon for a type and its explanation


def _comment(name: str, obj: Any) -> list[str]:
    short = name.rpartition(".")[2]
    shape = [f"``{obj.__name__}``", ""] if getattr(obj, "__module__", "") == "jaxtyping" else []
    for module in [m for n, m in sys.modules.items() if n.startswith("vadd.") and vars(m).get(short) is obj]:
        comment = ModuleAnalyzer.for_module(module.__name__).find_attr_docs().get(("", short))
        if comment:
            return shape + comment
    return shape


def join_names(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Prepare lists of names that share an explanation: arguments stand in one line, attributes in one word."""
    is_attribute = False
    for i in reversed(range(len(lines) - 1)):
        if re.fullmatch(r"\s+(\w+, )*\w+,", lines[i]):
            lines[i : i + 2] = [f"{lines[i]} {lines[i + 1].strip()}"]
    for i, line in enumerate(lines):
        is_attribute = line == "Attributes:" or (is_attribute and (not line or line.startswith(" ")))
        names = re.match(r" {4}(\w+, )+\w+:", line)
        if is_attribute and names:
            lines[i] = names[0].replace(", ", ",") + line[names.end() :]


def show_public_bases(app: Sphinx, name: str, obj: type, options: Any, bases: list[Any]) -> None:
    """Leave out base classes that are internal."""
    for i, base in enumerate(bases):
        while base.__module__.startswith("vadd.") and "._" in f"{base.__module__}.{base.__name__}":
            base = base.__bases__[0]
        bases[i] = base


def show_self(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Show what a class method returns as ``Self``."""
    return signature, None if returned is None else _PRIVATE_TYPE.sub("Self", returned)


def skip_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which their class explains."""
    return True if (getattr(obj, "__doc__", "") or "").startswith("Alias for field number") else None


def leave_out_object(app: Sphinx, doctree: nodes.document) -> None:
    """Leave out the line on base classes where there are none."""
    for paragraph in [node for node in doctree.findall(nodes.paragraph) if node.astext() == "Bases: object"]:
        paragraph.parent.remove(paragraph)


def resolve_by_object(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Let every name of an object lead to the one that it is documented under; what is not public is no link."""
    if node.get("refdomain") != "py":
        return None
    domain, target = env.domains.python_domain, node["reftarget"]
    owner = ".".join(filter(None, (node.get("py:module"), node.get("py:class"))))
    for name in (target, f"{owner}.{target}", f"{getattr(_find(owner), '__module__', '')}.{target}"):
        found = _find(name)
        if found is None:
            continue
        public = _documented(domain).get(found) if _is_named(found) else None
        if public is None:
            return contnode
        return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], public, node, contnode)
    text = getattr(_find(owner), "__doc__", None) or ""
    is_field = target in getattr(_find(owner), "__annotations__", ()) or re.search(rf"(?m)^ +{target}:", text)
    return contnode if is_field else None


def _find(name: str) -> Any:
    """The object of the library that has the dotted name; None where there is none."""
    if not name.startswith("vadd."):
        return None
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return None


def _is_named(found: Any) -> bool:
    return isinstance(found, type) or hasattr(found, "__func__") or hasattr(found, "__code__")


@functools.cache
def _documented(domain: Any) -> dict[Any, str]:
    """Names of classes, functions and methods in the reference."""
    names = [name for name, entry in domain.objects.items() if not entry.aliased and name.startswith("vadd.")]
    found = {name: _find(name) for name in names}
    return {value: name for name, value in found.items() if _is_named(value)}
