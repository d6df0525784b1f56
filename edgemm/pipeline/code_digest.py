"""Code digest: which of edgemm's own definitions a function runs, and their digest, for the keys of stages.

Why: a stage is made again where its code has changed, and nowhere else. What a stage runs is found in its own syntax
tree when a key is made, so nobody writes it down and nobody can forget a line.

A definition is a function, a class or an assignment at the top of a module. From one the way leads on to every
definition that it names: in its body, its annotations, and its imports, whether at the top of the module or inside a
function; and to what a text names, as the tables of towers and losses do (``"edgemm.compress.losses:info_nce"``). A
template counts where a definition names it. Names alone are followed, never values, so more may be counted than runs;
a test runs every stage and holds that nothing runs that isn't counted. Comments, docstrings and layout are no syntax.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
Place = tuple[str, str]
"""A module and the name of a definition in it; ``""``: what runs when the module is imported."""
_IN_TEXT = re.compile(r"(edgemm(?:\.\w+)+)(?::([\w.]+))?")
_BESIDE = re.compile(r"\w+\.(?:html|css|js)")


@dataclass(frozen=True, slots=True)
class _Module:
    """A module's top level.

    Args:
        imports: name -> the module and the name in it that it stands for; an empty name: the module itself.
        definitions: name -> the statements that define it.
        others: statements that define nothing and run when the module is imported.
    """

    imports: Mapping[str, Place]
    definitions: Mapping[str, list[ast.stmt]]
    others: list[ast.stmt]


def code_digest(function: Callable[..., object]) -> str:
    """sha256 (64 hex digits) of the definitions that a function of edgemm runs; of none for a function from elsewhere.

    Args:
        function: at the top of a module, a method, or a ``partial`` of one.
    """
    digest = hashlib.sha256()
    for place in sorted(places_run(function)):
        digest.update(f"{':'.join(place)} {_sha256(place)}\n".encode())
    return digest.hexdigest()


def places_run(function: Callable[..., object]) -> frozenset[Place]:
    """The definitions that a function of edgemm can run; a template's place is its file's name and no definition."""
    while isinstance(function, partial):
        function = function.func
    module = function.__module__
    return _reached((module, function.__qualname__.partition(".")[0])) if is_module(module) else frozenset()


@cache
def source_of(module: str) -> str:
    """The text of a module of edgemm, or of a template by its path in the package, as it was when first asked for."""
    return (PACKAGE / module if "/" in module else _file(module)).read_text(encoding="utf-8")


def is_module(name: str) -> bool:
    """Return whether a dotted name is a module or package of edgemm."""
    return name.partition(".")[0] == "edgemm" and _file(name).is_file()


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _reached(start: Place) -> frozenset[Place]:
    found: set[Place] = set()
    ahead = [start]
    while ahead:
        place = ahead.pop()
        if place not in found:
            found.add(place)
            ahead += _named_by(place)
    return frozenset(place for place in found if _is_code(place))


def _is_code(place: Place) -> bool:
    """Whether a place has text of its own; one that is imported from elsewhere, or a whole module, leads on only."""
    module, name = place
    return "/" in module or name in _parsed(module).definitions or (not name and bool(_parsed(module).others))


@cache
def _sha256(place: Place) -> str:
    module, name = place
    if "/" in module:
        text = source_of(module)
    else:
        parsed = _parsed(module)
        text = "\n".join(map(ast.dump, parsed.definitions[name] if name else parsed.others))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _named_by(place: Place) -> tuple[Place, ...]:
    """Return the places that one leads to."""
    module, name = place
    if "/" in module:
        folder = module.rpartition("/")[0]
        return tuple(_beside(folder, _BESIDE.findall(source_of(module))))
    parsed = _parsed(module)
    package = module.rpartition(".")[0]
    found: list[Place] = [(module, ""), *([(package, "")] if package else [])]
    if name == "*":
        found += [(module, known) for known in (*parsed.definitions, *parsed.imports)]
    elif not name:
        found += _names(parsed.others, module, parsed)
    elif name in parsed.definitions:
        found += _names(parsed.definitions[name], module, parsed)
    elif name in parsed.imports:
        found.append(_target(parsed.imports[name]))
    elif is_module(f"{module}.{name}"):
        found.append((f"{module}.{name}", "*"))
    else:  # a name that the module makes when it is asked for
        found.append((module, "*"))
    return tuple(found)


def _target(place: Place) -> Place:
    module, name = place
    return place if name else (module, "*")


def _names(statements: Iterable[ast.stmt], module: str, parsed: _Module) -> Iterator[Place]:
    """Yield the places that statements name."""
    nodes = [node for statement in statements for node in ast.walk(statement)]
    imports = {**parsed.imports, **_imports(nodes)}
    attributes: set[int] = set()
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            home, name = imports.get(node.value.id, ("", ""))
            if name and is_module(f"{home}.{name}") and name not in _parsed(home).definitions:
                home, name = f"{home}.{name}", ""
            if home and not name:  # of a module only what is named of it
                attributes.add(id(node.value))
                yield home, node.attr
    for node in nodes:
        if isinstance(node, ast.Name) and id(node) not in attributes:
            if node.id in imports:
                yield _target(imports[node.id])
            elif node.id in parsed.definitions:
                yield module, node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if (match := _IN_TEXT.fullmatch(node.value)) and is_module(match[1]):
                yield match[1], (match[2] or "*").partition(".")[0]
            yield from _beside("/".join(module.split(".")[1:-1]), [node.value] if _BESIDE.fullmatch(node.value) else [])


def _beside(folder: str, names: Iterable[str]) -> Iterator[Place]:
    """Yield the templates of these names in a folder of the package."""
    yield from ((f"{folder}/{name}", "") for name in names if (PACKAGE / folder / name).is_file())


@cache
def _parsed(module: str) -> _Module:
    definitions: dict[str, list[ast.stmt]] = {}
    others: list[ast.stmt] = []
    imported: list[ast.AST] = []
    tree = ast.parse(source_of(module))
    _drop_docstrings_(tree)
    for statement in tree.body:
        found = list(_defined_by(statement))
        for name in found:
            definitions.setdefault(name, []).append(statement)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imported.append(statement)
        elif isinstance(statement, ast.If | ast.Try) and not found:
            inside = list(ast.walk(statement))
            imported += [node for node in inside if isinstance(node, ast.Import | ast.ImportFrom)]
            if not _is_type_checking(statement):
                others.append(statement)
        elif not found:
            others.append(statement)
    return _Module(_imports(imported), definitions, others)


def _defined_by(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        for target in targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))  # type: ignore[arg-type]


def _is_type_checking(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.If) and isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"
    )


def _imports(nodes: Iterable[ast.AST]) -> dict[str, Place]:
    """Return what the imports among ``nodes`` bring from edgemm: name -> place."""
    found: dict[str, Place] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and is_module(node.module):
            for alias in node.names:
                found[alias.asname or alias.name] = (node.module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if is_module(alias.name):
                    found[alias.asname or "edgemm"] = (alias.name if alias.asname else "edgemm", "")
    return found


def _drop_docstrings_(tree: ast.Module) -> None:
    """Take every text that stands alone as a statement out of a tree: docstrings, and those of fields."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                statement
                for statement in body
                if not (
                    isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                    and isinstance(statement.value.value, str)
                )
            ]
