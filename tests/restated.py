"""The rules of scoring once more, from their definitions: letter by letter, with tables of their own and none of `scoring`.

Row functions give a score or a reading; `..._table` give metrics of whole tables. `answers` and the other generators draw
predictions that are near a reference, in every way for a rule to trip over.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import combinations

# What is said without one of its apostrophes > what it stands for.
CONTRACTIONS = dict(
    pair.split(">")
    for pair in """
    aint>ain't arent>aren't cant>can't couldve>could've couldnt>couldn't couldn'tve>couldn't've couldnt've>couldn't've
    didnt>didn't doesnt>doesn't dont>don't hadnt>hadn't hadnt've>hadn't've hadn'tve>hadn't've hasnt>hasn't havent>haven't
    hed>he'd hed've>he'd've he'dve>he'd've hes>he's howd>how'd howll>how'll hows>how's isnt>isn't itd>it'd itd've>it'd've
    it'dve>it'd've itll>it'll maam>ma'am mightnt>mightn't mightnt've>mightn't've mightn'tve>mightn't've mightve>might've
    mustnt>mustn't mustve>must've neednt>needn't notve>not've oclock>o'clock oughtnt>oughtn't ow's'at>'ow's'at
    'ows'at>'ow's'at 'ow'sat>'ow's'at shant>shan't shed've>she'd've she'dve>she'd've shouldve>should've shouldnt>shouldn't
    shouldnt've>shouldn't've shouldn'tve>shouldn't've somebody'd>somebodyd somebodyd've>somebody'd've
    somebody'dve>somebody'd've somebodyll>somebody'll somebodys>somebody's someoned>someone'd someoned've>someone'd've
    someone'dve>someone'd've someonell>someone'll someones>someone's somethingd>something'd somethingd've>something'd've
    something'dve>something'd've somethingll>something'll thats>that's thered>there'd thered've>there'd've
    there'dve>there'd've therere>there're theres>there's theyd>they'd theyd've>they'd've they'dve>they'd've theyll>they'll
    theyre>they're theyve>they've twas>'twas wasnt>wasn't wed've>we'd've we'dve>we'd've weve>we've werent>weren't
    whatll>what'll whatre>what're whats>what's whatve>what've whens>when's whered>where'd wheres>where's whereve>where've
    whod>who'd whod've>who'd've who'dve>who'd've wholl>who'll whos>who's whove>who've whyll>why'll whyre>why're whys>why's
    wont>won't wouldve>would've wouldnt>wouldn't wouldnt've>wouldn't've wouldn'tve>wouldn't've yall>y'all yall'll>y'all'll
    y'allll>y'all'll yall'd've>y'all'd've y'alld've>y'all'd've y'all'dve>y'all'd've youd>you'd youd've>you'd've
    you'dve>you'd've youll>you'll youre>you're youve>you've
    """.split()
)
NUMBERS = dict(
    none="0", zero="0", one="1", two="2", three="3", four="4", five="5", six="6", seven="7", eight="8", nine="9", ten="10"
)


# ten references ----------------------------------------------------------------------------------------------------------


@cache
def processed(text: str, table: str = "VQA") -> str:
    """The official answer processing: marks, periods, then words."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    at = range(len(text))
    thousands = any(text[i] == "," and text[i - 1].isdecimal() and text[i + 1 : i + 2].isdecimal() for i in at if i)
    beside = {mark for i, mark in enumerate(text) if " " in text[max(i - 1, 0) : i] + text[i + 1 : i + 2]}
    letters = ["" if c in beside or thousands else " " for c in text]
    out = "".join(new if c in ';/[]"{}()=+\\_-><@`,?!' else c for c, new in zip(text, letters, strict=True))
    kept, periods = "", 0
    for i, c in enumerate(out):
        if c == "." and not out[i + 1 : i + 2].isdecimal() and periods < 32:
            periods += 1
        else:
            kept += c
    words = []
    for word in kept.lower().split():
        digit = NUMBERS.get(word, word)
        if digit != "a" and digit != "an" and digit != "the":
            words.append((VIZWIZ_CONTRACTIONS if table == "VizWiz" else CONTRACTIONS).get(digit, digit))
    return " ".join(words)


