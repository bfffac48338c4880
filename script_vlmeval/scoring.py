"""Scores for short answers: pure functions of text, the same on every machine, no judge model.

Three kinds of question are told apart row by row (`kind_of`): multiple choice where options stand in the columns A, B, ...;
yes/no where the reference is yes or no; open otherwise. A verdict that cannot be read from a prediction is a wrong answer.
"""

from __future__ import annotations

import ast
import math
import re
import string
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .errors import UserError

Row = Mapping[str, str]
KINDS = ("open", "yesno", "mcq")
_FORMULAS = "Handwritten Mathematical Expression Recognition"  # the category of OCRBench that is read literally
MME_PERCEPTION = frozenset("OCR artwork celebrity color count existence landmark position posters scene".split())
MME_REASONING = frozenset("code_reasoning commonsense_reasoning numerical_calculation text_translation".split())
_ARTICLES = {"a", "an", "the"}
# "none" counts as a number because the VQA metric reads "how many?" - "none" as 0.
_NUMBERS = {w: str(i) for i, w in enumerate("zero one two three four five six seven eight nine ten".split())} | {"none": "0"}


@dataclass(frozen=True)
class Verdicts:
    """What was read from each prediction, what it is worth (0..1), and the means in percent."""

    read: list[str]
    per_sample: list[float]
    metrics: dict[str, float]


def kind_of(row: Row) -> str:
    """'mcq', 'yesno' or 'open', from a row's own cells."""
    if options(row):
        return "mcq"
    return "yesno" if row.get("answer", "").strip().lower() in ("yes", "no") else "open"


def options(row: Row) -> dict[str, str]:
    """The non-empty options of a row by letter."""
    return {letter: row[letter].strip() for letter in string.ascii_uppercase if row.get(letter, "").strip()}


def image_of(row: Row) -> str:
    """What tells a row's picture from another's: rows of one picture are not independent."""
    return row.get("image_path") or row.get("image") or row.get("index", "")


# open answers ------------------------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, number words as digits. Text with nothing else in it stays as it is."""
    plain = text.strip().lower()
    spaced = re.sub(r"(?<=\d),(?=\d{3})|['’]|\.(?!\d)", "", plain)
    spaced = re.sub(r"(?<=[^\s(])-|-(?!\d)|[^\w\s.-]|_", " ", spaced)
    words = [_NUMBERS.get(word, word) for word in spaced.split() if word not in _ARTICLES]
    return " ".join(words) or plain


def references(answer: str) -> list[str]:
    """The accepted answers of a cell: one, or those of a Python list written as text."""
    if answer.strip().startswith("["):
        try:
            found = ast.literal_eval(answer.strip())
        except (ValueError, SyntaxError):
            return [answer]
        if isinstance(found, list) and found:
            return [str(item) for item in found]
    return [answer]


def open_score(prediction: str, answer: str) -> float:
    """1 for any accepted answer; with ten human answers VQA accuracy: mean over leave-one-out sets of min(matches / 3, 1)."""
    said, accepted = normalise(prediction), [normalise(reference) for reference in references(answer)]
    if len(accepted) != 10:
        return float(said in accepted)
    hits = accepted.count(said)
    return sum(min((hits - (reference == said)) / 3, 1.0) for reference in accepted) / 10


# yes or no ---------------------------------------------------------------------------------------------------------------


def yes_no(text: str) -> str:
    """'Yes' or 'No' when exactly one of the two words occurs, else '' (as the MME and POPE scorers of VLMEvalKit decide)."""
    words = set(re.findall(r"\w+", text.lower()))
    if ("yes" in words) == ("no" in words):
        return ""
    return "Yes" if "yes" in words else "No"


# multiple choice ---------------------------------------------------------------------------------------------------------

_BARE = re.compile(r"\W*([A-Za-z])\W*")
_LEADING = re.compile(r"\W*([A-Z])(?:[.):]|\W*\n)")
_STATED = re.compile(
    r"(?i:\b(?:answer|choice|option)\b(?:\s+(?:is|would be|should be))?)\W*\b([A-Z])\b(?!['’])(?P<rest>\s+[a-z]\w*)?"
)
_BRACKETED = re.compile(r"\(([A-Z])\)")
_VERBS = {"is", "because", "since", "as", "and", "in", "for", "of", "from"}


