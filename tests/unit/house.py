"""What the tests of the house share: the project's own files, and what their code says, read without running it."""

from __future__ import annotations

import ast
import subprocess
from functools import cache, lru_cache
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent


@lru_cache(maxsize=1)
def project_files() -> tuple[Path, ...]:
    """Every file of the project that git does not ignore, relative to its root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout.decode().split("\0")
        paths = [Path(name) for name in listed if name]
    except (OSError, subprocess.CalledProcessError):  # unpacked from an archive
        paths = [path.relative_to(PROJECT) for path in PROJECT.rglob("*")]
        paths = [path for path in paths if path.parts[0] not in (".git", ".venv", "models", "saves", "outputs")]
    return tuple(sorted(path for path in paths if (PROJECT / path).is_file()))


def code_files(*rooms: str) -> tuple[Path, ...]:
    """The Python files of the program (no tests, no benchmarks), or of some rooms: ``code_files("engine/runs")``."""
    scripts = [path for path in project_files() if path.suffix == ".py"]
    program = [path for path in scripts if path.parts[0] not in ("tests", "benchmarks")]
    return tuple(path for path in program if not rooms or any(path.is_relative_to(room) for room in rooms))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse((PROJECT / path).read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 10))


def imported_by(path: Path) -> set[str]:
    """Full dotted names of all that a file imports, at its top or late: ``from engine import runs`` → engine.runs."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write the whole name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_name(path: Path) -> str:
    """``engine/runs/__init__.py`` → engine.runs"""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def literal_values(node: ast.AST) -> list[str]:
    """The texts that an expression may be: of a literal, or of a choice between literals; else none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return literal_values(node.body) + literal_values(node.orelse)
    return []


def first_arguments(*called: str) -> list[tuple[str, str]]:
    """(place, text) of every literal first argument of calls of these names anywhere in the program."""
    found = []
    for path in code_files():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and node.args:
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
                if name in called:
                    found += [(f"{path}:{node.lineno}", text) for text in literal_values(node.args[0])]
    return found
