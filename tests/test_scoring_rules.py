"""The official rules: tables small enough to work out by hand, and thousands of predictions against `restated`."""

from __future__ import annotations

import math
import random
from importlib import import_module

import pytest
import restated

from script_vlmeval import scoring
from script_vlmeval.errors import UserError
from script_vlmeval.judge import VideoVerdict
from script_vlmeval.scoring import RULES

N = 2500
RED = str(["red"] * 10)
MIXED = str(["red"] * 3 + ["blue"] * 7)


def row(index, prediction="", answer="", **more):
    return {"index": str(index), "image_path": f"{index}.png", "answer": answer, "prediction": prediction, **more}


def without_error(metrics):
    return {name: value for name, value in metrics.items() if name != "stderr"}


def test_rules_say_what_is_scored_together():
    assert {name for name, rule in RULES.items() if rule.group} == {"pairs", "mme", "mmbench"}
    pictures = [RULES["mme"].group(r) for r in mme_table()]
    assert pictures[::2] == pictures[1::2]
    assert len(set(pictures)) == 6
    assert len({RULES["mmbench"].group(r) for r in bench_table()}) == 2
    named = [RULES["mmbench"].group(row(i, g_index=group)) for i, group in ((5, "12"), (1_000_012, ""))]
    assert named == ["12", "12"]


def test_a_question_of_docvqa_counts_in_each_of_its_types():
    kinds = ("['form', 'figure/diagram', 'form']", "['form']", "", "not a list")
    rows = [row(i, "x" if i % 2 else "y", "x", question_types=cell) for i, cell in enumerate(kinds)]
    got = without_error(RULES["anls"].function(rows).metrics)
    assert got == {"Overall": 50, "question_type/figure/diagram": 0, "question_type/form": 50}


def test_rules_are_named_and_lead_with_their_figure():
    plain = "exact pairs vqa vizwiz textvqa gqa pope mme scienceqa mmbench anls ocrbench mvbench videomme mlvu longvideobench"
    plain += " videoqa"
    assert set(RULES) == set(plain.split())
    assert all(rule.name == name and rule.label for name, rule in RULES.items())
    assert not [rule for rule in RULES.values() if rule.label.startswith("script_vlmeval")]  # which a score's scorer begins with


# one table for each rule, all right -------------------------------------------------------------------------------------


def mme_table(prediction=None):
    """Two categories of MME's perception and one of cognition, two pictures each."""
    return [
        row(f"{category}{i}{answer}", prediction or answer, answer, category=category, image_path=f"{category}/{i}.jpg")
        for category in ("color", "OCR", "code_reasoning")
        for i in range(2)
        for answer in ("Yes", "No")
    ]


def pope_table(prediction=None):
    """Three splits of 2, 4 and 2 rows; the first row stands in two of them."""
    rows = [("random,popular", "Yes"), ("random", "No"), ("popular", "Yes"), ("popular", "No"), ("popular", "No")]
    rows += [("adversarial", "Yes"), ("adversarial", "No")]
    return [row(i, prediction or a, a, category=c, image_path=f"{i // 2}.jpg") for i, (c, a) in enumerate(rows)]


def bench_table(letters=None):
    """Two questions of MMBench: three options in three rotations, two options in two."""
    three, two = ("x", "y", "z"), ("p", "q")
    rows = []
    for number, texts, category in ((7, three, "colour"), (12, two, "place")):
        for turn in range(len(texts)):
            turned = texts[turn:] + texts[:turn]
            answer = "ABC"[turned.index(texts[0])]
            cells = dict(zip("ABC", turned, strict=False)) | {"category": category, "l2-category": "all", "split": "dev"}
            rows.append(row(turn * 1_000_000 + number, letters or answer, answer, **cells, image_path=f"{number}.png"))
    return rows