def agreement(said: str, accepted: list[str]) -> float:
    """Over every choice of nine of the ten: a third per annotator who said the same, at most one."""
    thirds = [min(nine.count(said), 3) for nine in combinations(accepted, 9)]
    return sum(thirds) / 3 / len(thirds)


def vqa(prediction: str, accepted: list[str]) -> float:
    if not prediction.strip():
        return 0.0
    flat = [" ".join(x.replace("\t", "\n").split("\n")).strip() for x in accepted]
    if all(x == flat[0] for x in flat):
        as_said = prediction.strip().replace("\n", " ").replace("\t", " ").strip()
        return float(flat[0] in (as_said, processed(prediction.strip())))
    return agreement(processed(prediction.strip()), [processed(x) for x in flat])


# VizWiz's own table has the typographic apostrophe, but for these.
PLAIN_SAID = ["couldn'tve", "hadn'tve"]
PLAIN_MEANT = ["ain't", "aren't", "can't", "could've", "couldn't", "we've", "where's", "who've"]
VIZWIZ_CONTRACTIONS = {
    said if said in PLAIN_SAID else "’".join(said.split("'")): word if word in PLAIN_MEANT else "’".join(word.split("'"))
    for said, word in CONTRACTIONS.items()
}


def vizwiz(prediction: str, accepted: list[str]) -> float:
    if not prediction.strip():
        return 0.0
    return agreement(processed(prediction.strip(), "VizWiz"), accepted)


@cache
def textvqa_processed(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in ",?")
    return processed(" 's".join(text.split("'s")).strip())


def textvqa(prediction: str, accepted: list[str]) -> float:
    if not prediction.strip():
        return 0.0
    return agreement(textvqa_processed(prediction.strip()), [textvqa_processed(x) for x in accepted])


# one reference -----------------------------------------------------------------------------------------------------------


def gqa(prediction: str, answer: str) -> float:
    said = prediction.strip()
    while said[-1:] == ".":
        said = said[:-1]
    return float(bool(said) and said.lower() == answer.strip().lower())


def plain_words(text: str) -> str:
    """Our own normalisation of open answers."""
    low = text.strip().lower()
    first = ""
    for i, c in enumerate(low):
        after = low[i + 1 :]
        inside = c == "," and low[max(i - 1, 0) : i].isdecimal() and len(after) > 2 and after[:3].isdecimal()
        if not (inside or c in "'’" or (c == "." and not after[:1].isdecimal())):
            first += c
    second = ""
    for i, c in enumerate(first):
        before, after = first[max(i - 1, 0) : i], first[i + 1 : i + 2]
        minus = c == "-" and after.isdecimal() and (not before or before.isspace() or before == "(")
        second += c if minus or c == "." or c.isalnum() or c.isspace() else " "
    words = [NUMBERS.get(word, word) for word in second.split() if word not in ("a", "an", "the")]
    return " ".join(words) if words else low


def em(prediction: str, answer: str) -> tuple[float, float]:
    """(equal, contained as whole words)."""
    said, wanted = plain_words(prediction).split(" "), plain_words(answer).split(" ")
    within = any(said[i : i + len(wanted)] == wanted for i in range(len(said))) if wanted != [""] else False
    return float(said != [""] and said == wanted), float(within)


def anls(prediction: str, accepted: list[str]) -> float:
    """Longest first: the full matrix of distances, and the threshold of one half."""
    if not prediction.strip():
        return 0.0
    best = 0.0
    for reference in accepted:
        a, b = " ".join(prediction.lower().split()), " ".join(reference.lower().split())
        cost = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
        for i in range(1, len(a) + 1):
            for j in range(1, len(b) + 1):
                changed = cost[i - 1, j - 1] + (0 if a[i - 1] == b[j - 1] else 1)
                cost[i, j] = min(cost[i - 1, j] + 1, cost[i, j - 1] + 1, changed)
        share = cost[len(a), len(b)] / max(len(prediction.upper()), len(reference.upper()))
        best = max(best, 1 - share)
    return best if best >= 0.5 else 0.0


