"""VLMEvalKit's scorers and ours on the same rows: where they differ, the reason has a name, and nowhere else do they differ.

`Host` says for each metric how the host scores one row (by the functions that its `evaluate` calls), and which traps there are: a
trap is told from a row's cells alone. Rows in no trap must agree; each trap must have made a difference.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import pytest
import restated

from script_vlmeval.errors import UserError
from script_vlmeval.plugin.host import host
from script_vlmeval.scoring import RULES

N = 2000
Row = dict[str, str]


@pytest.fixture(scope="module")
def of():
    """A module of the host's, by the last part of its name."""
    try:
        host()
    except UserError as error:  # beside some releases of transformers it cannot be imported
        pytest.skip(str(error))
    return lambda name: import_module(f"vlmeval.dataset.utils.{name}")


# rows --------------------------------------------------------------------------------------------------------------------


def soft_row(draw: random.Random) -> Row:
    accepted = restated.ten(draw)
    return {"answer": str(accepted), "prediction": restated.twisted(draw.choice(accepted), draw)}


def short_row(draw: random.Random) -> Row:
    answer = restated.phrase(draw).replace("[", "(")  # the host evaluates a list
    return {"answer": answer, "prediction": restated.twisted(answer, draw)}


def document_row(draw: random.Random) -> Row:
    accepted = [restated.phrase(draw), restated.phrase(draw)]
    return {"answer": str(accepted), "prediction": restated.twisted(draw.choice(accepted), draw)}


def yes_row(draw: random.Random) -> Row:
    return {"answer": draw.choice(["Yes", "No"]), "prediction": restated.yes_or_no(draw), "category": "all"}


def lettered_row(draw: random.Random) -> Row:
    choices = restated.some_options(draw)
    return {"question": "What?", "answer": draw.choice("ABCD"), "prediction": restated.choice(choices, draw), **choices}


def listed_row(draw: random.Random, by_letter: bool = False) -> Row:
    choices, gold = restated.some_options(draw), draw.choice("ABCD")
    listed = [f"{x}. {text}" for x, text in choices.items()] if by_letter else list(choices.values())
    cells = {"question": "What?", "candidates": str(listed), "task_type": "all", "prediction": restated.choice(choices, draw)}
    return {**cells, "answer": gold if by_letter else choices[gold], "correct_choice": str("ABCD".index(gold))}


# the host's scores -------------------------------------------------------------------------------------------------------


def soft(of, row: Row) -> float:
    return float(np.mean(of("vqa_eval").process_line(row)["match"]))


def exact(of, row: Row) -> float:
    return float(np.mean(of("vqa_eval").process_line(row, method="accuracy")["match"]))


def similar(of, row: Row) -> float:
    return float(of("vqa_eval").hit_calculate([of("vqa_eval").process_line(row, method="anls")], "DocVQA_VAL")[0])


def yes_no(of, row: Row) -> float:
    return float(of("yorn").YOrN_Extraction(row["prediction"]) == row["answer"])


def lettered(of, row: Row) -> float:
    return float(of("multiple_choice").extract_answer_from_item(None, dict(row))["opt"] == row["answer"])


def listed(of, row: Row, name: str) -> float:
    """As `evaluate` puts it: "(B) text" against the prediction, then options as columns for the tolerant reading."""
    texts = ast.literal_eval(row["candidates"])
    gold = "ABCD"[texts.index(row["answer"])]
    item = {**row, **dict(zip("ABCD", texts, strict=True)), "answer": gold}
    return float(of(name).check_ans_with_model(row["prediction"], f"({gold}) {row['answer']}", None, item))


def first_capital(of, row: Row, name: str) -> float:
    said = of(name).extract_characters_regex(row["prediction"]) or of(name).extract_option(None, dict(row), name)
    return float(said == "ABCD"[int(row["correct_choice"])])


# traps -------------------------------------------------------------------------------------------------------------------


def answers_of(row: Row) -> list[str]:
    return ast.literal_eval(row["answer"])


def everything(row: Row) -> str:
    """All texts of a row with several references."""
    return "\n".join([row["prediction"], *answers_of(row)])


def first_sentence(row: Row) -> str:
    return row["prediction"].strip().partition(".")[0]


def words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def yes_and_no(row: Row) -> set[str]:
    return words_of(row["prediction"]) & {"yes", "no"}


def capitals(row: Row) -> set[str]:
    return set(re.findall(r"\b[A-Z]\b", row["prediction"]))


def says(pattern: str) -> Callable[[Row], object]:
    return lambda row: re.search(pattern, row["prediction"])