def video_table(said=None, **columns):
    """Four questions on three videos, answers by text; the last candidate is an article."""
    listed = str(["the dog", "a man", "B", "it"])
    tasks, golds, videos = ("run", "run", "run", "sit"), ("the dog", "a man", "B", "it"), "1123"
    found = []
    for i, (task, gold, video) in enumerate(zip(tasks, golds, videos, strict=True)):
        cells = dict(candidates=listed, task_type=task, video=video, video_path=f"/v/{video}.mp4")
        cells |= {column: values[i] for column, values in columns.items()}
        found.append({"index": str(i), "answer": gold, "prediction": "ABCD"[i] if said is None else said, **cells})
    return found


PERFECT = {
    "vqa": [row(1, "red", RED), row(2, "Blue.", MIXED)],
    "vizwiz": [row(1, "red", RED), row(2, "Blue.", MIXED)],
    "textvqa": [row(1, "red", RED), row(2, "Blue.", MIXED)],
    "gqa": [row(1, "Red.", "red"), row(2, "no", "no")],
    "pope": pope_table(),
    "scienceqa": [
        row(1, "A", "A", A="x", B="y"),
        row(2, "B. y", "B", A="x", B="y"),
        row(3, "The answer is B.", "B", A="x", B="y"),
    ],
    "mmbench": bench_table(),
    "anls": [row(1, "one two", "['one two', 'two']"), row(2, "7", "7")],
    "ocrbench": [row(1, "It says Stop", "['stop']"), row(2, "7", "['7', '8']")],
    "mvbench": video_table(),
    "mlvu": video_table(),
    "longvideobench": [{**r, "answer": r["prediction"], "correct_choice": str(i)} for i, r in enumerate(video_table())],
    "videomme": [
        {**r, "answer": r["prediction"], "candidates": str(["A. C", "B. D", "C. A", "D. B"])}
        for r in video_table(duration="ssml")
    ],
    "videoqa": [row(1, "The dogs.", "dogs"), row(2, "two", "2")],
    "exact": [row(1, "The dogs.", "dogs"), row(2, "two", "2")],
}


@pytest.mark.parametrize("name", PERFECT)
def test_true_answers_are_worth_all(name):
    found = RULES[name].function(PERFECT[name])
    assert found.metrics[RULES[name].primary] == pytest.approx(100)
    assert next(iter(found.metrics)) == RULES[name].primary
    assert found.per_sample == pytest.approx([1.0] * len(PERFECT[name]))
    assert len(found.read) == len(PERFECT[name])


@pytest.mark.parametrize("name", [*PERFECT, "mme", "pairs"])
@pytest.mark.parametrize("nothing", ["", " \n"])
def test_an_empty_prediction_is_wrong_in_every_rule(name, nothing):
    rows = [{**r, "prediction": nothing} for r in PERFECT.get(name) or mme_table()]
    found = RULES[name].function(rows)
    assert found.metrics[RULES[name].primary] == 0
    assert set(found.per_sample) == {0}
    with pytest.raises(UserError, match="no answered row"):
        RULES[name].function([])


# ten references ----------------------------------------------------------------------------------------------------------


def test_contractions_are_those_restated():
    tables = import_module("script_vlmeval.scoring.vqa")
    assert tables.CONTRACTIONS == restated.CONTRACTIONS
    assert tables.VIZWIZ_CONTRACTIONS == restated.VIZWIZ_CONTRACTIONS


@pytest.mark.parametrize(
    ("text", "official", "textvqa"),
    [
        ("The two dogs!", "2 dogs", "2 dogs"),
        ("red-green", "red green", "red green"),
        ("1,000 red-green", "1000 redgreen", "1000 red green"),
        ("red, green", "red green", "red green"),
        ("red,green", "red green", "redgreen"),
        ("3.", "3", "3"),
        ("3.5 e.g. .5", "3.5 eg .5", "3.5 eg .5"),
        ("dont", "don't", "don't"),
        ("Joe's", "joe's", "joe 's"),
        ("none", "0", "0"),
        ("A", "", ""),
        ("Im", "im", "im"),
        ("." * 33 + "x", ".x", ".x"),
        ("方块。", "方块。", "方块。"),
    ],
)
def test_answer_processing(text, official, textvqa):
    assert scoring.vqa_text(text) == official
    assert scoring.textvqa_text(text) == scoring.normalise_vqa(text) == textvqa


