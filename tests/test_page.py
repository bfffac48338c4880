"""The page of a folder of results: one file, safe whatever models say, that sorts, filters and draws in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Opened, chromium, opened
from PIL import Image

from script_vlmeval.cells import Config
from script_vlmeval.report.evidence import Comparison, Evidence
from script_vlmeval.report.page import facts, samples, write_page
from script_vlmeval.report.page.tokens import Places, kept
from script_vlmeval.report.rows import read
from script_vlmeval.stats import Difference, Estimate
from script_vlmeval.store import CellStore

EVIL = "<script>alert(1)</script></script><!--<img src=x onerror=alert(2)>"
HEBREW, EMOJI = "\u05e9\u05dc\u05d5\u05dd", "\U0001f600 yes"
ASSETS = Path(samples.__file__).with_name("assets")


# a folder of results ------------------------------------------------------------------------------------------------------


def bits(mask: Any) -> str:
    return base64.b64encode(np.packbits(np.asarray(mask, bool)).tobytes()).decode()


def record(n: int, *, stages: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """One picture of 4 x 4 tokens, of which the first n stand."""
    part = {"picture": 0, "grid": [4, 4], "tiles": [[0, 0, 1, 1]], "stages": stages or {"0": bits(np.arange(16) < n)}, **more}
    return {"pictures": [part], "relevance": "clip"}


def cell(work_dir: Path, config: str, said: Sequence[str | None], worth: Sequence[float], **more: Any) -> None:
    """A finished cell of ShapesYN: row i was answered with said[i], or failed."""
    benchmark, marks = more.pop("benchmark", "ShapesYN"), more.pop("marks", {})
    fingerprint = {"config": config, "benchmark": benchmark, "data": "d", "code": config}
    store = CellStore(work_dir, config, benchmark, fingerprint)
    records = [
        {"index": str(i), **({"error": "out of memory"} if text is None else {"prediction": text})} for i, text in enumerate(said)
    ]
    for i, mark in marks.items():
        records[i]["kept"] = mark
    store.open()
    store.append([{**one, "tokens": {"visual_full": 16, "visual_kept": 4.0}} for one in records])
    lines = [{"index": str(i), "worth": w, **({} if said[i] is None else {"read": said[i]})} for i, w in enumerate(worth)]
    score = 100 * sum(worth) / len(worth)
    result = {
        "cell": {"config": config, "benchmark": benchmark, "params": {}},
        "fingerprint": fingerprint,
        "metrics": {"Overall": score},
        "primary": "Overall",
        "score": score,
        "stderr": 2.0,
        "n": len(said),
        "failed": said.count(None),
        "scorer": "s",
        "tokens": {"visual_full": 16.0, "visual_kept": 4.0},
        "provenance": {"versions": {"torch": "2.6"}, "command": "run.py a"},
    }
    store.finish({**result, **more}, lines)
    store.close()


def atlas(work_dir: Path, questions: Sequence[str], pictures: int, benchmark: str = "ShapesYN", frames: int = 0) -> None:
    """Row i shows picture i modulo `pictures`, or as many frames."""
    folder = work_dir / "atlas" / benchmark
    folder.mkdir(parents=True)
    for i in range(max(pictures, frames)):
        Image.new("RGB", (32, 24), (40 * i % 256, 90, 200)).save(folder / f"{i}-0.jpg", quality=80)
    shown = [[f"{j}-0.jpg" for j in range(frames)] if frames else [f"{i % pictures}-0.jpg"] for i in range(len(questions))]
    rows = zip(questions, shown, strict=True)
    lines = [{"index": str(i), "question": q, "answer": "yes", "pictures": p, "frames": frames} for i, (q, p) in enumerate(rows)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def evidence() -> Evidence:
    key, other = ("tiny_script_4", "ShapesYN"), ("tiny_random_4", "ShapesYN")
    worse = Difference(-25.0, -30.0, -20.0, 2.5, 0.001, 12, 12, 7.0, 1, 4, 0.02)
    same = Difference(0.5, -3.0, 4.0, 1.7, 0.7, 12, 12, 7.0, 2, 2, None)
    full, script, random = (Config.parse(name) for name in ("tiny_full", "tiny_script_4", "tiny_random_4"))
    return Evidence(
        interval={key: Estimate(75.0, 86.7, 96.7, 2.5)},
        letters={key: "a", other: "b"},
        comparisons=[
            Comparison("ShapesYN", script, full, "full", worse, 0.004),
            Comparison("ShapesYN", script, random, "random", same, 0.7),
        ],
    )


QUESTIONS = ["Is there a circle?", f"Is it {HEBREW}?", "Is the square red?", EVIL, *(f"Question {i}?" for i in range(4, 12))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 samples; script loses sample 0 and wins sample 1, random fails on 2; the last picture is not there."""
    work_dir = tmp_path_factory.mktemp("run")
    atlas(work_dir, QUESTIONS, 6)
    (work_dir / "atlas" / "ShapesYN" / "5-0.jpg").unlink()
    yes, right = ["yes"] * 10, [1.0] * 10
    seen = base64.b64encode(bytes(range(0, 256, 16))).decode()
    inside = {"2": bits(np.arange(16) < 8), "4": bits(np.arange(16) < 2)}
    cell(work_dir, "tiny_full", ["yes", "no", *yes], [1.0, 0.0, *right])
    cell(work_dir, "tiny_script_4", ["no", "yes", EMOJI, EVIL, *yes[2:]], [0.0, 1.0, *right], marks={
        i: record(4, seen=seen) for i in range(12)})  # fmt: skip
    cell(work_dir, "tiny_random_4", ["yes", "no", None, HEBREW, *yes[2:]], [1.0, 0.0, 0.0, *right[1:]], marks={0: record(4)})
    cell(work_dir, "tiny_fastv_16", ["yes", "no", *yes], [1.0, 0.0, *right], marks={0: record(0, stages=inside)}, score=101.5)
    (work_dir / "plots").mkdir()
    (work_dir / "plots" / "accuracy.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    write_page(read(work_dir), evidence())
    return work_dir


def text(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def data(page: str, name: str) -> Any:
    match = re.search(rf'<script type="[^"]*" id="{name}"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert match
    return match[1]


# the file -----------------------------------------------------------------------------------------------------------------


def test_equal_folders_give_equal_bytes(run: Path):
    before = (run / "report.html").read_bytes()
    assert write_page(read(run), evidence()) == run / "report.html"
    assert (run / "report.html").read_bytes() == before


def test_what_models_say_ends_no_block_and_begins_no_tag(run: Path):
    page = text(run)
    starts = re.findall(r"<(script|/script|img|!--)", page)
    blocks = 1 + 3 + 1  # tables, the atlas's three, the program
    assert starts.count("script") == starts.count("/script") == blocks
    assert starts.count("img") == 1, "the plot"
    assert "!--" not in starts
    assert json.loads(data(page, "atlas-0"))["samples"][3][1] == EVIL
    records = json.loads(data(page, "atlas-0-samples").splitlines()[3])["records"]
    assert EVIL in [one[0] for one in records]


def test_only_its_own_script_and_style_may_do_anything(run: Path):
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text(run))[1])
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text(run))


