"""The main job end to end on the embedded model: cells, resume, failed rows, spreadsheets."""

from __future__ import annotations

import csv
import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from runtimes import Child, StandIn, lightly, lines, loading, table

from script_vlmeval.cli import main
from script_vlmeval.runtime import Runtime
from script_vlmeval.store import failure

openpyxl = pytest.importorskip("openpyxl")
NAMES = ["tiny_full", "tiny_random_16", "tiny_cdpruner_16", "tiny_script_16"]


def result(work_dir: Path, config: str, benchmark: str) -> dict:
    return json.loads((work_dir / config / benchmark / "result.json").read_text())


def predictions(work_dir: Path, config: str, benchmark: str) -> list[str]:
    sheet = openpyxl.load_workbook(work_dir / config / benchmark / f"{config}_{benchmark}.xlsx").active
    head = [cell.value for cell in sheet[1]]
    return [row[head.index("prediction")].value for row in sheet.iter_rows(min_row=2)]


@pytest.fixture(scope="module", autouse=True)
def light() -> Iterator[None]:
    with lightly():
        yield


@pytest.fixture(autouse=True)
def plotless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plots of `swept` are looked at; those of the other runs nobody does."""
    monkeypatch.setattr("script_vlmeval.report.files.plots", lambda *_: [])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Rows of the embedded benchmark, whose pictures are drawn."""
    from script_vlmeval.tiny import write_benchmark

    return list(csv.DictReader(write_benchmark("ShapesVQA", tmp_path_factory.mktemp("drawn")).open(), delimiter="\t"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep, done once."""
    work_dir = tmp_path_factory.mktemp("sweep")
    argv = ["--model", *NAMES, "--data", "ShapesVQA", "ShapesYN", "--limit", "48", "--work-dir", str(work_dir), "--quiet"]
    assert main(argv) == 0
    return work_dir


def test_every_cell_has_its_files(swept: Path):
    for config in NAMES:
        for benchmark in ("ShapesVQA", "ShapesYN"):
            found = result(swept, config, benchmark)
            assert found["n"] == len(predictions(swept, config, benchmark)) == 48
            assert found["failed"] == 0
            assert found["score"] == found["metrics"][found["primary"]]
    assert (swept / "summary.xlsx").is_file()
    assert (swept / "accuracy.png").is_file()
    assert (swept / "plots" / "accuracy.png").is_file()


def test_tokens_are_measured(swept: Path):
    assert result(swept, "tiny_full", "ShapesVQA")["tokens"]["visual_kept"] == 144
    for config in NAMES[1:]:
        tokens = result(swept, config, "ShapesVQA")["tokens"]
        assert tokens["visual_full"] == 144
        assert tokens["visual_kept"] == 16
        assert len(tokens["layers"]) == 6
        assert all(layer == pytest.approx(16 + tokens["text"]) for layer in tokens["layers"])
    assert result(swept, "tiny_script_16", "ShapesVQA")["tokens"]["relevance"] == "clip"


def test_a_nested_method_runs_once_per_batch_for_all_its_budgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And gives each budget what it would get alone."""
    from script_vlmeval.methods import METHODS

    def answers(work_dir: str, *budgets: str) -> dict[str, list[str]]:
        names = [f"tiny_cdpruner_{b}" for b in budgets]
        argv = ["--model", *names, "--data", "ShapesVQA", "--limit", "24", "--batch-size", "12", "--quiet", "--mode", "infer"]
        assert main([*argv, "--work-dir", str(tmp_path / work_dir)]) == 0
        return {name: predictions(tmp_path / work_dir, name, "ShapesVQA") for name in names}

    alone = answers("eight", "8") | answers("share", "25pct")
    calls: list[int] = []
    order = METHODS["cdpruner"].order
    monkeypatch.setattr(METHODS["cdpruner"], "order", lambda self, visual, k: calls.append(k) or order(self, visual, k))
    together = answers("together", "8", "72", "25pct")
    assert calls == [72, 72]
    assert {name: together[name] for name in alone} == alone


def test_the_vision_tower_runs_once_per_batch_whatever_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from script_vlmeval.runtime import Runtime

    calls: list[int] = []
    load = Runtime.load.__func__

    def counted(cls: type[Runtime], *args: object, **kwargs: object) -> Runtime:
        runtime = load(cls, *args, **kwargs)
        tower = runtime.model.model.vision_tower
        embed = getattr(tower, "vision_model", tower).embeddings.patch_embedding
        embed.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
        return runtime

    monkeypatch.setattr(Runtime, "load", classmethod(counted))
    argv = [
        "--model",
        *NAMES,
        "--data",
        "ShapesVQA",
        "--limit",
        "20",
        "--batch-size",
        "8",
        "--work-dir",
        str(tmp_path),
        "--quiet",
        "--mode",
        "infer",
    ]
    assert main(argv) == 0
    assert calls == [8, 8, 4]


def test_a_mended_row_takes_the_result_back_even_if_the_run_stops_before_scoring(tmp_path: Path, drawn: list[dict[str, str]]):
    table = own_table(tmp_path, drawn, rows=4, broken=1)
    argv = ["--model", "tiny_full", "--data", str(table), "--work-dir", str(tmp_path / "out"), "--quiet"]
    assert main(argv) == 1
    shutil.copy(tmp_path / "pictures" / "2.png", tmp_path / "pictures" / "1.png")
    assert main([*argv, "--mode", "infer"]) == 0
    assert not (tmp_path / "out/tiny_full/mine/result.json").exists()
    assert main(argv) == 0
    assert result(tmp_path / "out", "tiny_full", "mine")["failed"] == 0


def test_an_answer_to_another_picture_does_not_count(
    tmp_path: Path, drawn: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
):
    table = own_table(tmp_path, drawn, rows=4, broken=-1)
    argv = ["--model", "tiny_full", "--data", str(table), "--work-dir", str(tmp_path / "out"), "--quiet"]
    assert main(argv) == 0
    shutil.copy(tmp_path / "pictures" / "0.png", tmp_path / "pictures" / "3.png")
    assert main(argv) == 0
    lines = (tmp_path / "out/tiny_full/mine/predictions.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["index"] for line in lines) == ["0", "1", "2", "3", "3"]


def test_an_old_answer_does_not_stand_in_for_a_picture_that_broke(
    tmp_path: Path, drawn: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
):
    table = own_table(tmp_path, drawn, rows=4, broken=-1)
    argv = ["--model", "tiny_full", "--data", str(table), "--work-dir", str(tmp_path / "out"), "--quiet"]
    assert main(argv) == 0
    (tmp_path / "pictures" / "3.png").write_bytes(b"no picture")
    assert main([*argv, "--mode", "eval"]) == 1
    assert "1 of 4 rows have no answer" in capsys.readouterr().err
    assert main(argv) == 1
    found = result(tmp_path / "out", "tiny_full", "mine")
    assert (found["failed"], list(found["failures"])) == (1, ["3"])
    assert predictions(tmp_path / "out", "tiny_full", "mine")[3] is None


def test_answers_of_another_version_are_scored_and_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    argv = ["--model", "tiny_full", "--data", "ShapesVQA", "--limit", "4", "--work-dir", str(tmp_path), "--quiet"]
    assert main(argv) == 0
    cell = tmp_path / "tiny_full" / "ShapesVQA"
    before, answers = result(tmp_path, "tiny_full", "ShapesVQA"), (cell / "predictions.jsonl").read_bytes()
    monkeypatch.setattr("script_vlmeval.survey._code", lambda method: "another")
    assert main(argv) == 2
    assert "code: " in capsys.readouterr().err
    (cell / "worth.jsonl").unlink()
    assert main([*argv, "--mode", "eval", "--dtype", "bfloat16", "--attn", "eager"]) == 0
    after = result(tmp_path, "tiny_full", "ShapesVQA")
    assert (after["score"], after["fingerprint"]) == (before["score"], before["fingerprint"])
    assert (cell / "worth.jsonl").exists()
    assert (cell / "predictions.jsonl").read_bytes() == answers
    assert f"code {before['fingerprint']['code']} -> another" in after["notes"][-1]
    assert after["rescored"] == {"code": "another"}, "the precision of answers changes no score"
    assert main([*argv, "--mode", "eval", "--seed", "1"]) == 2, "another seed is another configuration"


def test_a_model_that_always_fails_is_given_up_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from script_vlmeval.runtime import Runtime

    asked: list[int] = []

    def broken(self: Runtime, prepared: object, *args: object, **kwargs: object) -> None:
        asked.append(len(prepared))
        raise RuntimeError("out of order")

    monkeypatch.setattr(Runtime, "answer", broken)
    argv = ["--model", "tiny_full", "--data", "ShapesVQA", "--limit", "40", "--work-dir", str(tmp_path), "--quiet"]
    assert main(argv) == 1
    assert "the model failed on every row, the last time with RuntimeError: out of order" in capsys.readouterr().err
    assert asked == [32] + [1] * 8
    assert not (tmp_path / "tiny_full/ShapesVQA/result.json").exists()


def test_a_start_that_fails_leaves_the_answers_alone(swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    work_dir = tmp_path / "copy"
    shutil.copytree(swept, work_dir)
    before = {p: p.read_bytes() for p in work_dir.glob("tiny_*/*/*")}
    base = ["--model", *NAMES, "--data", "ShapesVQA", "--limit", "48", "--work-dir", str(work_dir), "--quiet", "--fresh"]
    assert main([*base, "--device", "cuda:99"]) == 2
    assert main([*base, "--mode", "eval"]) == 2
    (tmp_path / "half").mkdir()
    shutil.copytree(ROOT / "script_vlmeval/assets/tiny", tmp_path / "half", dirs_exist_ok=True)
    weights = tmp_path / "half" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert main([*base, "--checkpoint", f"tiny={tmp_path / 'half'}"]) == 2
    assert "No checkpoint of 'tiny'" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in work_dir.glob("tiny_*/*/*")} == before


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--model", "tiny_script_500"], "144 visual tokens"),
        (["--model", "tiny_script_16", "--param", "tau=abc"], "takes tau as float"),
        (["--model", "tiny_script_16", "--param", "n_keep=20.5"], "takes n_keep as int | None"),
        (["--model", "tiny_script_16", "--checkpoint", "tiny=/nowhere"], "config.json, weights"),
        (["--model", "tiny_script_16", "--device", "abacus"], "not a device"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(
    argv: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([*argv, "--data", "ShapesVQA", "--limit", "4", "--work-dir", str(tmp_path), "--quiet"]) == 2
    assert part in capsys.readouterr().err
    assert not list(tmp_path.glob("tiny_*"))


def test_two_tables_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--model", "tiny_full", "--data", "a/q.tsv", "b/q.tsv", "--work-dir", str(tmp_path)]) == 2
    assert "both be called 'q'" in capsys.readouterr().err


def test_a_rerun_does_nothing_and_says_so(swept: Path, capsys: pytest.CaptureFixture[str]):
    before = {p: p.stat().st_mtime_ns for p in swept.glob("*/*/*")}
    argv = ["--model", *NAMES, "--data", "ShapesVQA", "ShapesYN", "--limit", "48", "--work-dir", str(swept), "--quiet"]
    assert main(argv) == 0
    assert "Nothing to do: all 8 cells were done" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in swept.glob("*/*/*")} == before


def test_other_settings_in_the_same_folder_are_refused(swept: Path, capsys: pytest.CaptureFixture[str]):
    before = result(swept, "tiny_random_16", "ShapesVQA")
    argv = ["--model", "tiny_random_16", "--data", "ShapesVQA", "--limit", "48", "--work-dir", str(swept), "--seed", "1"]
    assert main(argv) == 2
    assert "seed: 0 -> 1" in capsys.readouterr().err
    assert result(swept, "tiny_random_16", "ShapesVQA") == before


def test_batch_size_does_not_change_answers(swept: Path, tmp_path: Path):
    argv = [
        "--model",
        *NAMES,
        "--data",
        "ShapesVQA",
        "--limit",
        "20",
        "--work-dir",
        str(tmp_path),
        "--quiet",
        "--batch-size",
        "7",
        "--mode",
        "infer",
    ]
    assert main(argv) == 0
    for config in NAMES:
        assert predictions(tmp_path, config, "ShapesVQA") == predictions(swept, config, "ShapesVQA")[:20]


def own_table(folder: Path, drawn: list[dict[str, str]], rows: int, broken: int) -> Path:
    """A table over embedded pictures, one of them undecodable."""
    (folder / "pictures").mkdir()
    table = folder / "mine.tsv"
    with table.open("w", newline="") as file:
        out = csv.writer(file, delimiter="\t", lineterminator="\n")
        out.writerow(["index", "image_path", "question", "answer"])
        for i, row in enumerate(drawn[:rows]):
            picture = folder / "pictures" / f"{i}.png"
            shutil.copy(row["image_path"], picture)
            if i == broken:
                picture.write_bytes(picture.read_bytes()[:60])
            out.writerow([i, f"pictures/{i}.png", row["question"], row["answer"]])
    return table


def test_an_undecodable_picture_fails_its_row_only(
    tmp_path: Path, drawn: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
):
    table = own_table(tmp_path, drawn, rows=6, broken=3)
    argv = ["--model", "tiny_script_16", "--data", str(table), "--work-dir", str(tmp_path / "out"), "--quiet"]
    assert main(argv) == 1
    found = result(tmp_path / "out", "tiny_script_16", "mine")
    assert (found["n"], found["failed"]) == (6, 1)
    assert list(found["failures"]) == ["3"]
    assert "FAILED ROWS: tiny_script_16/mine: 1" in capsys.readouterr().err
    # the picture is mended: only that row is asked again, and the cell is whole
    shutil.copy(tmp_path / "pictures" / "2.png", tmp_path / "pictures" / "3.png")
    assert main(argv) == 0
    assert result(tmp_path / "out", "tiny_script_16", "mine")["failed"] == 0


def test_a_killed_run_is_taken_up_where_it_was(tmp_path: Path, swept: Path):
    """SIGKILL in the middle of the answers; the rerun ends with the predictions of an undisturbed run."""
    argv = [
        "--model",
        *NAMES,
        "--data",
        "ShapesVQA",
        "--limit",
        "48",
        "--batch-size",
        "4",
        "--work-dir",
        str(tmp_path),
        "--quiet",
    ]
    answers = tmp_path / "tiny_full" / "ShapesVQA" / "predictions.jsonl"
    # a process of its own: torch's threads do not survive a fork
    child = subprocess.Popen([sys.executable, "run.py", *argv], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 90
    while child.poll() is None and time.monotonic() < limit:
        if answers.is_file() and answers.read_bytes().count(b"\n") > 8:
            break
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    kept = answers.read_bytes().count(b"\n")
    assert 8 < kept < 48
    assert main(argv) == 0
    for config in NAMES:
        assert predictions(tmp_path, config, "ShapesVQA") == predictions(swept, config, "ShapesVQA")
    assert answers.read_bytes().count(b"\n") == 48


def test_a_missing_table_says_where_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "lmu").mkdir()
    monkeypatch.setenv("LMUData", str(tmp_path / "lmu"))
    assert main(["--model", "tiny_full", "--data", "GQA", "--work-dir", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "GQA_TestDev_Balanced.tsv" in err
    assert str(tmp_path / "lmu") in err


def test_a_work_dir_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("not a folder")
    assert main(["--model", "tiny_full", "--data", "ShapesVQA", "--limit", "4", "--work-dir", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


# failed rows, without the model ------------------------------------------------------------------------------------------
CELLS = ("tiny_full", "tiny_random_16")


class Sees(StandIn):
    """Opens the pictures as the real one does, and answers from the question alone."""

    pause = 0.0
    read = Runtime.read


def command(folder: Path, rows: int, broken: int, *more: str) -> list[str]:
    """A sweep of two cells over rows of which the last ones are broken."""
    data = table(folder / "data", rows, range(rows - broken, rows))
    return ["--model", *CELLS, "--data", str(data), "--work-dir", str(folder / "out"), "--quiet", "--batch-size", "4", *more]


def test_broken_pictures_are_failed_rows_of_every_cell_and_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(Runtime, "load", loading(Sees))
    assert main(command(tmp_path, 12, 3)) == 1
    said = capsys.readouterr().err
    for name in CELLS:
        records = {record["index"]: record for record in lines(tmp_path / "out" / name / "mine")}
        assert len(records) == 12
        assert {index for index, record in records.items() if "error" in record} == {"9", "10", "11"}
        assert all("cannot read picture" in records[i]["error"] and "bad.png" in records[i]["error"] for i in ("9", "10", "11"))
        assert not any("prediction" in records[i] for i in ("9", "10", "11"))
        assert predictions(tmp_path / "out", name, "mine")[9:] == [None] * 3
        assert result(tmp_path / "out", name, "mine")["failed"] == 3
        assert f"FAILED ROWS: {name}/mine: 3 could not be answered and count as wrong (" in said


@pytest.mark.parametrize(
    ("rows", "broken", "flags", "tolerated"),
    [
        (8, 1, ["--max-failures", "0"], 0),
        (12, 3, ["--max-failures", "2"], 2),
        (30, 21, [], 20),
        (30, 20, [], None),
        (12, 2, ["--max-failures", "2"], None),
    ],
)
def test_more_failed_rows_than_tolerated_stop_a_cell_and_a_rerun_tries_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rows: int,
    broken: int,
    flags: list[str],
    tolerated: int | None,
):
    monkeypatch.setattr(Runtime, "load", loading(Sees))
    argv = command(tmp_path, rows, broken, *flags)
    assert main(argv) == 1
    said = capsys.readouterr().err
    for name in CELLS:
        cell = tmp_path / "out" / name / "mine"
        if tolerated is None:
            assert result(tmp_path / "out", name, "mine")["failed"] == broken
            assert not failure(cell)
            continue
        reason = f"rows failed, more than {tolerated} (--max-failures), the last with cannot read picture"
        assert reason in failure(cell)
        assert f"NOT DONE: {name}/mine: {failure(cell)}" in said
        assert not (cell / "result.json").exists()
        assert sum("prediction" in record for record in lines(cell)) >= rows - broken - 3  # answers stay
    shutil.copy(tmp_path / "data" / "good.png", tmp_path / "data" / "bad.png")
    assert main(argv) == 0
    for name in CELLS:
        assert result(tmp_path / "out", name, "mine")["failed"] == 0
        assert not failure(tmp_path / "out" / name / "mine")


@pytest.mark.parametrize("value", ["-1", "few", "1.5"])
def test_a_number_of_failures_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str):
    assert main([*command(tmp_path, 4, 0), f"--max-failures={value}"]) == 2
    assert "--max-failures" in capsys.readouterr().err


# what the disk refuses ---------------------------------------------------------------------------------------------------
def test_a_disk_that_is_full_in_the_middle_tears_nothing_and_a_rerun_completes(tmp_path: Path):
    """The largest file that may be written holds a part of the answers."""
    argv = command(tmp_path, 60, 0)
    full = Child(argv, tmp_path / "full.txt", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)))
    assert full.end() == 2
    assert "Traceback" not in full.said
    assert full.said.count("error: Cannot read or write") == 1
    assert "free some space and run the same command again" in full.said
    for name in CELLS:
        file = tmp_path / "out" / name / "mine" / "predictions.jsonl"
        kept = file.read_bytes()
        assert kept.endswith(b"\n")
        assert 4 <= len(kept.splitlines()) < 60
        assert not list(file.parent.glob(".*.tmp"))
    last = Child(argv, tmp_path / "last.txt")
    assert last.end() == 0, last.said
    for name in CELLS:
        records = lines(tmp_path / "out" / name / "mine")
        assert sorted(int(record["index"]) for record in records) == list(range(60))


def without_privilege() -> None:
    """Permissions count for root too: the capability to override them goes, in this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    head, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(head, data) == 0
    data[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of the effective ones
    assert libc.capset(head, data) == 0


def closed(folder: Path) -> Callable[[], None]:
    """Takes away the right to write from a folder and all in it. How to give it back."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(modes[path] & ~0o222)
    return lambda: [path.chmod(mode) for path, mode in modes.items()] and None


def test_a_work_dir_that_may_only_be_read(tmp_path: Path):
    """Not written to, and said so; what is finished there can still be asked for."""
    argv = command(tmp_path, 8, 0)
    done = Child(argv, tmp_path / "done.txt")
    assert done.end() == 0, done.said
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    give_back = closed(tmp_path / "out")
    try:
        more = Child([*argv, "--model", "tiny_script_16"], tmp_path / "more.txt", before=without_privilege)
        again = Child(argv, tmp_path / "again.txt", before=without_privilege)
        assert more.end() == 2, more.said
        assert "error: Cannot read or write" in more.said
        assert "choose another --work-dir, or change its permissions" in more.said
        assert again.end() == 0, again.said
        assert "Nothing to do: all 2 cells were done" in again.said
    finally:
        give_back()
    assert "Traceback" not in more.said + again.said
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_a_file_system_that_is_mounted_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: str
):
    real, argv = getattr(os, call), command(tmp_path, 4, 0)
    (tmp_path / "out").mkdir()

    def refused(path: Any, *args: Any, **how: Any) -> Any:
        writes = call == "mkdir" or (args and args[0] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR))
        if str(path).startswith(str(tmp_path / "out")) and writes:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, *args, **how)

    monkeypatch.setattr(Runtime, "load", loading(Sees))
    monkeypatch.setattr(os, call, refused)
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: Cannot read or write")
    assert "Read-only file system; choose another --work-dir" in said
