"""What a module means, in words: its syntax tree without what can't change a number (see `store/fingerprint.py`)."""

from __future__ import annotations

import ast
import re

PROSE = frozenset({"reference", "source", "summary"})
ASIDE = frozenset({"metrics", "smoke"})  # class variables: which metrics judge, fields of quick copies
CHECKS = ("require", "refuse", "check_fields")
Modules = dict[str, str]  # local name -> module
Names = dict[str, tuple[str, str]]  # local name -> module, name in it
Reached = dict[str, tuple[str, list[str]]]  # chain of attributes -> module that it goes to, attributes that are left


def of(text: str, modules: Modules, names: Names, reached: Reached) -> str:
    """The text in words, the names of followed modules between null characters."""
    return _words(_Meaning(text, modules, names, reached).visit(ast.parse(text)))


def chain(node: ast.AST) -> list[str]:
    """The name and the attributes of `gwfbench.nn.mlp.MLP`; empty if the node is no such chain."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if names and isinstance(node, ast.Name) else []


def imported_by_name(node: ast.Call) -> bool:
    """Whether it is `import_module` with the name as a literal."""
    named = bool(node.args) and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    return named and ast.unparse(node.func).endswith("import_module")


def _words(node: object) -> str:
    """A tree in words that are the same in all versions of Python."""
    if isinstance(node, list):
        return f"[{' '.join(map(_words, node))}]"
    if not isinstance(node, ast.AST):
        return str(node) if isinstance(node, str) and "\0" in node else repr(node)
    parts = ((name, getattr(node, name, None)) for name in node._fields if name not in ("ctx", "kind", "type_comment"))
    inside = " ".join(f"{name}={_words(part)}" for name, part in parts if part not in (None, []))
    value = repr(node.value) if isinstance(node, ast.Constant) else inside
    return f"{type(node).__name__}({value})"


class _Meaning(ast.NodeTransformer):
    """The tree without what can't change a number, as the top of the file says."""

    def __init__(self, text: str, modules: Modules, names: Names, reached: Reached):
        self._modules, self._names, self._reached = modules, names, reached
        self._sets = re.search(r"setattr|__dict__", text) is not None

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._modules:
            return ast.Name(f"\0{self._modules[node.id]}\0")
        if node.id in self._names:
            module, name = self._names[node.id]
            return ast.Attribute(ast.Name(f"\0{module}\0"), name)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        found = self._reached.get(".".join(chain(node)))
        if found is None:
            return self.generic_visit(node)
        made: ast.expr = ast.Name(f"\0{found[0]}\0")
        for name in found[1]:
            made = ast.Attribute(made, name)
        return made

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if imported_by_name(node):
            node.args = node.args[1:]
        if ast.unparse(node.func).endswith("Error"):  # what it says
            return ast.Call(self.visit(node.func), [], [])
        node.keywords = [part for part in node.keywords if not (part.arg in PROSE and _is_text(part.value))]
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        node.names = [
            alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) not in self._modules
        ]
        return node if node.names else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        ours = {*self._modules, *self._names}
        node.names = [alias for alias in node.names if (alias.asname or alias.name) not in ours]
        return node if node.names and node.module != "__future__" and not node.level else None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) or (isinstance(node.value, ast.Call) and _is_check(node.value.func)):
            return None
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        return None

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(self.visit(kind) if kind else None)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return ast.AnnAssign(self.visit(node.target), ast.Constant(None), None, 0)
        return self.generic_visit(ast.Assign([node.target], node.value))

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = [line for line in node.body if not _is_aside(line)]
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return None if ast.unparse(node.targets[0]) == "__post_init__" else self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        inside = list(ast.walk(node))
        stores = any(isinstance(n, ast.Attribute | ast.Subscript) and not isinstance(n.ctx, ast.Load) for n in inside)
        returns = any(isinstance(n, ast.Return) and n.value is not None for n in inside)
        if node.name == "__post_init__" and not self._sets and not stores:
            return None
        if _is_check(ast.Name(node.name)) and not returns and not stores:
            return None
        node.returns = None
        return self.generic_visit(node)


def _is_check(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in CHECKS


def _is_aside(line: ast.stmt) -> bool:
    """Whether it is a class variable that no number depends on."""
    if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
        return False
    return line.target.id in ASIDE or (line.target.id in PROSE and line.value is not None and _is_text(line.value))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