def test_a_picture_is_there_once(run: Path):
    page = text(run)
    assert len(data(page, "atlas-0-pictures").splitlines()) == 5
    shown = [json.loads(line)["pictures"] for line in data(page, "atlas-0-samples").splitlines()]
    assert shown == [[i % 6] if i % 6 < 5 else [-1] for i in range(12)]


def test_relevance_that_samples_share_is_there_once(run: Path):
    first = json.loads(data(text(run), "atlas-0-samples").splitlines()[0])
    assert len(first["seen"]) == 1
    assert first["places"] == [[4, 4, [[0, 0, 1, 1]]]]


def test_states_tell_what_became_of_each_answer(run: Path):
    front = json.loads(data(text(run), "atlas-0"))
    assert [config["name"] for config in front["configs"]] == ["tiny_full", "tiny_fastv_16", "tiny_random_4", "tiny_script_4"]
    assert [sample[2] for sample in front["samples"][:3]] == ["rrrw", "wwwr", "rrfr"]
    assert front["stages"] == [0, 2, 4]


def test_what_an_answer_took_is_that_of_one(tmp_path: Path):
    counted = {"prefill_flops": 2e12, "unpruned_prefill_flops": 8e12, "kv_bytes": 3 * 2**20}
    cell(tmp_path, "tiny_full", ["yes"] * 4, [1.0] * 4, seconds=20.0, samples_per_second=0.2, efficiency=counted)
    found = Evidence(loyalty={("tiny_full", "ShapesYN"): Estimate(100.0, 90.0, 100.0, 1.0)})
    table = json.loads(data(write_page(read(tmp_path), found).read_text(encoding="utf-8"), "tables"))["results"]
    line = dict(zip([column["head"] for column in table["columns"]], table["rows"][0], strict=True))
    assert line["loyalty %"]["v"] == 100
    assert list(line).index("cache MiB") < list(line).index("loyalty %"), "what it costs comes before what explains it"
    heads = ("seconds per answer", "prefill TFLOPs", "x fewer FLOPs than unpruned", "cache MiB")
    assert [line[head]["v"] for head in heads] == pytest.approx([5, 2, 4, 3])