def option_letter(prediction: str, choices: Mapping[str, str]) -> str:
    """The option a prediction names, by letter or by its text; '' when it names none or more than one.

    An article is not option A: "A red square" is read as the text "red square".
    """
    bare = _BARE.fullmatch(prediction)
    if bare:
        letter = str(bare[1]).upper()
        return letter if letter in choices else ""
    by_text = [letter for letter, text in choices.items() if normalise(text) == normalise(prediction)]
    if len(by_text) == 1:
        return by_text[0]
    named = {m[1] for m in [_LEADING.match(prediction)] if m} | {*_stated(prediction), *_BRACKETED.findall(prediction)}
    letters = sorted(named & set(choices))
    if letters:
        return letters[0] if len(letters) == 1 else ""
    return _by_contained_text(prediction, choices)


def _stated(prediction: str) -> list[str]:
    """Letters after "answer", "option" or "choice"; an A before a noun is an article."""
    return [
        match[1]
        for match in _STATED.finditer(prediction)
        if match[1] != "A" or match["rest"] is None or match["rest"].strip() in _VERBS
    ]


def _by_contained_text(prediction: str, choices: Mapping[str, str]) -> str:
    """The one option whose text occurs in the prediction as whole words; a longer option outweighs those inside it."""
    said = f" {normalise(prediction)} "
    texts = {letter: normalise(text) for letter, text in choices.items()}
    lead = re.match(r"\W*(yes|no)\W*(?:[,.;:!]|$)", prediction.lower())
    found = {
        letter: text
        for letter, text in texts.items()
        # "(no answer)" is not the option "no": these two must stand alone in front.
        if ((lead is not None and lead[1] == text) if text in ("yes", "no") else f" {text} " in said)
    }
    outer = [x for x, text in found.items() if not any(text != other and f" {text} " in f" {other} " for other in found.values())]
    return outer[0] if len(outer) == 1 else ""


def gold_letter(row: Row) -> str:
    """The right option of a multiple-choice row: its answer is a letter or an option's text; '' when it is neither."""
    answer, choices = row.get("answer", "").strip(), options(row)
    if answer.upper() in choices:
        return answer.upper()
    same = [letter for letter, text in choices.items() if text == answer]
    return same[0] if len(same) == 1 else ""


# whole tables ------------------------------------------------------------------------------------------------------------


def verdict(row: Row) -> tuple[str, float]:
    """What a row's prediction says and its score in 0..1."""
    prediction, kind = row.get("prediction", ""), kind_of(row)
    if kind == "mcq":
        letter = option_letter(prediction, options(row))
        return letter, float(letter != "" and letter == gold_letter(row))
    if kind == "yesno":
        said = yes_no(prediction)
        return said, float(said.lower() == row["answer"].strip().lower())
    return normalise(prediction), open_score(prediction, row.get("answer", ""))


def exact_scores(rows: Sequence[Row]) -> Verdicts:
    """Accuracy in percent over rows with a `prediction`, of any mixture of kinds.

    Metrics: `Overall`, `stderr` (clustered by picture; absent where undefined), each category by its name, and
    `kind/<kind>` where kinds are mixed. UserError when there is no row.
    """
    if not rows:
        raise UserError("There is no answered row to score.")
    pairs = [verdict(row) for row in rows]
    scores = [score for _, score in pairs]
    metrics = {"Overall": 100 * _mean(scores)}
    error = standard_error(scores, [image_of(row) for row in rows])
    if not math.isnan(error):
        metrics["stderr"] = 100 * error
    kinds = grouped((kind_of(row) for row in rows), scores)
    if len(kinds) > 1:
        metrics |= {f"kind/{kind}": 100 * _mean(values) for kind, values in kinds.items()}
    for category, values in grouped((row.get("category", "") for row in rows), scores).items():
        if category:
            metrics.setdefault(category, 100 * _mean(values))
    return Verdicts([said for said, _ in pairs], scores, metrics)