EMPTY = {"empty answer": lambda row: not row["prediction"].strip()}
PERIOD = {"period behind a digit": lambda row: re.search(r"\d\.(?!\d)", everything(row))}
VIZWIZ = {
    **EMPTY,
    "reference that is not in its processed form": lambda row: any(restated.processed(x) != x for x in answers_of(row)),
    "contraction": lambda row: any(c in everything(row) for c in "'’"),
}
VQA = {**EMPTY, "annotators agree": lambda row: len({answer.strip() for answer in answers_of(row)}) == 1, **PERIOD}
TEXTVQA = {**EMPTY, "comma, question mark, 's": lambda row: re.search(r"[,?]|'s", everything(row).lower()), **PERIOD}
GQA = {"period at the end": says(r"\.\s*$")}
ANLS = {"blanks are as long as the answer": lambda row: not row["prediction"].strip()}
POPE = {
    "neither word": lambda row: not yes_and_no(row),
    "both words": lambda row: len(yes_and_no(row)) == 2,
    "a no behind the first sentence": lambda row: "no" in yes_and_no(row) and "no" not in words_of(first_sentence(row)),
    "not": says(r"\bnot\b"),
    "a no that is not spelled no": lambda row: not {"no", "No"} & set(first_sentence(row).replace(",", "").split(" ")),
}
MME = {
    "both words": lambda row: len(yes_and_no(row)) == 2,
    "letters of a longer word": lambda row: not yes_and_no(row),
    "behind four letters": lambda row: not re.search(r"yes|no", row["prediction"].strip().lower()[:4]),
    "letters of another word in front": lambda row: not words_of(row["prediction"].strip()[:4]) & {"yes", "no"},
}
CHOICE = {
    "failure marker": says(r"(?i:via api)"),
    "a mark alone": says(r"^\W*$"),
    "lower-case letter": says(r"^\W*[a-z]\b(?!\s+\w)"),
    "article": says(r"\b[Aa]\s+\w"),
    "more than one letter": lambda row: len(capitals(row)) > 1,
    "no letter, but a text": lambda row: not capitals(row),
    "letter within a text": says(r"vitamin\sC|A\.M\.|[A-Z]['’]s|_"),
    "letter that is no option": lambda row: not capitals(row) & set("ABCD"),
    "letter far from the end": says(r"\b[A-D]\b(\W+\w+){4}|\b[A-D] - (\w+ ){2}\w"),
    "letter of a compound": says(r"\b[A-Z]-\w"),
    "letter denied": says(r"(?i:\bnot)\s+[A-D]\b"),
    "letter behind a word": says(r"\w\W+\(?[A-D]\b"),
}
LOOSER = {"forms that ScienceQA does not know": lambda row: not restated.scienceqa(row["prediction"], "ABCDF")}


def choice(without: str) -> dict[str, Callable[[Row], object]]:
    return {name: inside for name, inside in CHOICE.items() if name not in without.split("|")}


@dataclass(frozen=True)
class Host:
    """`traps`: what to call a row -> whether it is one; `name`: the host's module, where its function is shared."""

    row: Callable[[random.Random], Row]
    theirs: Callable[..., float]
    traps: Mapping[str, Callable[[Row], object]]
    name: str = ""

    def trap(self, row: Row) -> str:
        """The first trap that a row is in, '' for none."""
        return next((name for name, inside in self.traps.items() if inside(row)), "")


_CAPITAL = choice("a mark alone|letter far from the end")  # where the host takes the first capital that may be an option
HOSTS = {
    "vqa": Host(soft_row, soft, VQA),
    "vizwiz": Host(soft_row, soft, VIZWIZ),
    "textvqa": Host(soft_row, soft, TEXTVQA),
    "gqa": Host(short_row, exact, GQA),
    "anls": Host(document_row, similar, ANLS),
    "pope": Host(yes_row, yes_no, POPE),
    "mme": Host(yes_row, yes_no, MME),
    "scienceqa": Host(lettered_row, lettered, LOOSER | {name: CHOICE[name] for name in ("article", "letter within a text")}),
    "mmbench": Host(lettered_row, lettered, choice("a mark alone|letter behind a word")),
    "mvbench": Host(listed_row, listed, choice("failure marker|letter of a compound|letter behind a word"), "mvbench"),
    "mlvu": Host(listed_row, listed, choice("failure marker|a mark alone|letter of a compound|letter behind a word"), "mlvu"),
    "videomme": Host(lambda draw: listed_row(draw, True), first_capital, _CAPITAL, "videomme"),
    "longvideobench": Host(listed_row, first_capital, _CAPITAL, "longvideobench"),
}


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # the host evaluates answers that begin with a bracket
@pytest.mark.parametrize("rule", HOSTS)
def test_the_host_differs_in_its_traps_alone(of, rule):
    draw, case = random.Random(rule), HOSTS[rule]
    rows = [{"index": str(i), "image_path": str(i), **case.row(draw)} for i in range(N)]
    if rule == "mme":  # each drawn row is one half of a picture's pair
        ours = RULES[rule].function([half for row in rows for half in (row, {**row, "prediction": "yes"})]).per_sample[::2]
    else:
        ours = RULES[rule].function(rows).per_sample
    theirs = [case.theirs(of, row, *([case.name] if case.name else [])) for row in rows]
    apart = [row for row, mine, other in zip(rows, ours, theirs, strict=True) if abs(mine - other) > 1e-9]
    unnamed = [row for row in apart if not case.trap(row)]
    assert not unnamed, f"{len(unnamed)} of {len(apart)}, such as {unnamed[:3]}"
    assert {case.trap(row) for row in apart} == set(case.traps)
    assert sum(not case.trap(row) for row in rows) > N / 25, "hardly a row outside of the traps"