def test_what_a_clear_cell_stands_for_is_there_by_configuration(tmp_path: Path):
    for name in ("tiny_pool_16", "tiny_script_16"):
        cell(tmp_path, name, ["yes"] * 4, [1.0] * 4)
    told = json.loads(data(write_page(read(tmp_path), Evidence()).read_text(encoding="utf-8"), "tables"))["clear"]
    assert list(told) == ["tiny_pool_16"]
    assert "averaged" in told["tiny_pool_16"]


def test_captions_say_what_a_plot_shows(tmp_path: Path):
    (tmp_path / "plots").mkdir()
    for name in ("cost-seconds-llava", "cost-flops", "my_own", "radar", "accuracy", "cost-tokens", "retention"):
        (tmp_path / "plots" / f"{name}.svg").write_text("<svg/>")
    assert re.findall("<figcaption>(.*?)</figcaption>", facts.plots(tmp_path)) == [
        "Score against the budget of visual tokens",
        "Retention: percent of the unpruned score",
        "Retention, benchmark by benchmark",
        "Score against visual tokens",
        "Score against prefill FLOPs",
        "Score against time per answer, llava",
        "My own",
    ]


def test_without_an_atlas_or_evidence_there_is_a_page(tmp_path: Path):
    cell(tmp_path, "tiny_full", ["yes"], [1.0])
    page = write_page(read(tmp_path), Evidence()).read_text(encoding="utf-8")
    assert "data-atlas=" not in page
    assert json.loads(data(page, "tables"))["statistics"]["rows"] == []


def test_half_a_surrogate_pair_does_not_stop_it(tmp_path: Path):
    cell(tmp_path, "tiny_full", ["a\ud800"], [1.0], provenance={"command": "run.py \ud800"})
    atlas(tmp_path, ["b\udfff"], 1)
    page = write_page(read(tmp_path), Evidence()).read_bytes().decode("utf-8")
    assert json.loads(data(page, "atlas-0-samples"))["records"][0][0] == "a\ud800"


@pytest.mark.parametrize(
    "damage",
    [
        {"grid": [0, 4]}, {"grid": None}, {"tiles": [[0, 0, 1]]}, {"tiles": [[0, 0, 1, float("nan")]]}, {"stages": {"0": "AA=="}},
        {"stages": {"0": "not base64"}}, {"stages": {"x": bits(np.ones(16))}}, {"seen": "AA=="}, {"picture": None}, {"merged": 3},
    ],
)  # fmt: skip
def test_a_damaged_record_of_kept_tokens_is_none(damage: Any, caplog: pytest.LogCaptureFixture):
    whole = record(4)
    assert kept(whole, 0, Places(1)) is not None
    assert kept({**whole, "pictures": [{**whole["pictures"][0], **damage}]}, 0, Places(1)) is None
    assert "kept tokens was skipped" in caplog.text


def test_foreign_files_in_the_atlas_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    cell(tmp_path, "tiny_full", ["yes"] * 2, [1.0] * 2)
    atlas(tmp_path, ["a", "b"], 1)
    path = tmp_path / "atlas" / "ShapesYN" / "samples.jsonl"
    outside = {"index": "1", "question": "b", "answer": "", "pictures": ["../../tiny_full/ShapesYN/result.json", "no.jpg"]}
    path.write_text(path.read_text().splitlines()[0] + '\n[]\n{"index": 3}\nnot JSON\n' + json.dumps(outside) + "\n")
    page = write_page(read(tmp_path), Evidence()).read_text()
    assert "skipped 3 line(s)" in caplog.text
    assert json.loads(data(page, "atlas-0-samples").splitlines()[1])["pictures"] == [-1, -1]