def ocr(prediction: str, accepted: list[str], formula: bool) -> float:
    def shaped(text: str) -> str:
        text = " ".join(text.strip().split("\n"))
        return "".join(text.split(" ")) if formula else text.lower()

    return float(bool(prediction.strip()) and any(shaped(prediction).find(shaped(x)) >= 0 for x in accepted))


# yes or no ---------------------------------------------------------------------------------------------------------------


def pope(prediction: str) -> str:
    said = prediction.strip()
    if not said:
        return ""
    sentence = said[: said.index(".")] if "." in said else said
    words = "".join(c for c in sentence if c != ",").split(" ")
    return "No" if any(word in words for word in ("No", "not", "no")) else "Yes"


def mme(prediction: str) -> str:
    low = prediction.strip().lower()
    if low in ("yes", "no"):
        return low.title()
    return next((word.title() for word in ("yes", "no") if low[:4].find(word) != -1), "")


def f1_table(said: list[str], gold: list[str]) -> dict[str, float]:
    """Percent, from the lists themselves."""
    right = sum(s == g for s, g in zip(said, gold, strict=True))
    hits = sum(s == g == "Yes" for s, g in zip(said, gold, strict=True))
    precision = hits / said.count("Yes") if "Yes" in said else 0.0
    recall = hits / gold.count("Yes") if "Yes" in gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    parts = dict(F1=f1, accuracy=right / len(said), precision=precision, recall=recall)
    return {name: 100 * value for name, value in {**parts, "yes ratio": said.count("Yes") / len(said)}.items()}


# multiple choice ---------------------------------------------------------------------------------------------------------


def scienceqa(prediction: str, letters: str) -> str:
    said = prediction.strip()
    if said in tuple("ABCDE"):
        return said if said in letters else ""
    if len(said) >= 3 and said[0] in "ABCDE" and said[1] == "." and said[2] == " ":
        return said[0] if said[0] in letters else ""
    after = [part[:2] for part in said.split("The answer is ")[1:]]
    stated = [part[0] for part in after if len(part) == 2 and "A" <= part[0] <= "Z" and part[1] != "\n"]
    return stated[0] if len(stated) == 1 and stated[0] in letters else ""


def letter(prediction: str, choices: dict[str, str]) -> str:
    """A letter alone; else one option's text or a letter with its text; else the letters named; else a text or letter within."""
    text = prediction.strip()
    bare = [c for c in text if c.isalnum() or c == "_"]
    if len(bare) == 1 and bare[0].isascii() and bare[0].isalpha():
        return single(bare[0], choices)
    for same in whole(text, choices):
        if len(same) == 1:
            return same[0]
    named = {x for x in in_words(text, choices) if x in choices}
    if named:
        return named.pop() if len(named) == 1 else ""
    return alone(text, choices) or within(text, choices)


def single(said: str, choices: dict[str, str]) -> str:
    if said in "abcdefghijklmnopqrstuvwxyz" and said in choices.values():
        return min(x for x in choices if choices[x] == said)
    if said.upper() in choices:
        return said.upper()
    return min((x for x in choices if choices[x] in (said.lower(), said.upper())), default="")


def whole(text: str, choices: dict[str, str]) -> list[list[str]]:
    spelled = [x for x in choices if choices[x].lower() == text.lower()]
    words = tokens(text)
    marked, named = False, []
    if len(words) > 1 and len(words[0][0]) == 1 and words[0][0].upper() in choices:
        x, at = words[0][0].upper(), words[1][1]
        marked = not text[words[0][1] + 1 : at].isspace()
        last, where = words[-1]
        rest = text[at : where + len(last)] + "".join(c for c in text[where + len(last) :] if not c.isascii())
        named = [x] if plain_words(rest) == plain_words(choices[x]) else []
    long = [x for x in choices if not one_letter(choices[x])]
    return [spelled, named, [] if marked else [x for x in long if plain_words(choices[x]) == plain_words(text)]]


def one_letter(text: str) -> bool:
    return plain_words(text) in tuple("abcdefghijklmnopqrstuvwxyz")


