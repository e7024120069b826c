"""The mutations that ``mutation.py`` draws from: some of Cosmic Ray's, two of our own, and where they do not count.

Of the operators that Cosmic Ray has for each pair of symbols, those are left out whose mutants are other types, and
die of that: a shifted tensor tests nothing.
"""

import ast
from collections.abc import Iterator
from typing import Any

import parso
from cosmic_ray import plugins
from cosmic_ray.operators.operator import Example, Operator
from parso.python import tree

#: Operators of Cosmic Ray, and after them our own.
OPERATORS = (
    *(
        f"core/ReplaceBinaryOperator_{pair}"
        for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul")
    ),
    *(f"core/ReplaceBinaryOperator_{pair}" for pair in ("BitAnd_BitOr", "BitOr_BitAnd", "BitXor_BitOr")),
    *(f"core/ReplaceComparisonOperator_{pair}" for pair in ("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")),
    *(f"core/ReplaceComparisonOperator_{pair}" for pair in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")),
    *(f"core/ReplaceComparisonOperator_{pair}" for pair in ("Lt_GtE", "LtE_Gt", "Gt_LtE", "GtE_Lt")),
    *(f"core/ReplaceUnaryOperator_Delete_{symbol}" for symbol in ("USub", "Invert", "Not")),
    *("core/ReplaceTrueWithFalse", "core/ReplaceFalseWithTrue", "core/ReplaceAndWithOr", "core/ReplaceOrWithAnd"),
    *("core/AddNot", "core/NumberReplacer", "core/ZeroIterationForLoop"),
    *("core/ReplaceBreakWithContinue", "core/ReplaceContinueWithBreak"),
    *("vadd/SwapName", "vadd/DropKeyword"),
)

_PAIRS = (
    *(("sum", "mean"), ("min", "max"), ("minimum", "maximum"), ("amin", "amax"), ("argmin", "argmax")),
    *(("any", "all"), ("exp", "expm1"), ("log", "log1p"), ("sqrt", "square"), ("sin", "cos"), ("floor", "ceil")),
    *(("zeros", "ones"), ("zeros_like", "ones_like"), ("cumsum", "cumprod"), ("softmax", "log_softmax")),
)
SWAPS = {**dict(_PAIRS), **{second: first for first, second in _PAIRS}, "logsumexp": "sum", "log_softmax": "softmax"}

#: Keywords without which no value changes on a CPU: devices, and guards against mistakes in the code.
NO_VALUE = ("device", "non_blocking", "strict")

#: Functions that describe an object.
_DESCRIPTIONS = ("__repr__", "__str__", "extra_repr")


class SwapName(Operator):
    """``sum`` to ``mean``, ``exp`` to ``expm1`` and the like, where they are called or name an argument."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "name" and node.value in SWAPS and node.parent.type not in ("funcdef", "import_from"):
            is_keyword = node.parent.type == "argument" and node is node.parent.children[0]
            if is_keyword or node.get_next_leaf().value == "(":
                yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.value = SWAPS[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return Example("x.sum(-1)", "x.mean(-1)"), Example("x.clamp(min=0)", "x.clamp(max=0)")


class DropKeyword(Operator):
    """A call without one of its keyword arguments, which then has its default."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        for child in self._keywords(node):
            yield child.start_pos, child.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        place = node.children.index(self._keywords(node)[index])
        # With the comma after it, or before it where it is the last.
        last = place == len(node.children) - 1
        del node.children[place - 1 if last else place : place + 1 if last else place + 2]
        if node.type == "trailer":
            node.children.append(tree.Operator(")", node.end_pos))
        return node

    def _keywords(self, node: Any) -> list[Any]:
        inside = node.type == "arglist" or (node.type == "trailer" and node.children[0].value == "(")
        found = [child for child in node.children if child.type == "argument"] if inside else []
        return [c for c in found if c.children[1] == "=" and c.children[0].value not in NO_VALUE]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        cases = (
            ("f(a, b=1)", "f(a)", 0),
            ("f(b=1)", "f()", 0),
            ("f(a=1, b=2)", "f( b=2)", 0),
            ("f(a, b=1,)", "f(a,)", 0),
        )
        return tuple(Example(*case) for case in cases)


plugins.OPERATOR_PROVIDERS["vadd"] = {"SwapName": SwapName, "DropKeyword": DropKeyword}  # pyright: ignore[reportArgumentType]


class Source:
    """A module's text: which places a mutation may change, and in which function they lie.

    Left out is what computes nothing: annotations and unions of types, decorators, assertions, errors that are raised
    (their text, not the conditions before them), warnings, progress bars, composed strings, functions that describe an
    object, and the keywords of :data:`NO_VALUE`. Docstrings hold nothing that the operators know.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        nodes = list(ast.walk(ast.parse(text)))
        excluded: list[Any] = [part for node in nodes for part in _without_value(node)]
        self._excluded = [(_start(node), _end(node)) for node in excluded if node is not None]
        self._functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        #: Places of binary operators, which stars in signatures and displays are not.
        operations = [node for node in nodes if isinstance(node, ast.BinOp) and not _is_union(node)]
        self._operations = [(_end(node.left), _start(node.right)) for node in operations]

    def counts(self, operator: str, place: tuple[int, int]) -> bool:
        """Whether a mutation by this operator at this line and column is one of the code's mathematics."""
        if any(start <= place < end for start, end in self._excluded):
            return False
        return "BinaryOperator" not in operator or any(start <= place < end for start, end in self._operations)

    def function_at(self, place: tuple[int, int]) -> ast.FunctionDef | None:
        """The innermost function of a place; None at the level of a module or class."""
        found = [f for f in self._functions if _start(f) <= place < _end(f)]
        return max(found, key=_start, default=None)


def _without_value(node: Any) -> list[Any]:
    """The parts of a node that are left out."""
    match node:
        case ast.FunctionDef(name=name) if name in _DESCRIPTIONS:
            return [node]
        case ast.FunctionDef():
            annotations = [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg)]
            return [*node.decorator_list, node.returns, *annotations]
        case ast.ClassDef():
            return node.decorator_list
        case ast.keyword(arg=name) if name in NO_VALUE:
            return [node]
        case ast.AnnAssign():
            return [node.annotation]
        case ast.Raise() | ast.Import() | ast.ImportFrom() | ast.Assert() | ast.JoinedStr():
            return [node]
        case ast.Call() if ast.unparse(node.func) in ("warnings.warn", "tqdm"):
            return [node]
        case ast.If() if "TYPE_CHECKING" in ast.unparse(node.test):
            return [node]
    return []


def _is_union(node: ast.AST) -> bool:
    """Whether an expression reads as a type: ``int | None``, ``Mode | Sequence[Mode]``."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.BitOr) and _is_union(node.left) and _is_union(node.right)
    name = ast.unparse(node).partition("[")[0]
    return name in ("None", "int", "float", "bool", "str", "list", "tuple", "dict") or name.lstrip("_")[:1].isupper()


def _start(node: Any) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end(node: Any) -> tuple[int, int]:
    return node.end_lineno, node.end_col_offset


def positions(source: Source) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """All mutations of a module that count: operator, occurrence, line and column."""
    nodes = list(_nodes(parso.parse(source.text)))
    for name in OPERATORS:
        operator = plugins.get_operator(name)()
        places = (place for node in nodes for place, _ in operator.mutation_positions(node))
        for occurrence, place in enumerate(places):
            if source.counts(name, place):
                yield name, occurrence, place


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)
