"""The module table of docs/design.md, enforced: imports are read from the source, not executed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "script_vlmeval"
FILE_LINES, FUNCTION_LINES = 350, 60

# A module may import any module of a lower row, and none of its own; a package such as methods/ counts as one module.
ROWS = {
    16: "run cli",
    15: "commands",
    14: "sweep study status show compare merge bench",
    13: "asking survey closing",
    12: "results work wording atlas",
    11: "report plugin",
    10: "runtime draw listing conformance",
    9: "inputs",
    8: "loading prune",
    7: "prefill",
    6: "observe backbones convert begun",
    5: "plans tower prepare",
    4: "families tiny encode benchmarks",
    3: "query attention offers",
    2: "methods prompts store counts",
    1: "kernels sequence trace scoring cells celltext files shapes hub video judge "
    "ranks ahead batches progress stopping tally pictures room cache stats kept published efficiency",
    0: "errors recent doubts",
}
ROW = {module: row for row, modules in ROWS.items() for module in modules.split()}
ABOVE = {("run", "cli")}  # within a row
ROOT_MODULE = "__init__"  # the package's own names, lazily: above everything, so nobody below may use them

# Who may import it at all, also inside functions.
ONLY = {
    "vlmeval": "plugin",
    "pandas": "plugin",
    "openpyxl": "report",
    "matplotlib": "draw",
    "scipy": "stats",
    "hypothesis": "conformance",
    "triton": "kernels",
    "openai": "judge",
    "av": "video prepare",
    "pyarrow": "prepare",
    "transformers": "tiny loading convert inputs prune families query attention cache begun bench",
}
# A method is a pure function of tensors; these see nothing but the standard library and, at most, this.
PURE = {
    "errors": "",
    **dict.fromkeys(("scoring", "store", "shapes", "celltext"), "numpy"),
    **dict.fromkeys(("sequence", "trace"), "torch"),
    "methods": "torch numpy",
    "kernels": "torch numpy triton",
}

HEAVY = ("torch", "transformers", "vlmeval")  # what the door must not load


def sources() -> list[Path]:
    return [*ROOT.glob("run.py"), *sorted((ROOT / PACKAGE).rglob("*.py"))]


def module_of(path: Path) -> str:
    """The table's name of a file: run.py -> run, script_vlmeval/methods/base.py -> methods."""
    return path.stem if path.parent == ROOT else path.relative_to(ROOT / PACKAGE).with_suffix("").parts[0]


def dotted_imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import in a file, also in functions, under TYPE_CHECKING and by literal name."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and re.search(r"\b(import_module|__import__)$", ast.unparse(node.func)):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            yield from ((node.lineno, f"{PACKAGE}{name}" if name.startswith(".") else name) for name in names)


def target(dotted: str) -> tuple[str, str]:
    """('own', module) or ('other', distribution's top-level name)."""
    top, _, rest = dotted.partition(".")
    if top != PACKAGE:
        return "other", top
    first = rest.partition(".")[0]
    known = first in ROW or (ROOT / PACKAGE / f"{first}.py").is_file() or (first and (ROOT / PACKAGE / first).is_dir())
    return "own", first if known else ROOT_MODULE


def complaints(path: Path) -> Iterator[str]:
    """What a file imports and should not."""
    module = module_of(path)
    for line, dotted in dotted_imports(path):
        kind, name = target(dotted)
        where = f"{path.relative_to(ROOT)}:{line} imports {dotted}"
        if kind == "own" and not own_allowed(module, name, dotted):
            yield f"{where}: {name} is not below {module}"
        if kind == "other" and name in ONLY and module not in ONLY[name].split():
            yield f"{where}: only {ONLY[name]} may"
        if kind == "other" and module in PURE and name not in sys.stdlib_module_names and name not in PURE[module].split():
            yield f"{where}: {module} may use the standard library and {PURE[module] or 'nothing else'}"


def own_allowed(module: str, name: str, dotted: str) -> bool:
    if module in (ROOT_MODULE, name) or (module, name) in ABOVE:
        return True
    if name == ROOT_MODULE:  # `import script_vlmeval` and its __version__ are nobody's noun
        return dotted == PACKAGE or dotted.endswith("__")
    return ROW.get(name, -1) < ROW.get(module, 99)


def test_every_module_is_in_the_table():
    strangers = {module_of(path) for path in sources()} - set(ROW) - {ROOT_MODULE}
    assert not strangers, f"not in the module table (docs/design.md and this file): {sorted(strangers)}"


def test_the_table_is_the_one_in_the_design():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", text, flags=re.MULTILINE)
    names = {int(row): {re.sub(rf"^{PACKAGE}/|\.py$|/$", "", n) for n in re.findall(r"`(.+?)`", cell)} for row, cell in rows}
    assert names == {row: set(modules.split()) for row, modules in ROWS.items()}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_only_point_down(path: Path):
    found = "\n".join(complaints(path))
    assert not found, found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path):
    text = path.read_text(encoding="utf-8")
    length = len(text.splitlines())
    assert length <= FILE_LINES, f"{length} lines; about 200 is the aim, {FILE_LINES} the limit"
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = {f.name: lines for f in functions if (lines := (f.end_lineno or f.lineno) - f.lineno + 1) > FUNCTION_LINES}
    assert not long, f"functions above {FUNCTION_LINES} lines: {long}"


def loaded_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after running `code`."""
    report = f"import sys; print('LOADED', *(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_importing_the_package_is_light():
    assert not loaded_after(f"import {PACKAGE}")


@pytest.mark.parametrize("arguments", [["--help"], ["--list", "models"], ["--list", "methods"], ["--list", "data"]], ids=" ".join)
def test_the_door_is_light(arguments: list[str]):
    if not (ROOT / "run.py").is_file() or not (ROOT / PACKAGE / "cli.py").is_file():
        pytest.skip("no run.py yet")
    run = (
        f"import runpy, sys\nsys.argv = {['run.py', *arguments]!r}\n"
        "try: runpy.run_path('run.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code"
    )
    heavy = loaded_after(run)
    assert not heavy, f"run.py {' '.join(arguments)} loads {heavy}"