def in_words(text: str, choices: dict[str, str]) -> list[str]:
    first, rest = leading(text)
    if first not in choices:
        return [*bracketed(text), *stated(text), *either(text, choices)]
    rest = rest.lstrip()
    if rest[: len(choices[first])].lower() == choices[first].lower():
        rest = rest[len(choices[first]) :]
    return [first, *stated(text), *next_in_list(rest)]


def next_in_list(rest: str) -> list[str]:
    """The letter that a text begins with, perhaps behind "or" or "and", when a mark, the end or another "or" follows."""
    words = tokens(rest)
    words = words[1:] if words and words[0][0] in ("or", "and") else words
    if not words or len(words[0][0]) != 1 or not "A" <= words[0][0] <= "Z":
        return []
    behind = rest[words[0][1] + 1 :]
    another = behind[:1].isspace() and len(words) > 1 and words[1][0] in ("or", "and") and behind.lstrip().startswith(words[1][0])
    return [words[0][0]] if len(words) == 1 or another or behind.lstrip()[:1] in tuple(".):,;") else []


def leading(text: str) -> tuple[str, str]:
    """The letter in front with a mark or a line's end behind it, and what follows; two empty texts for none."""
    start = next((i for i, c in enumerate(text) if c.isalnum() or c == "_"), len(text))
    rest = text[start + 1 :]
    run = next((i for i, c in enumerate(rest) if c.isalnum() or c == "_"), len(rest))
    if not "A" <= text[start : start + 1] <= "Z":
        return "", ""
    if rest.lstrip()[:1] in tuple(".):"):
        return text[start], rest.lstrip()[1:]
    return (text[start], rest[rest.rindex("\n", 0, run) + 1 :]) if "\n" in rest[:run] else ("", "")


def stands(text: str, i: int) -> bool:
    """Whether the capital at i touches no plain letter, digit, apostrophe or hyphen, is no part of "A.M.", and is not denied."""
    before, after = text[:i], text[i + 1 :]

    def plain(c: str) -> bool:
        return c.isascii() and (c.isalnum() or c == "_")

    if plain(before[-1:]) or plain(after[:1]) or before[-1:] in tuple(".'’-") or after[:1] in tuple("'’-"):
        return False
    denied = before.endswith(("n't ", "n’t ")) or (before.endswith(("not ", "Not ")) and not plain(before[:-4][-1:]))
    return not denied and not (after[:1] == "." and plain(after[1:2]))


def alone(text: str, choices: dict[str, str]) -> str:
    """The only capital that stands by itself outside of options' texts."""
    text = " ".join(text.split())
    for option in choices.values():
        if len(option) > 1 and any("A" <= c <= "Z" and stands(option, i) for i, c in enumerate(option)):
            while option.lower() in text.lower():
                i = text.lower().index(option.lower())
                text = text[:i] + " _ " + text[i + len(option) :]
    capitals = [(c, i) for i, c in enumerate(text) if c in choices and stands(text, i)]
    found = [c for c, i in capitals if c not in ("A", "I") or no_article(text[i + 1 :])]
    return found[0] if found and set(found) == {found[0]} else ""


def no_article(rest: str) -> bool:
    words = tokens(rest)
    if not words or rest.lstrip()[:1] in tuple("-–—:;,.)!?]*") or not rest[0].isascii():
        return True
    return rest[:1].isspace() and rest.lstrip().startswith(words[0][0]) and words[0][0] in "is because since or nor and".split()


def bracketed(text: str) -> list[str]:
    return [text[i + 1] for i in range(len(text) - 2) if text[i] == "(" and text[i + 2] == ")" and "A" <= text[i + 1] <= "Z"]


def either(text: str, choices: dict[str, str]) -> set[str]:
    """Two options with nothing but "or" or "and" between them, blanks around it, a bracket at most on the letters."""
    words, found = tokens(text), set()
    for (x, i), (middle, j), (y, k) in zip(words, words[1:], words[2:], strict=False):
        before, after = text[i + 1 : j].removeprefix(")"), text[j + len(middle) : k].removesuffix("(")
        if x in choices and y in choices and middle in ("or", "and") and before.isspace() and after.isspace():
            found |= {x, y}
    return found


