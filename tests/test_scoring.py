"""What counts as right: one row of a table for each rule and for each way to fall for it."""

from __future__ import annotations

import ast
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from script_vlmeval import scoring
from script_vlmeval.errors import UserError
from script_vlmeval.scoring import answers

CHOICES = {"A": "blue", "B": "red square", "C": "no", "D": "dark red"}


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("Red.", "red", 1),
        ("The  red, square!", "red square", 1),
        ("two", "2", 1),
        ("-5", "5", 0),
        ("3.5", "35", 0),
        ("1,000", "1000", 1),
        ("don't know", "dont know", 1),
        ("red square", "red", 0),
        ("A", "a", 1),
        ("a", "the", 0),
        ("blue", "['red', 'blue']", 1),
        ("green", "['red', 'blue']", 0),
        ("[red", "[red", 1),
        ("", "red", 0),
        ("Z", "red", 0),
        ("方块", "方块。", 1),
    ],
)
def test_open_answers(prediction, answer, score):
    assert scoring.open_score(prediction, answer) == score


PIECES = ["yes", "it's", '"', "'", "\\", "\n", "\r", "\0", ", ", "', '", "[", "]", "", "\u2028", "方块", "{}", "#"]


@settings(max_examples=200)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=3).map("".join), max_size=4))
def test_a_list_in_a_cell_is_read_as_python_reads_it(items):
    cell = str(items)
    assert answers.texts(cell) == tuple(items)
    for raw in (f"['{''.join(items)}', 'b']", cell[:-1], cell + " ", cell.replace("', '", "','"), cell.replace("'", '"')):
        try:
            found = ast.literal_eval(raw.strip())
        except (ValueError, SyntaxError):
            found = ()
        assert answers.texts(raw) == tuple(map(str, found))


@pytest.mark.parametrize(("hits", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_ten_references_give_vqa_accuracy(hits, score):
    answer = str(["red"] * hits + [f"other{i}" for i in range(10 - hits)])
    assert scoring.open_score("Red", answer) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "said"),
    [("Yes.", "Yes"), ("no, it is", "No"), ("Yes, no", ""), ("know nothing", ""), ("", ""), ("Z", ""), ("YES", "Yes")],
)
def test_yes_or_no(text, said):
    assert scoring.yes_no(text) == said


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("B . no", "B"),
        ("(B)", "B"),
        (" **b** ", "B"),
        ("B) red square", "B"),
        ("the answer is B", "B"),
        ("Option A is the answer", "A"),
        ("The answer is A", "A"),
        ("Answer: (C)", "C"),
        ("red square", "B"),
        ("A red square", "B"),
        ("The answer is A red square.", "B"),
        ("It is dark red.", "D"),
        ("No.", "C"),
        ("(no answer)", ""),
        ("A or B", ""),
        ("(A) or (B)", ""),
        ("A) or B)", ""),
        ("Option A or B", ""),
        ("Option B or Z", "B"),
        ("A big dog", ""),
        ("Z", ""),
        ("E", ""),
        ("", ""),
        ("Failed to obtain answer via API.", ""),
        ("I think D", "D"),
        ("D - Nobody", "D"),
        ("A - dark red", "A"),
        ("A) dark red", "A"),
        ("C because", "C"),
        ("A because", "A"),
        ("The correct one is C", "C"),
        ("It's C.", "C"),
        ("It's A, I think", "A"),
        ("I would choose C", "C"),
        ("C is right", "C"),
        ("C is correct.", "C"),
        ("答案是C", "C"),
        ("A是正确的", "A"),
        ("C. A cat eats. The others (A) and (B) are wrong", "C"),
        ("C) it is not (A)", "C"),
        ("B. red square (A) blue", ""),
        ("A. blue\n(B) red square\n(C) no", ""),
        ("Neither A nor B", ""),
        ("Neither C nor D", ""),
        ("It is not C", ""),
        ("Not C but D", "D"),
        ("It isn't C", ""),
        ("It is D-shaped", ""),
        ("D.C. it is", ""),
        ("I see A big dog", ""),
        ("Yes, no", ""),
        (")", ""),
    ],
)
def test_option_letters(prediction, letter):
    assert scoring.option_letter(prediction, CHOICES) == letter


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("B", "B"),
        ("B) a", "B"),
        ("(B) a", "B"),
        ("B. a", "B"),
        ("B a.", "B"),
        ("a", "B"),
        ("a)", "B"),
        ("(a)", "B"),
        ("A", "A"),
        ("b", "C"),
        ("It is a", "B"),
        ("I see a b", "C"),
        ("I see a thing", ""),
        ("B because", "B"),
        ("b-side", ""),
        ("E", "D"),
        ("d", "D"),
        ("f", ""),
    ],
)
def test_options_that_are_letters(prediction, letter):
    """A capital is the option's letter, a small letter the option's text; a letter of no option is a text in any case."""
    assert scoring.option_letter(prediction, {"A": "c", "B": "a", "C": "b", "D": "e"}) == letter


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("It is vitamin C.", "B"),
        ("A vitamin C", "B"),
        ("D is right", "D"),
        ("The right one is D", "D"),
        ("It is D, not right", "D"),
        ("It is right", "A"),
        ("It is right, A big step", "A"),
        ("VITAMIN C, a lot", "B"),
        ("right and left, so D I think", "D"),
        ("a man", "F"),
        ("man", "E"),
    ],
)
def test_a_letter_beside_an_options_text(prediction, letter):
    """A capital outweighs a text, unless it belongs to one."""
    choices = {"A": "right", "B": "vitamin C", "C": "left", "D": "up", "E": "man", "F": "a man"}
    assert scoring.option_letter(prediction, choices) == letter


