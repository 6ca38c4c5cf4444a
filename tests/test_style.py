"""Rules of CONTRIBUTING that a program can hold: sizes of functions, and shapes in the docstrings of arrays.

Functions that break a rule are listed in style_exceptions.txt. The list may only shrink: a function that keeps the
rule, or is gone, has to leave it.
"""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "finetune"
MAX_PARAMETERS, MAX_BODY_LINES, MAX_DEPTH = 6, 40, 4
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith, ast.Match)
ARRAYS = re.compile(r"\b(ndarray|Tensor)\b")
CONTAINERS = re.compile(r"\b(dict|Mapping|list|Sequence|tuple|Callable)\[.*\]")  # of arrays: what they hold varies
# (N, K), (B, T, 3, H, W), (…): or a suffix of axis letters on a name, as clips_BTCHW, or a word that tells the shape.
SHAPE = re.compile(r"\((?:[A-Z….*\d][\w'… ]*,?[^()]*)\)|\(\w+, \w+\)|\b0-dim\b|\b[Ss]hapes?\b|_[A-Z\d]{1,6}\b")
RULES = ("parameters", "lines", "depth", "shapes")
EXCEPTIONS = Path(__file__).with_name("style_exceptions.txt")


def functions():
    """(name, node, docstring of its class) of every function, named `file:Class.function`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield from _functions_in(ast.parse(path.read_text()), path.relative_to(PACKAGE).as_posix() + ":", "")


def _functions_in(node, prefix, about):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _functions_in(child, f"{prefix}{child.name}.", ast.get_docstring(child) or "")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{child.name}", child, about


def parameters(node):
    args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([arg for arg in args if arg.arg not in {"self", "cls"}])


def body_lines(node):
    first = node.body[1:] if ast.get_docstring(node) else node.body
    return node.end_lineno - first[0].lineno + 1 if first else 0


def depth(node):
    """How many blocks stand in one another; `elif` counts as the `if` that it goes on."""

    def deepest(child, level, *, is_elif=False):
        level += isinstance(child, BLOCKS) and not is_elif
        below = [level]
        for name, value in ast.iter_fields(child):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST) and not isinstance(part, ast.Lambda | ast.FunctionDef):
                    elif_of = isinstance(child, ast.If) and name == "orelse" and len(value) == 1
                    below.append(deepest(part, level, is_elif=elif_of and isinstance(part, ast.If)))
        return max(below)

    return max((deepest(child, 0) for child in node.body), default=0)


def lacks_shapes(name, node, about=""):
    """Whether a public function takes or returns arrays, and neither names nor docstrings tell a shape."""
    parts = name.split(":")[1].split(".")
    if any(part.startswith("_") for part in parts):
        return False
    args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    kinds = [ast.unparse(arg.annotation) for arg in args if arg.annotation]
    kinds += [ast.unparse(node.returns)] if node.returns else []
    if not any(ARRAYS.search(CONTAINERS.sub("", kind)) for kind in kinds):
        return False
    names = " ".join([*(arg.arg for arg in args), node.name])
    return not SHAPE.search(f"{about} {ast.get_docstring(node) or ''} {names}")


def violations():
    broken = set()
    for name, node, about in functions():
        sizes = {
            "parameters": parameters(node) > MAX_PARAMETERS,
            "lines": body_lines(node) > MAX_BODY_LINES,
            "depth": depth(node) > MAX_DEPTH,
            "shapes": lacks_shapes(name, node, about),
        }
        broken |= {f"{rule} {name}" for rule, is_broken in sizes.items() if is_broken}
    return broken


@pytest.mark.parametrize("rule", RULES)
def test_functions_keep_the_rules_or_are_known_exceptions(rule):
    known = {line for line in EXCEPTIONS.read_text().splitlines() if line.startswith(f"{rule} ")}
    broken = {line for line in violations() if line.startswith(f"{rule} ")}
    assert broken - known == set(), "new code keeps the rules of CONTRIBUTING"
    assert known - broken == set(), "these keep the rule now: take them from the list"


def test_sizes_are_counted_as_a_reader_counts_them():
    node = ast.parse(
        "def f(self, a, *, b):\n  '''Doc.'''\n  for x in a:\n    if x:\n      pass\n    elif b:\n      pass\n"
        "    else:\n      while b:\n        pass\n  return a\n"
    ).body[0]
    assert (parameters(node), body_lines(node), depth(node)) == (2, 9, 3)
    array = ast.parse("def area(boxes: np.ndarray) -> float:\n  '''Of each.'''\n  return 1").body[0]
    assert lacks_shapes("a.py:area", array)
    array.body[0].value.value = "Mean area of boxes (N, 4), in pixels."
    assert not lacks_shapes("a.py:area", array)