def stated(text: str) -> list[str]:
    """The letter behind "answer", "choice" or "option", perhaps with "is" between; an A before a noun is an article."""
    words = tokens(text)
    found = []
    for i, (word, _) in enumerate(words):
        if word.lower() in ("answer", "choice", "option"):
            rest = words[i + 1 :]
            for skip in ((), ("is",), ("would", "be"), ("should", "be")):
                ahead = rest[len(skip) :]
                if tuple(w.lower() for w, _ in rest[: len(skip)]) == skip and ahead and is_letter(ahead, text):
                    found.append(ahead[0][0])
                    break
    return found


def is_letter(ahead: list[tuple[str, int]], text: str) -> bool:
    word, at = ahead[0]
    if len(word) != 1 or not "A" <= word <= "Z" or text[at + 1 : at + 2] in ("'", "’"):
        return False
    follows = ahead[1] if len(ahead) > 1 else ("", 0)
    noun = follows[0][:1].isascii() and follows[0][:1].islower() and text[at + 1 : follows[1]].isspace()
    return word != "A" or not noun or follows[0] in ("is", "because", "since", "as", "and", "in", "for", "of", "from")


def tokens(text: str) -> list[tuple[str, int]]:
    """Words and where they begin."""
    found, i = [], 0
    while i < len(text):
        j = i
        while j < len(text) and (text[j].isalnum() or text[j] == "_"):
            j += 1
        if j > i:
            found.append((text[i:j], i))
        i = max(j, i + 1)
    return found


def within(text: str, choices: dict[str, str]) -> str:
    """The one option whose words occur in a row; one inside another's text gives way to it; yes and no must lead alone."""
    said = plain_words(text).split(" ")
    first = next(iter(tokens(text)), ("", 0))
    behind = text[first[1] + len(first[0]) :].lstrip("".join({c for c in text if not (c.isalnum() or c == "_")} - set(",.;:!")))
    lead = first[0].lower() if first[0].lower() in ("yes", "no") and (not behind or behind[0] in ",.;:!") else None

    def inside(part: list[str], whole: list[str]) -> bool:
        return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))

    found = {}
    for name, option in choices.items():
        words = plain_words(option).split()
        if one_letter(option):
            if option.islower() and small(option, text):
                found[name] = words
        elif (words[0] == lead) if words in (["yes"], ["no"]) else inside(words, said):
            found[name] = words
    outer = [x for x, words in found.items() if not any(words != other and inside(words, other) for other in found.values())]
    return outer[0] if len(outer) == 1 else ""


def small(option: str, text: str) -> bool:
    """A small letter as a word of its own; no "a" with only a blank between it and a word."""
    words = tokens(text)
    for n, (word, i) in enumerate(words):
        behind = text[i + 1 : words[n + 1][1]] if n + 1 < len(words) else ""
        joined = text[max(i - 1, 0) : i] in ("'", "’", "-") or text[i + 1 : i + 2] in ("'", "’", "-")
        if word == option and not joined and not (word == "a" and behind.isspace()):
            return True
    return False


# what models say ---------------------------------------------------------------------------------------------------------

WORDS = """red blue dark-red dog dogs cat's Joe's 007 7 1,000 1000 3.5 .5 two 2 ten none None NA N/A nan null left the a an
    unanswerable can't cant couldnt've oclock o'clock yes no Yes No not 方块 café naïve ½ 10% $5 #1 e.g. U.S. 3. somebody'd
    it's its what's whats stop-sign t-shirt ice_cream and/or (blue) "red" [1] {x} + = ` @ < > \\ ; ! ?""".split()


def phrase(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.choice((1, 1, 1, 2, 2, 3))))