def mme(rows: Sequence[Row]) -> Verdicts:
    """MME's score: per category accuracy + accuracy+ (both questions of a picture right), 0..200; `total` is their sum.

    `acc` and `acc+` are over all categories, in percent; MME's own categories also give `perception` and `reasoning`.
    UserError when a picture has other than two questions.
    """
    if not rows:
        raise UserError("There is no answered row to score.")
    said = [yes_no(row.get("prediction", "")) for row in rows]
    scores = [float(s.lower() == row["answer"].strip().lower()) for s, row in zip(said, rows, strict=True)]
    pairs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row, score in zip(rows, scores, strict=True):
        pairs[row.get("category", "")][image_of(row)].append(score)
    odd = [image for images in pairs.values() for image, values in images.items() if len(values) != 2]
    if odd:
        raise UserError(f"MME scoring needs two questions for each picture; {len(odd)} have another number, such as '{odd[0]}'.")
    both = {c: [a * b for a, b in images.values()] for c, images in pairs.items()}
    single = {c: [v for values in images.values() for v in values] for c, images in pairs.items()}
    by_category = {c: 100 * (_mean(single[c]) + _mean(both[c])) for c in sorted(pairs)}
    metrics = {"total": sum(by_category.values()), "stderr": mme_error(rows, scores), "acc": 100 * _mean(scores)}
    if math.isnan(metrics["stderr"]):
        del metrics["stderr"]
    metrics["acc+"] = 100 * _mean([v for values in both.values() for v in values])
    for name, members in (("perception", MME_PERCEPTION), ("reasoning", MME_REASONING)):
        if members & by_category.keys():
            metrics[name] = sum(v for c, v in by_category.items() if c in members)
    return Verdicts(said, scores, metrics | {c or "uncategorised": v for c, v in by_category.items()})


def ocrbench(rows: Sequence[Row]) -> Verdicts:
    """OCRBench's rule: right where any accepted answer occurs in the prediction, without regard to case; formulas are compared
    without spaces and with regard to case. In percent of the rows, over all (points of 1,000 divided by ten) and per category."""
    if not rows:
        raise UserError("There is no answered row to score.")
    scores = []
    for row in rows:
        formula = row.get("category", "") == _FORMULAS
        said, *accepted = (_ocr_text(text, formula) for text in (row.get("prediction", ""), *references(row["answer"])))
        scores.append(float(any(answer in said for answer in accepted)))
    metrics = {"Overall": 100 * _mean(scores)}
    for category, values in grouped([row.get("category", "") for row in rows], scores).items():
        if category:
            metrics.setdefault(category, 100 * _mean(values))
    return Verdicts([row.get("prediction", "") for row in rows], scores, metrics)


def _ocr_text(text: str, formula: bool) -> str:
    plain = text.strip().replace("\n", " ")
    return plain.replace(" ", "") if formula else plain.lower()


def mme_error(rows: Sequence[Row], scores: Sequence[float]) -> float:
    """Standard error of MME's total, pictures being independent: a picture is worth 100 (mean of its two + product) in its
    category, and the total is the sum of the categories' means. NaN where a category has one picture."""
    worth: dict[str, list[float]] = defaultdict(list)
    pairs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row, score in zip(rows, scores, strict=True):
        pairs[row.get("category", ""), image_of(row)].append(score)
    for (category, _), values in pairs.items():
        worth[category].append(100 * (_mean(values) + math.prod(values)))
    return math.sqrt(sum(standard_error(values) ** 2 for values in worth.values()))


def grouped(keys: Iterable[str], values: Sequence[float]) -> dict[str, list[float]]:
    """Values by key, keys sorted."""
    groups: dict[str, list[float]] = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        groups[key].append(value)
    return dict(sorted(groups.items()))


def standard_error(values: Sequence[float], clusters: Sequence[str] | None = None) -> float:
    """Standard error of a mean; with `clusters`, rows of one cluster may depend on each other. NaN below two clusters."""
    mean = _mean(values)
    sums: dict[str, float] = defaultdict(float)
    for i, value in enumerate(values):
        sums[clusters[i] if clusters is not None else str(i)] += value - mean
    n = len(sums)
    if n < 2:
        return math.nan
    return math.sqrt(n / (n - 1) * sum(s * s for s in sums.values())) / len(values)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