def test_what_has_no_room_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cell(tmp_path, "tiny_full", ["yes"] * 6, [1.0] * 6)
    atlas(tmp_path, ["?"] * 6, 6)
    monkeypatch.setattr(samples, "ROOM", 2 * (tmp_path / "atlas" / "ShapesYN" / "0-0.jpg").stat().st_size)
    front = json.loads(data(write_page(read(tmp_path), Evidence()).read_text(), "atlas-0"))
    assert (len(front["samples"]), front["left"]) == (2, 4)


@pytest.mark.parametrize(
    ("frames", "seen_by_model", "at", "slots"),
    [
        (4, 4, [0, 1, 2, 3], [[1], [2], [3], [4]]),
        (4, 4, [0, 2], [[1, 2], [3, 4]]),  # joined in pairs
        (2, 4, [0, 1, 2, 3], [[], [1], [], [2]]),
        (4, 2, [0, 1], [[1, 2], [3, 4]]),
    ],
)
def test_frames_are_found_among_the_pictures(frames: int, seen_by_model: int, at: list[int], slots: list[list[int]]):
    part = record(4)["pictures"][0]
    parts = [part, *({**part, "picture": 1, "frame": frame, "frames": seen_by_model} for frame in at)]
    found = kept({"pictures": parts}, 0, Places(1 + frames, frames))
    assert found is not None
    assert [one[0] for one in found] == [[0], *slots]


def test_scripts_and_styles_are_short():
    assets = [path for path in ASSETS.iterdir() if path.suffix in (".js", ".css")]
    assert len(assets) > 5
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 350 for path in assets)


# in a browser -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def window(browser: Any, run: Path) -> Iterator[Opened]:
    with opened(browser, run / "report.html") as found:
        yield found


@pytest.fixture
def page(window: Opened, run: Path) -> Iterator[Opened]:
    """The page as it is at first, in a window that stays open: a new one costs more than a test. Whatever a test does, the page
    complains about nothing and asks for nothing but itself."""
    window.page.goto("about:blank")
    window.complaints.clear()
    window.requests.clear()
    window.page.goto((run / "report.html").as_uri())
    yield window
    assert not window.complaints
    assert window.requests == [(run / "report.html").as_uri()]


OVERVIEW = "[data-table=overview]"


def column(page: Opened, head: str) -> list[str]:
    heads = [re.sub(r"\W+$", "", one) for one in page.texts(f"{OVERVIEW} thead th")]
    return page.texts(f"{OVERVIEW} tbody tr > :nth-child({heads.index(head) + 1})")


def test_a_table_is_sorted_by_a_column_both_ways(page: Opened):
    button = page.page.locator(f"{OVERVIEW} thead button", has_text="ShapesYN")
    ends = []
    for way in ("descending", "ascending"):
        button.press("Enter")
        assert page.value(f"document.querySelector('{OVERVIEW} [aria-sort={way}]').innerText").startswith("ShapesYN")
        ends.append([float(re.match(r"[\d.]+", one)[0]) for one in column(page, "ShapesYN")])
    assert ends[0] == sorted(ends[0], reverse=True)
    assert ends[1] == ends[0][::-1]
    assert ends[1][-1] == 101.5, "by number: as text it would come first"


def test_scores_have_intervals_letters_and_marks(page: Opened):
    cells = dict(zip(column(page, "configuration"), column(page, "ShapesYN"), strict=True))
    assert cells["tiny_script_4"] == "91.7a ±5.0"
    assert "*" in cells["tiny_random_4"]
    assert page.texts(f"{OVERVIEW} td.best") == [cells["tiny_script_4"]]


def test_a_table_is_filtered_by_words(page: Opened):
    page.page.locator(f"{OVERVIEW} input").fill("random 4")
    page.until(f"document.querySelectorAll('{OVERVIEW} tbody tr').length === 1")
    assert page.texts(f"{OVERVIEW} .count") == ["1 of 4 rows"]