def twisted(text: str, draw: random.Random) -> str:
    """A text as a model may give it back."""
    spelled = {digit: word for word, digit in NUMBERS.items()} | NUMBERS | CONTRACTIONS
    ways = [
        lambda t: t,
        lambda t: t,
        str.upper,
        str.title,
        lambda t: t + draw.choice((".", "!", "?", ",", " .", "\n", "...", "  ", "." * 40)),
        lambda t: draw.choice(("the ", "A ", "an ", "The answer is ", "It is ", " ", "\t", "(", '"')) + t,
        lambda t: t.replace(" ", draw.choice(("  ", ", ", "-", "\n", "/", ""))),
        lambda t: t.replace("'", draw.choice(("", "’"))),
        lambda t: " ".join(spelled.get(word, word) for word in t.split(" ")),
        lambda t: t + " " + draw.choice(WORDS),
        lambda t: t[:-1],
        lambda t: draw.choice(("", "  ", "None", "NA", "007", "Z", "I cannot tell.", "方", "é", "=1+1", t * 3)),
    ]
    return draw.choice(ways)(draw.choice(ways)(text))


def ten(draw: random.Random) -> list[str]:
    """Ten annotators: all alike, nearly, or not at all."""
    pool = [phrase(draw) for _ in range(draw.choice((1, 2, 3, 6)))]
    pool += [twisted(pool[0], draw) or "red"] * draw.choice((0, 0, 1))
    return [draw.choice(pool) for _ in range(10)]


YESNO = [
    *"yes|no|Yes|No|YES|NO|Yes.|No.|no!|yes, it is|No, there is not.|there is not|It is not. Yes|know|now|not sure|".split("|"),
    *"Yes, no|maybe|The answer is yes|The answer is no.|ye|n|.|. no|yes.no|y e s|nothing|none|NOT|non|Yes. No.|a,no b".split("|"),
    *" Yes|nope|否|はい".split("|"),
]


def yes_or_no(draw: random.Random) -> str:
    text, more = draw.choices(YESNO, k=2)
    return draw.choice((text, text, text, f"{text} {more}", text + draw.choice(".,!\n?")))


OPTIONS = [
    *"""red|dark red|a man|the dog|no|yes|2|two dogs|10 cm|None of the above|It turns left|A|b|3.5|方块|the left one|
    1,000|vitamin C|don't know|left|3.|A.M.|Joe's""".replace("\n    ", "").split("|")
]


def choice(choices: dict[str, str], draw: random.Random) -> str:
    """What may be said of some options, right or wrong or beside the point."""
    x, y = draw.choice([*choices, "F"]), draw.choice([*choices])
    text, other = choices.get(x, "a horse"), choices[y]
    said = draw.choice(
        f"{x}|{x}|({x})|{x}.|{x}) {text}|{x}. {text}|({x}) {text}|{text}|{text}.|{x.lower()}|The answer is {x}|The answer is {x}."
        f"|The answer is {x} {text}|Answer: {x}|Answer: ({x})|Option {x} is right|option {y} or {x}|{x}) or ({y})|({x}) ({y})"
        f"|{x} or {y}|A {text}|a {text}|The answer is A {other}.|The answer is {text}|It is {text} and {other}|{x}\n{text}"
        f"|{x}:{text}|)|.||(|a|the|None|NA|007|no answer|Yes, {text}|No.|{x}) {text}\n({y}) {other}|The answer is {x}'s|**{x}**"
        f"|The best choice should be {y}|The answer is {x}. The answer is {y}.|The answer is {x}\n|I think so|{x}{y}|_{x}_|Z"
        f"|Best option:({x})|{x} . {text}|My answer would be: {x}, since {other}|I think {x}|{x} - {text}"
        f"|{x} because of it|It's {x}.|{x} is right|It is not {x}|Not {x} but {y}|Neither {x} nor {y}|{x}-shaped|答案是{x}|{x}是"
        f"|{x}. {text}. The others ({y}) and (A) are wrong|I see {text}, so {y}|It is {x}, not {other}|The letter is {text}"
        f"|Failed to obtain answer via API.".split("|")
    )
    return draw.choice((said, said, said, said.lower(), f" {said} ", f"{said}!", said.replace(" ", "\n", 1)))


def some_options(draw: random.Random, n: int = 4) -> dict[str, str]:
    return dict(zip("ABCDE", draw.sample(OPTIONS, n), strict=False))
