"""Files that the documents name exist."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from conftest import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("docs", "scripts", "benchmarks", "script_vlmeval", "configs", "tests")


def linked(document: Path) -> set[Path]:
    """What Markdown links lead to, beside the document."""
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    files = {t.partition("#")[0] for t in targets if "://" not in t and not t.startswith("mailto:")}
    return {document.parent / f for f in files if f}


def mentioned(document: Path) -> set[Path]:
    """Repository paths in backticks, alone or in a command; capitals such as NAME stand for something else."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    words = {word for code in re.findall(r"`([^`]+)`", text) for word in code.split()}
    return {ROOT / w for w in words if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]*", w) and "NAME" not in w}


def test_paths_are_found_in_links_and_in_backticks(tmp_path: Path):
    document = tmp_path / "a.md"
    document.write_text(
        "![x](images/b.png) [y](https://c.d/e) [z](#top) [w](f.md#g) `python scripts/h.py --i` `tests/test_NAME.py` `j/k.py`\n"
        "```sh\ncat `docs/l.md`\n```\n`docs/m.md`\n",
        encoding="utf-8",
    )
    assert linked(document) == {tmp_path / "images/b.png", tmp_path / "f.md"}
    assert mentioned(document) == {ROOT / "scripts/h.py", ROOT / "docs/m.md"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_named_files_exist(document: Path):
    missing = {str(p) for p in linked(document) | mentioned(document) if not p.exists()}
    assert not missing, f"{document.name} names what does not exist: {sorted(missing)}"


def scripts(document: Path) -> list[str]:
    """Python that a document hands to an interpreter."""
    return re.findall(r"^python - <<'EOF'\n(.*?)^EOF$", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


COSTS = ROOT / "docs" / "performance.md"


def test_both_scripts_of_costs_are_found():
    assert len(scripts(COSTS)) == 2


@pytest.mark.parametrize("number", range(2))
def test_a_table_of_costs_is_what_its_script_prints(number: int):
    printed = StringIO()
    with redirect_stdout(printed):
        exec(scripts(COSTS)[number], {})
    assert printed.getvalue()
    assert f"|\n{printed.getvalue()}\n" in COSTS.read_text(encoding="utf-8")