def test_comparisons_have_verdicts(page: Opened):
    verdicts = page.texts("[data-table=statistics] td:is(.worse, .even, .better)")
    assert verdicts == ["▼ worse", "≈ cannot tell"]


def show(page: Opened, label: str, value: str) -> None:
    page.page.get_by_label(label, exact=True).select_option(label=value)


def shown(page: Opened) -> list[str]:
    return page.texts(".card h3 a")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("flipped by pruning", ["0", "1", "2"]),
        ("right unpruned, wrong pruned", ["0", "2"]),
        ("wrong unpruned, right pruned", ["1"]),
        ("methods disagree", ["0", "1", "3"]),
        ("failed", ["2"]),
    ],
)
def test_samples_are_filtered_by_what_became_of_them(page: Opened, kind: str, expected: list[str]):
    show(page, "Show", kind)
    assert shown(page) == expected
    show(page, "Configuration", "tiny_fastv_16")
    assert shown(page) == (expected if kind == "methods disagree" else [])


def test_questions_are_searched(page: Opened):
    page.page.get_by_label("Search questions").fill("SQUARE red")
    page.until("document.querySelectorAll('.card').length === 1")
    assert shown(page) == ["2"]


def test_pages_are_turned(page: Opened):
    assert shown(page) == [str(i) for i in range(10)]
    page.page.get_by_role("button", name="Next").press("Enter")  # cards that fill meanwhile move what a mouse points at
    assert shown(page) == ["10", "11"]


def filled(page: Opened, index: str) -> str:
    """The selector of a sample's card, once it is there with its pictures."""
    page.page.locator(".card", has=page.page.get_by_role("link", name=index, exact=True)).scroll_into_view_if_needed()
    page.until(f"document.querySelectorAll('.card')[{index}].querySelector('.body')")
    return f".card:nth-child({int(index) + 1})"


def test_samples_are_made_when_they_come_into_view(page: Opened):
    filled(page, "0")
    assert page.value("document.querySelectorAll('.card')[9].matches('.waiting')")
    filled(page, "9")
    assert not page.value("document.querySelectorAll('.card')[9].matches('.waiting')")


def colours(page: Opened, selector: str, places: Sequence[tuple[float, float]]) -> list[tuple[int, ...]]:
    """What a canvas has at shares of its width and height."""
    page.page.locator(selector).scroll_into_view_if_needed()
    page.until(f"document.querySelector('{selector}').dataset.drawn || document.querySelector('{selector}').matches('.heat')")
    uri = page.value(f"document.querySelector('{selector}').toDataURL()")
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    return [image.getpixel((int(x * image.width), int(y * image.height))) for x, y in places]  # type: ignore[misc]


def test_dropped_tokens_are_grey_and_kept_ones_are_not(page: Opened):
    card = filled(page, "0")
    kept_one, dropped = colours(page, f"{card} tbody tr:nth-child(3) canvas.kept", [(0.3, 0.12), (0.3, 0.9)])
    assert max(dropped) - min(dropped) < 12
    assert max(kept_one) - min(kept_one) > 60, "the first row of four was kept"


def test_stages_inside_the_language_model_are_chosen(page: Opened):
    card = filled(page, "0")
    counts = f"{card} tbody tr:first-child .tokens"
    assert page.texts(counts) == ["2 of 16"]
    show(page, "Tokens", "that stand from layer 2 on")
    assert page.texts(counts) == ["8 of 16"]
    show(page, "Tokens", "that enter the language model")
    assert page.texts(counts) == ["16 of 16"]


def test_relevance_is_shown_and_hidden(page: Opened):
    card = filled(page, "0")
    button = page.page.locator(f"{card} .maps button")
    assert page.texts(f"{card} .maps button") == ["clip"]
    button.press("Space")
    low, high = colours(page, f"{card} canvas.heat", [(0.1, 0.1), (0.9, 0.9)])
    assert sum(high) > sum(low) + 200
    button.press("Space")
    assert not page.page.locator(f"{card} canvas.heat").is_visible()