def test_vqa_accuracy_leaves_one_out_and_breaks_down():
    rows = [
        row(1, "Red.", MIXED, answer_type="other", question_type="what", image_path="a"),
        row(2, "blue", MIXED, answer_type="other", question_type="how", image_path="b"),
        row(3, "Yes.", str(["yes"] * 10), answer_type="yes/no", question_type="is", image_path="b"),
        row(4, "the cat", str(["the cat"] * 10), image_path="c"),
        row(5, "a cat", str(["the cat"] * 9 + ["cat"]), image_path="d"),
    ]
    got = RULES["vqa"].function(rows)
    assert got.per_sample == pytest.approx([0.9, 1, 1, 1, 1])
    expected = {"Overall": 98, "answer_type/other": 95, "answer_type/yes/no": 100}
    expected |= {"question_type/what": 90, "question_type/how": 100, "question_type/is": 100}
    assert without_error(got.metrics) == pytest.approx(expected)
    assert got.metrics["stderr"] == pytest.approx(100 * math.sqrt(4 / 3 * (0.08**2 + 0.04**2 + 2 * 0.02**2)) / 5)


def test_references_stay_as_they_are_where_annotators_agree():
    """Neither the article nor the mark is taken from what ten people wrote alike."""
    assert scoring.vqa_score("cat", ["The cat!"] * 10) == 0
    assert scoring.vqa_score("The cat!", ["The cat!"] * 10) == 1
    assert scoring.vqa_score("cat", ["The cat!"] * 9 + ["dog"]) == 1
    assert scoring.textvqa_score("cat", ["The cat!"] * 10) == 1


@pytest.mark.parametrize("name", ["vqa", "vizwiz", "textvqa"])
@pytest.mark.parametrize(("answer", "count"), [("red", 1), ("['red']", 1), (str(["red"] * 9), 9), ("", 0), (str(["x"] * 11), 11)])
def test_other_than_ten_references_are_refused(name, answer, count):
    with pytest.raises(UserError, match=rf"row '5' has {count}\."):
        RULES[name].function([row(1, "red", RED), row(5, "red", answer)])


def test_vizwiz_has_its_references_in_another_column():
    assert RULES["vizwiz"].function([{"index": "1", "prediction": "red", "answers": RED}]).per_sample == [1]


@pytest.mark.parametrize(
    ("said", "reference", "score"),
    [
        ("Unanswerable.", "unanswerable", 1),
        ("The cat!", "cat", 1),
        ("two", "2", 1),
        ("two", "two", 0),
        ("the cat", "the cat", 0),
        ("Coca-Cola", "coca-cola", 0),
        ("Coca-Cola", "coca cola", 1),
        ("red", "Red", 0),
        ("red", "red ", 0),
        ("dont", "don't", 0),
        ("dont", "don’t", 1),
        ("don't", "don't", 1),
        ("cant", "can't", 1),
    ],
)
@pytest.mark.parametrize("alike", [10, 9])
def test_vizwiz_takes_references_as_they_are(said, reference, score, alike):
    """Whether or not the annotators agree."""
    accepted = [reference] * alike + ["zebra"] * (10 - alike)
    assert scoring.vizwiz_score(said, accepted) == score
    assert (
        RULES["vizwiz"].function([row(1, said, str(accepted), answer_type="other")]).metrics["answer_type/other"] == 100 * score
    )


@pytest.mark.parametrize("name", ["vqa", "vizwiz", "textvqa"])
def test_soft_scores_as_restated(name):
    draw, seen = random.Random(11), set()
    for i in range(N):
        accepted = restated.ten(draw)
        said = restated.twisted(draw.choice(accepted), draw)
        got = RULES[name].function([row(i, said, str(accepted))]).per_sample[0]
        assert got == pytest.approx(getattr(restated, name)(said, accepted)), (said, accepted)
        seen.add(round(got, 6))
    assert seen >= {0, 0.3, 0.6, 0.9, 1}


