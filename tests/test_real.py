"""Real photographs and VLMEvalKit's own runner: what the embedded model cannot know, but the harness must carry."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import data_factory
import pytest
from conftest import ROOT

from script_vlmeval.cli import main

openpyxl = pytest.importorskip("openpyxl")


def column(workbook: Path, name: str) -> list[str]:
    sheet = openpyxl.load_workbook(workbook).active
    at = [cell.value for cell in sheet[1]].index(name)
    return [row[at].value for row in sheet.iter_rows(min_row=2)]


def test_real_photographs_with_all_three_kinds_of_question(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """One table mixes yes/no, open and multiple-choice questions on JPEGs of many shapes; no row fails."""
    asked = [q for q in json.loads((shared / "real" / "questions.json").read_text()) if q["media"].endswith(".jpg")]
    table = tmp_path / "real.tsv"
    with table.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, delimiter="\t", lineterminator="\n")
        out.writerow(["index", "image_path", "question", "answer", "A", "B", "C", "D"])
        for i, q in enumerate(asked):
            options = [q.get("options", {}).get(letter, "") for letter in "ABCD"]
            out.writerow([i, shared / "real" / q["media"], q["question"], q["answer"], *options])
    assert {q["type"] for q in asked} == {"yes/no", "open", "mcq"}
    assert main(["--model", "tiny_script_16", "--data", str(table), "--work-dir", str(tmp_path / "out"), "--quiet"]) == 0
    found = json.loads((tmp_path / "out/tiny_script_16/real/result.json").read_text())
    assert (found["n"], found["failed"]) == (len(asked), 0)
    assert {"kind/open", "kind/yesno", "kind/mcq"} <= set(found["metrics"])


HOST = """
import script_vlmeval
script_vlmeval.register()
import vlmeval.dataset
for cls in vlmeval.dataset.DATASET_CLASSES:
    cls.DATASET_MD5 = {}  # crafted tables are not the published ones, and VLMEvalKit would download over them
from vlmeval.run import main
main()
"""


def test_vlmevalkits_own_runner_gives_the_same_predictions(data_folder: Path, tmp_path: Path):
    """Official formats under LMUData: our runner and VLMEvalKit's answer alike, and our scores are VLMEvalKit's."""
    data_factory.mme(data_folder)
    data_factory.gqa(data_folder)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert main(["--data", "MME", "GQA", "--model", "tiny_script_16", "--work-dir", str(ours), "--quiet"]) == 0
    argv = ["--data", "MME", "GQA_TestDev_Balanced", "--model", "tiny_script_16", "--work-dir", str(theirs)]
    done = subprocess.run(
        [sys.executable, "-c", HOST, *argv, "--judge", "exact_matching"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    for alias, name in (("MME", "MME"), ("GQA", "GQA_TestDev_Balanced")):
        workbook = next(theirs.rglob(f"tiny_script_16_{name}.xlsx"), None)
        assert workbook is not None, done.stderr[-3000:]
        mine = ours / "tiny_script_16" / alias / f"tiny_script_16_{alias}.xlsx"
        assert column(mine, "prediction") == column(workbook, "prediction")
        assert len(set(column(mine, "prediction"))) > 1
        found = json.loads((mine.parent / "result.json").read_text())["metrics"]
        for file in theirs.rglob(f"tiny_script_16_{name}*_score.csv"), theirs.rglob(f"tiny_script_16_{name}*_acc.csv"):
            for path in file:
                for key, value in next(csv.DictReader(path.open())).items():
                    if key in found:
                        assert float(value) == pytest.approx(found[key]), (name, key)