def test_answers_are_text_with_right_and_wrong_in_words(page: Opened):
    card = filled(page, "3")
    assert page.value(f"[...document.querySelectorAll('{card} bdi')].map((one) => one.textContent)") == [
        "yes",
        "yes",
        HEBREW,
        EVIL,
    ]
    card = filled(page, "2")
    said = page.value(f"[...document.querySelectorAll('{card} tbody .answer')].map((one) => one.textContent)")
    assert said == ["✓right: yes", "!failed: out of memory", f"✓right: {EMOJI}"]
    assert page.value("document.querySelectorAll('main script, main img[src=x]').length") == 0


def test_a_configuration_is_looked_at_closer_by_keyboard(page: Opened):
    card = filled(page, "0")
    page.page.locator(f"{card} .look").first.press("Enter")
    assert page.texts("dialog[open] h3") == ["tiny_fastv_16"]
    page.page.keyboard.press("ArrowRight")
    assert page.texts("dialog[open] h3") == ["tiny_random_4"]
    page.page.keyboard.press("Escape")
    assert page.page.locator("dialog[open]").count() == 0


def test_an_address_leads_to_a_sample(browser: Any, run: Path):
    with opened(browser, run / "report.html", address="#sample=ShapesYN/11") as page:
        assert shown(page) == ["10", "11"]
        assert not page.complaints


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(browser: Any, run: Path, width: int, scheme: str):
    with opened(browser, run / "report.html", width, color_scheme=scheme) as page:
        filled(page, "0")
        assert page.value("document.documentElement.scrollWidth") == width
        colour = re.findall(r"\d+", page.value("getComputedStyle(document.body).backgroundColor"))
        assert (sum(map(int, colour)) > 384) == (scheme == "light")


def test_few_configurations_of_many_budgets_are_told_budget_by_budget(browser: Any, tmp_path: Path):
    """Half of a table of methods by budgets is still a table (`run`); less than that has no empty places."""
    atlas(tmp_path, ["Is there a circle?"], 1)
    for config in ("tiny_full", "tiny_script_8", "tiny_random_4", "tiny_script_4", "tiny_pool_2", "tiny_grid_25pct"):
        cell(tmp_path, config, ["yes"], [1.0], marks={0: record(4)})
    path = write_page(read(tmp_path), Evidence())
    for width in (390, 1280):
        with opened(browser, path, width) as page:
            card = filled(page, "0")
            found = {text.splitlines()[0]: page.texts(f"{card} .group:nth-child({i}) .who")
                     for i, text in enumerate(page.texts(f"{card} .group"), 1)}  # fmt: skip
            assert found == {"8 tokens": ["script"], "4 tokens": ["random", "script"], "2 tokens": ["pool"], "25 %": ["grid"]}
            assert page.page.locator(f"{card} .grid").count() == 0
            assert page.value("document.documentElement.scrollWidth") == width
            assert not page.complaints


def test_a_table_that_goes_on_beyond_an_edge_shows_it(browser: Any, run: Path):
    table = "document.querySelector('#results .cut')"
    with opened(browser, run / "report.html", 390) as page:
        page.until(f"{table}.matches('.more-after:not(.more-before)')")
        page.value(f"{table}.firstChild.scrollLeft = 40")
        page.until(f"{table}.matches('.more-after.more-before')")
        page.value(f"{table}.firstChild.scrollLeft = 1e5")
        page.until(f"{table}.matches('.more-before:not(.more-after)')")
    with opened(browser, run / "report.html", 2000) as page:
        page.until("document.querySelector('[data-table=overview] .cut').style.getPropertyValue('--bar')")
        assert not page.value("document.querySelector('[data-table=overview] .cut').matches('.more-before, .more-after')")


def test_two_thousand_samples_stay_small_in_the_browser(browser: Any, tmp_path: Path):
    n = 2000
    atlas(tmp_path, [f"Question {i}?" for i in range(n)], 20)
    marks = {i: record(4) for i in range(n)}
    for config in ("tiny_full", *(f"tiny_{method}_{budget}" for method in ("script", "random") for budget in (4, 8))):
        cell(tmp_path, config, ["yes"] * n, [1.0] * n, marks=marks)
    path = write_page(read(tmp_path), Evidence())
    with opened(browser, path) as page:
        filled(page, "9")
        assert page.value("document.querySelectorAll('*').length") < 2500
        assert page.texts("#atlas > .count") == ["1 to 10 of 2,000 samples."]
        page.page.get_by_role("button", name="Last").click()
        assert shown(page)[-1] == "1999"
        assert not page.complaints