# one reference -----------------------------------------------------------------------------------------------------------


def test_gqa_breaks_down_and_clusters_by_picture():
    rows = [row(1, "Red.", "red", type="query"), row(2, "the red", "red", type="query"), row(3, " NO ", "no", type="verify")]
    got = RULES["gqa"].function([{**r, "image_path": "xyy"[i]} for i, r in enumerate(rows)])
    assert got.read == ["red", "the red", "no"]
    assert without_error(got.metrics) == pytest.approx({"Overall": 200 / 3, "type/query": 50, "type/verify": 100})
    assert got.metrics["stderr"] == pytest.approx(100 * math.sqrt(2 * 2 * (1 / 3) ** 2) / 3)


def test_gqa_as_restated():
    draw, right = random.Random(12), 0
    for i in range(N):
        answer = restated.phrase(draw)
        said = restated.twisted(answer, draw)
        got = RULES["gqa"].function([row(i, said, answer)]).per_sample[0]
        assert got == restated.gqa(said, answer), (said, answer)
        right += got
    assert N / 10 < right < 0.9 * N


@pytest.mark.parametrize(
    ("prediction", "accepted", "score"),
    [
        ("kitten", "['sitting', 'mitten']", 5 / 6),
        ("abcd", "['abxx']", 0.5),
        ("abcd", "['axxx']", 0),
        ("  A  b ", "['a b']", 1),
        ("ab ", "['abcx']", 0.5),
        ("ab  ", "['abx']", 0.75),
    ],
)
def test_anls(prediction, accepted, score):
    """The last two: a blank around the answer makes the text longer, and the distance relative to it smaller."""
    assert RULES["anls"].function([row(1, prediction, accepted)]).per_sample == pytest.approx([score])


def test_anls_as_restated():
    draw, seen = random.Random(13), set()
    for i in range(N):
        accepted = [restated.phrase(draw) for _ in range(draw.choice((1, 2)))]
        said = restated.twisted(draw.choice(accepted), draw)
        got = RULES["anls"].function([row(i, said, str(accepted))]).per_sample[0]
        assert got == pytest.approx(restated.anls(said, accepted)), (said, accepted)
        seen.add(got)
    assert {0, 1} < seen


def test_ocrbench_as_restated():
    draw, kinds = random.Random(14), ("Doc-oriented VQA", "Handwritten Mathematical Expression Recognition")
    for i in range(N):
        accepted, kind = [restated.phrase(draw), "x \\frac { 1 } { 2 }"], draw.choice(kinds)
        said = restated.twisted(draw.choice(accepted), draw)
        got = RULES["ocrbench"].function([row(i, said, str(accepted), category=kind)])
        assert got.per_sample == [restated.ocr(said, accepted, kind == kinds[1])], (said, accepted)
        assert got.metrics[kind] == got.metrics["Overall"] == 100 * got.per_sample[0]


# yes or no ---------------------------------------------------------------------------------------------------------------


def test_mme_by_hand():
    """All right: 200 for each category. Always yes: half the questions, no picture."""
    right, yes = RULES["mme"].function(mme_table()).metrics, RULES["mme"].function(mme_table("yes")).metrics
    assert right == {"total": 600, "perception": 400, "cognition": 200, "acc": 100, "acc+": 100, "stderr": 0} | {
        "color": 200,
        "OCR": 200,
        "code_reasoning": 200,
    }
    assert (yes["total"], yes["perception"], yes["cognition"], yes["acc"], yes["acc+"]) == (150, 100, 50, 50, 0)


def test_a_perfect_mme_is_worth_2000_and_800():
    rows = [
        row(f"{c}{i}{a}", a, a, category=c, image_path=f"{c}{i}")
        for c in (*scoring.MME_PERCEPTION, *scoring.MME_REASONING)
        for i in range(2)
        for a in ("Yes", "No")
    ]
    got = RULES["mme"].function(rows).metrics
    assert (got["total"], got["perception"], got["cognition"]) == (2800, 2000, 800)