def test_the_longer_option_outweighs_the_one_inside_it():
    assert scoring.option_letter("I see a dark red thing", {"A": "red", "B": "dark red"}) == "B"


def row(answer, prediction, image="x", category="", **more):
    return dict(answer=answer, prediction=prediction, image_path=image, category=category, **more)


def test_mixed_rows_are_scored_by_their_kind():
    rows = [
        row("red", "Red", "1", "color"),
        row("yes", "no", "2", "exist"),
        row("B", "blue", "3", "color", A="red", B="blue"),
        row("green", "blue", "4", "color"),
    ]
    got = scoring.exact_scores(rows)
    assert got.per_sample == [1, 0, 1, 0]
    assert got.read == ["red", "No", "B", "blue"]
    expected = {"Overall": 50, "kind/open": 50, "kind/yesno": 0, "kind/mcq": 100, "color": 200 / 3, "exist": 0}
    assert {k: v for k, v in got.metrics.items() if k != "stderr"} == pytest.approx(expected)
    assert got.metrics["stderr"] == pytest.approx(100 * 0.5 / math.sqrt(3))


def test_an_option_text_is_an_answer_too():
    assert scoring.exact_scores([row("blue", "B", A="red", B="blue")]).per_sample == [1]


def test_standard_error_of_independent_and_of_clustered_values():
    values = [1.0, 1.0, 0.0, 0.0]
    assert scoring.standard_error(values) == pytest.approx(math.sqrt(1 / 3 / 4))
    # Two pictures that decide two rows each carry as much as two rows.
    assert scoring.standard_error(values, ["a", "a", "b", "b"]) == pytest.approx(scoring.standard_error([1.0, 0.0]))
    assert math.isnan(scoring.standard_error([1.0]))


def test_mme_pairs():
    rows = [
        row("Yes", "yes", "1", "color"),
        row("No", "no", "1", "color"),
        row("Yes", "yes", "2", "color"),
        row("No", "yes", "2", "color"),
        row("Yes", "perhaps", "3", "text_translation"),
        row("No", "no", "3", "text_translation"),
    ]
    got = scoring.pairs(rows).metrics
    expected = dict(color=125, text_translation=50, total=175, perception=125, reasoning=50)
    assert {name: got[name] for name in expected} == pytest.approx(expected)
    assert got["acc"] == pytest.approx(400 / 6)
    assert got["acc+"] == pytest.approx(100 / 3)


def test_mme_refuses_single_questions_and_nothing():
    with pytest.raises(UserError, match="two questions"):
        scoring.pairs([row("Yes", "yes")])
    with pytest.raises(UserError, match="no answered row"):
        scoring.exact_scores([])


def test_mme_error_is_that_of_a_sum_of_category_means():
    """Against the spread of the total over many redrawn sets of pictures."""
    rng = random.Random(3)

    def pictures(n: int) -> list[tuple[dict[str, str], float]]:
        drawn = []
        for i in range(n):
            easy = rng.random() < 0.6  # the two questions of a picture depend on each other
            for _ in range(2):
                right = rng.random() < (0.95 if easy else 0.3)
                drawn.append(({"index": str(len(drawn)), "image_path": f"{i}.png", "category": "ab"[i % 2]}, float(right)))
        return drawn

    def table(drawn: list[tuple[dict[str, str], float]]) -> dict[str, float]:
        rows = [{**row, "answer": "Yes", "prediction": "Yes" if right else "No"} for row, right in drawn]
        return scoring.pairs(rows).metrics

    totals = [table(pictures(80))["total"] for _ in range(400)]
    mean = sum(totals) / len(totals)
    spread = (sum((t - mean) ** 2 for t in totals) / (len(totals) - 1)) ** 0.5
    errors = [table(pictures(80))["stderr"] for _ in range(50)]
    assert abs(sum(errors) / len(errors) / spread - 1) < 0.1
