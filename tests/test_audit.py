"""The audit's findings hold, and its document and its commands name the same ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "scripts"))

from audit import command, registry

from script_vlmeval.methods import catalogue

FINDINGS = command.load()
TEXT = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
FLOORS = {"random", "grid", "pool", "downsample"}


@pytest.mark.parametrize("name", FINDINGS)
def test_a_finding_holds(name: str):
    evidence = registry.examine(FINDINGS[name])
    assert evidence.lines, "a demonstration shows its numbers"
    assert evidence.holds, "\n".join(evidence.lines)


def test_the_document_names_every_finding_and_no_other():
    named = set(re.findall(r"python scripts/audit ([a-z0-9-]+)", TEXT)) - {"all"}
    assert named == set(FINDINGS)


def test_findings_are_about_methods_that_exist():
    assert {f.method for f in FINDINGS.values()} <= {*catalogue(), "all"}


def sections() -> dict[str, str]:
    """Heading -> text of the document's sections."""
    parts = re.split(r"^## (.+)$", TEXT, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("method", sorted(set(catalogue()) - FLOORS - {"full"}))
def test_every_method_has_a_section_with_its_release_and_its_findings(method: str):
    own = [text for heading, text in sections().items() if f"`{method}`" in heading]
    assert len(own) == 1, f"docs/audit.md needs one section with `{method}` in its heading"
    assert "Release:" in own[0]
    assert "Paper:" in own[0]
    for found in FINDINGS.values():
        if found.method == method:
            assert f"python scripts/audit {found.id}`" in own[0]


def test_the_floors_share_a_section():
    own = [text for heading, text in sections().items() if heading == "Floors"]
    assert len(own) == 1
    assert all(f"`{floor}`" in own[0] for floor in FLOORS)


def test_without_a_name_all_are_listed(capsys: pytest.CaptureFixture[str]):
    assert command.main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in FINDINGS)


def test_all_of_them_end_in_a_summary(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    few = {
        name: registry.Finding(name, "full", "A claim.", lambda show, holds=holds: show("1 of 2") or holds)
        for name, holds in {"good": True, "bad": False}.items()
    }
    monkeypatch.setattr(command, "load", lambda: few)
    assert command.main(["good"]) == 0
    assert command.main(["all"]) == 1
    out = capsys.readouterr().out
    assert "  1 of 2\n  => DOES NOT HOLD" in out
    assert out.endswith("1 of 2 findings hold; not: bad\n")


def test_an_unknown_name_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert command.main(["divprune-repeat"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Unknown finding 'divprune-repeat'.")
    assert "Did you mean 'divprune-repeats'" in error


def test_an_unknown_name_beside_all_is_an_error_too(capsys: pytest.CaptureFixture[str]):
    assert command.main(["all", "divprune-repeat"]) == 2
    output = capsys.readouterr()
    assert "Did you mean 'divprune-repeats'" in output.err
    assert not output.out


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_the_usage(flag: str, capsys: pytest.CaptureFixture[str]):
    assert command.main([flag]) == 0
    assert capsys.readouterr().out.startswith("usage: python scripts/audit")


def test_a_reader_that_has_seen_enough_is_no_error():
    process = subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "audit"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, b"")


def test_agreement_with_recordings_is_told_where_there_are_some(
    shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SHARED", str(shared))
    assert command.main(["fastervlm-as-released"]) == 0
    assert "recordings of the released code: 1 rows compared" in capsys.readouterr().out