@pytest.mark.parametrize(
    ("said", "mme", "pope", "words"),
    [
        ("Yes", "Yes", "Yes", "Yes"),
        ("NO", "No", "Yes", "No"),
        ("no!", "No", "Yes", "No"),
        ("The answer is yes", "", "Yes", "Yes"),
        ("The answer is no", "", "No", "No"),
        ("know", "No", "Yes", ""),
        ("I know", "", "Yes", ""),
        ("Not here", "No", "Yes", ""),
        ("It is not. Yes", "", "No", "Yes"),
        ("Yes, no", "Yes", "No", ""),
        ("", "", "", ""),
        (".", "", "Yes", ""),
    ],
)
def test_three_readings_of_yes_and_no(said, mme, pope, words):
    assert (scoring.mme_reading(said), scoring.pope_reading(said), scoring.yes_no(said)) == (mme, pope, words)


def test_yes_or_no_as_restated():
    draw, seen = random.Random(15), set()
    for _ in range(N):
        said = restated.yes_or_no(draw)
        readings = scoring.pope_reading(said), scoring.mme_reading(said)
        assert readings == (restated.pope(said), restated.mme(said)), said
        seen.add(readings)
    assert len(seen) >= 6


def test_pope_by_hand():
    """Always yes: precision 1/2, 2/4, 1/2 and recall 1, so an F1 of 2/3 in each split and in all."""
    got = RULES["pope"].function(pope_table("yes"))
    assert got.per_sample == [1, 0, 1, 0, 0, 1, 0]
    expected = {"F1": 200 / 3, "F1 pooled": 200 / 3, "accuracy": 50, "precision": 50, "recall": 100, "yes ratio": 100}
    assert {name: got.metrics[name] for name in expected} == pytest.approx(expected)
    assert got.metrics["random/F1"] == pytest.approx(200 / 3)
    silent = RULES["pope"].function([{**r, "prediction": "" if r["answer"] == "No" else "Yes"} for r in pope_table()]).metrics
    assert (silent["F1"], silent["accuracy"], silent["precision"], silent["yes ratio"]) == (100, 50, 100, 50)


def test_pope_as_restated():
    """Splits, pooled and mean figures of tables whose rows stand in up to three splits."""
    draw = random.Random(16)
    for _ in range(30):
        rows = []
        for i in range(80):
            splits = draw.sample(["random", "popular", "adversarial"], draw.choice((1, 1, 2, 3)))
            rows.append(row(i, restated.yes_or_no(draw), draw.choice(["Yes", "No"]), category=",".join(splits)))
        got = RULES["pope"].function(rows).metrics
        flat = [(split, restated.pope(r["prediction"]), r["answer"]) for r in rows for split in r["category"].split(",")]
        tables = {s: restated.f1_table(*zip(*[(a, g) for x, a, g in flat if x == s], strict=True)) for s in {x for x, *_ in flat}}
        pooled = restated.f1_table([a for _, a, _ in flat], [g for *_, g in flat])
        expected = {f"{s}/{name}": value for s, table in tables.items() for name, value in table.items()}
        expected |= {"F1 pooled": pooled.pop("F1"), **pooled, "F1": sum(t["F1"] for t in tables.values()) / 3}
        assert without_error(got) == pytest.approx(expected)


def test_the_error_of_popes_f1_is_that_of_redrawn_tables():
    draw = random.Random(17)

    def table():
        rows = []
        for i in range(40):
            good = 0.9 if draw.random() < 0.5 else 0.6
            for j in range(6):
                answer = "Yes" if j % 2 else "No"
                said = answer if draw.random() < good else {"Yes": "No", "No": "Yes"}[answer]
                rows.append(row(6 * i + j, said, answer, category=["a", "b", "c"][j // 2], image_path=str(i)))
        return RULES["pope"].function(rows).metrics

    tables = [table() for _ in range(60)]
    mean = sum(t["F1"] for t in tables) / len(tables)
    spread = math.sqrt(sum((t["F1"] - mean) ** 2 for t in tables) / (len(tables) - 1))
    assert sum(t["stderr"] for t in tables) / len(tables) / spread == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("name", ["pope", "mme"])
def test_a_reference_other_than_yes_or_no_is_refused(name):
    with pytest.raises(UserError, match="row '1' has 'maybe'"):
        RULES[name].function([row(1, "yes", "maybe"), row(2, "yes", "no")])


def test_mme_refuses_a_picture_with_one_question():
    with pytest.raises(UserError, match="two questions"):
        RULES["mme"].function([row(1, "yes", "yes", category="color")])


# multiple choice ---------------------------------------------------------------------------------------------------------


def test_options_are_columns_or_candidates():
    assert scoring.options({"A": "x", "B": " y ", "C": "", "candidates": "['p']"}) == {"A": "x", "B": "y"}
    assert scoring.options({"candidates": "['A. x', '(B) y', 'C) z']"}) == {"A": "x", "B": "y", "C": "z"}
    assert scoring.options({"candidates": "['A.M.', 'B. y']"}) == {"A": "A.M.", "B": "B. y"}
    assert scoring.options({"candidates": "['A. x', 'y', '']"}) == {"A": "A. x", "B": "y"}
    assert scoring.options({"candidates": "not a list"}) == {}


@pytest.mark.parametrize(
    ("cells", "gold"),
    [
        (dict(answer="b", A="x", B="y"), "B"),
        (dict(answer="x", A="x", B="y"), "A"),
        (dict(answer="z", A="x", B="y"), ""),
        (dict(answer="B", candidates="['C', 'B', 'A']"), "B"),
        (dict(answer="A", candidates="['C', 'B', 'A']"), "C"),
        (dict(answer="A", candidates="['A. C', 'B. B', 'C. A']"), "A"),
        (dict(answer="C", candidates="['red', 'blue', 'green']"), "C"),
        (dict(answer="A", candidates="['red', 'blue']", correct_choice="1"), "B"),
        (dict(answer="A", candidates="['red', 'blue']", correct_choice="7"), ""),
    ],
)
def test_the_right_option(cells, gold):
    assert scoring.gold_letter(cells) == gold


def test_an_option_that_stands_twice_is_right_twice():
    rows = [{"index": "1", "candidates": "['dog', 'cat', 'dog']", "answer": "dog", "prediction": said} for said in "ABC"]
    assert RULES["mvbench"].function(rows).per_sample == [1, 0, 1]


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("b", ""),
        ("B.", ""),
        ("B. y", "B"),
        ("(B)", ""),
        ("The answer is B.", "B"),
        ("So. The answer is B, as", "B"),
        ("The answer is B", ""),
        ("The answer is B. The answer is A.", ""),
        ("C", ""),
        ("y", ""),
    ],
)
def test_scienceqa_reads_three_forms_alone(said, letter):
    assert scoring.scienceqa_letter(said, {"A": "x", "B": "y"}) == letter


def test_choices_as_restated():
    draw, seen = random.Random(18), {}
    for i in range(N):
        choices = restated.some_options(draw)
        said = restated.choice(choices, draw)
        gold = draw.choice(list(choices))
        got = RULES["mvbench"].function([row(i, said, choices[gold], candidates=str([*choices.values()]))])
        assert got.read == [restated.letter(said, choices)], (said, choices)
        assert got.per_sample == [float(got.read == [gold])]
        got = RULES["scienceqa"].function([row(i, said, gold, **choices)])
        assert got.read == [restated.scienceqa(said, "".join(choices))], (said, choices)
        seen[got.read[0]] = seen.get(got.read[0], 0) + 1
    assert all(seen[letter] > N / 100 for letter in ("A", "B", "C", "D", ""))


def test_a_table_without_right_options_is_refused_and_single_rows_are_counted():
    with pytest.raises(UserError, match="row '1' has the answer ''"):
        RULES["mmbench"].function([row(1, "A", "", A="x", B="y")])
    got = RULES["mvbench"].function([row(1, "A", "x", A="x"), row(2, "A", "z", A="x")])
    assert got.metrics["rows without a right option"] == 1
    assert got.per_sample == [1, 0]


def test_mmbench_is_circular():
    """Always A: right once in three and once in two rotations, so no question is; unrotated, both are."""
    always = RULES["mmbench"].function(bench_table("A"))
    assert (always.metrics["Overall"], always.metrics["plain"], sum(always.per_sample)) == (0, 100, 2)
    rows = bench_table()
    rows[-1]["prediction"] = "Z"
    got = RULES["mmbench"].function(rows)
    expected = {"Overall": 50, "plain": 100, "category/colour": 100, "category/place": 0, "l2/all": 50}
    assert without_error(got.metrics) == pytest.approx(expected)
    assert got.metrics["stderr"] == pytest.approx(50)
    assert got.per_sample == [1, 1, 1, 1, 0]


def test_mmbench_groups_by_column_and_splits():
    rows = [row(f"x{i}", "A", "AB"[i % 2], A="p", B="q", g_index=f"x{i // 2 * 2}", split=f"s{i // 2}") for i in range(4)]
    rows[1]["prediction"] = "B"
    got = RULES["mmbench"].function(rows).metrics
    assert (got["Overall"], got["plain"], got["split/s0"], got["split/s1"]) == (50, 100, 100, 0)


# videos ------------------------------------------------------------------------------------------------------------------


def test_mvbench_weighs_questions_and_tasks():
    got = RULES["mvbench"].function(video_table("A)"))
    expected = {"Overall": 25, "task mean": 50 / 3, "task/run": 100 / 3, "task/sit": 0}
    assert without_error(got.metrics) == pytest.approx(expected)
    assert list(got.metrics)[:3] == ["Overall", "stderr", "task mean"]
    # videos 1, 2, 3 with sums of deviations (3/4 - 1/4), -1/4, -1/4
    assert got.metrics["stderr"] == pytest.approx(100 * math.sqrt(3 / 2 * (0.5**2 + 2 * 0.25**2)) / 4)


@pytest.mark.parametrize("said", [")", "", ".", "the", "an", "a horse", "Failed to obtain answer via API."])
def test_nothing_is_no_answer_to_a_video_question(said):
    assert RULES["mvbench"].function(video_table(said)).metrics["Overall"] == 0


@pytest.mark.parametrize("said", ["B", "B) a", "a)", "(B) a", "(a", "B."])
def test_options_of_one_letter_are_read_after_an_open_bracket(said):
    rows = [{"index": "1", "candidates": "['b', 'a', 'c']", "answer": "a", "prediction": said}]
    assert RULES["mvbench"].function(rows).per_sample == [1]


@pytest.mark.parametrize("said", ["A)", "A) the dog", "(A", "A", "the dog", "(A) the dog", "A. the dog"])
def test_what_follows_an_open_bracket_is_an_answer(said):
    assert RULES["mvbench"].function(video_table(said)).per_sample == [1, 0, 0, 0]


def test_video_sets_break_down_by_their_columns():
    columns = dict(duration=("short", "short", "long", "long"), domain="xxyy", sub_category="pppq")
    got = RULES["videomme"].function(video_table("A", **columns)).metrics
    expected = {"Overall": 25, "duration/short": 50, "duration/long": 0, "domain/x": 50, "domain/y": 0, "task/run": 100 / 3}
    expected |= {"task/sit": 0, "sub_category/p": 100 / 3, "sub_category/q": 0}
    assert without_error(got) == pytest.approx(expected)
    rows = video_table("A", duration_group=("15", "60", "60", "600"), question_category=("S2E", "S2E", "T3O", "T3O"))
    got = RULES["longvideobench"].function(rows).metrics
    expected = {"Overall": 25, "duration/15": 100, "duration/60": 0, "duration/600": 0, "category/S2E": 50, "category/T3O": 0}
    assert without_error(got) == pytest.approx(expected)


def test_mlvu_leads_with_the_mean_of_tasks():
    rows = video_table("A") + [{**r, "index": f"x{r['index']}", "video_path": f"x{r['index']}"} for r in video_table("D")]
    got = RULES["mlvu"].function(rows).metrics
    assert without_error(got) == pytest.approx({"M-Avg": 100 / 3, "M-Avg pooled": 25, "task/run": 100 / 6, "task/sit": 50})
    sit = math.sqrt(2 * 2 * 0.5**2) / 2
    run = math.sqrt(5 / 4 * ((2 / 3) ** 2 + 4 / 36)) / 6
    assert got["stderr"] == pytest.approx(100 * math.hypot(sit, run) / 2)


def test_open_video_answers_match_as_strings():
    rows = [row(1, "The dogs.", "dogs", type="0"), row(2, "two dogs", "dogs", type="0"), row(3, "hotdogs", "dogs", type="1")]
    got = RULES["videoqa"].function(rows).metrics
    assert without_error(got) == pytest.approx({"em_acc": 100 / 3, "contains_acc": 200 / 3, "type/0": 50, "type/1": 0})


def test_open_video_answers_as_restated():
    draw, hits = random.Random(19), [0.0, 0.0]
    for i in range(N):
        answer = restated.phrase(draw)
        said = restated.twisted(answer, draw)
        got = RULES["videoqa"].function([row(i, said, answer)])
        assert (got.per_sample[0], got.metrics["contains_acc"] / 100) == restated.em(said, answer), (said, answer)
        hits[0], hits[1] = hits[0] + got.per_sample[0], hits[1] + got.metrics["contains_acc"] / 100
    assert N / 10 < hits[0] < hits[1] < N


# judged ------------------------------------------------------------------------------------------------------------------


def test_video_answers_as_judged():
    rows = [row(i, said, "red", type="0" if i < 2 else "1") for i, said in enumerate(["red", "reddish", "blue", ""])]
    got = scoring.videoqa_judged(rows, [VideoVerdict(True, 5), VideoVerdict(True, 4), None, VideoVerdict(True, 5)])
    expected = {"judge_acc": 50, "judge_score": 2.25, "judge_unparsable": 1, "type/0": 100, "type/1": 0}
    assert without_error(got.metrics) == pytest.approx(expected)
    assert (got.per_sample, got.read) == ([1, 1, 0, 0], ["yes", "yes", "", "no"])
    assert scoring.videoqa_judged(rows, [None] * 4).metrics["judge_unparsable"] == 3
    with pytest.raises(ValueError, match=r"shorter|longer"):
        scoring.videoqa_judged(rows, [None])


def test_mmvet_abilities():
    rows = [
        row(1, "x", category="rec,know"),
        row(2, "x", category="ocr, rec"),
        row(3, "x", category="math"),
        row(4, "", category="gen"),
    ]
    got = scoring.mmvet(rows, [1.0, 0.5, None, 1.0]).metrics
    expected = {"Overall": 37.5, "judge_unparsable": 1, "rec": 75, "know": 100, "ocr": 50, "math": 0, "gen": 0}
    assert without_error(got) == pytest.approx(expected)


def test_mlvus_open_tasks():
    tasks = ("summary", "summary", "sub_scene", "sub_scene")
    rows = [row(i, "x" if i else "", task_type=task) for i, task in enumerate(tasks)]
    got = scoring.mlvu_open(rows, [(5, 5), (3, 5), (4, 4.5), None])
    expected = {"G-Avg": (5 + 5.25) / 2, "judge_unparsable": 1, "task/summary": 5, "task/sub_scene": 5.25}
    assert without_error(got.metrics) == pytest.approx(expected)
    assert got.per_sample == pytest.approx([0, 0.75, 6.5 / 8, 0])
