"""What is asked of a model in either style, benchmark by benchmark, and what of it is the question."""

from __future__ import annotations

import re

import pytest

from script_vlmeval import prompts
from script_vlmeval.errors import UserError

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
SELECT = "Please select the correct answer from the options above."

SHEEP = {"question": "Which ratio?", "hint": "Two sheep.\nOne is woolly.", "A": "0:4", "B": "1:3", "C": "", "D": "", "E": ""}
CHART = {"question": "What follows?", "hint": "Read the chart.", "A": "rain", "B": "snow", "C": "nan", "D": "wind"}
CAPITALS = {"question": "What is the capital of Wyoming?", "hint": "", "A": "Phoenix", "B": "Cheyenne"}
CHINESE = {"question": "图中是什么？", "hint": "看图。", "A": "猫", "B": "狗"}

# VLMEvalKit's name, a row, the text of style llava, its question; the text that VLMEvalKit makes of the row, its question.
MMBENCH = f"Read the chart.\nWhat follows?\nA. rain\nB. snow\n{LETTER}"
CASES = [
    ("GQA_TestDev_Balanced", {"question": "Is it red?"}, f"Is it red?\n{SHORT}", f"Is it red?\n{SHORT}"),
    ("VQAv2_VAL", {"question": "Is it red?"}, f"Is it red?\n{SHORT}", f"Is it red?\n{SHORT}"),
    ("VQAv2_TESTDEV", {"question": "Is it red?"}, f"Is it red?\n{SHORT}", f"Is it red?\n{SHORT}"),
    (
        "POPE",
        {"question": "Is there a cup in the image?"},
        f"Is there a cup in the image?\n{SHORT}",
        "Is there a cup in the image?",
    ),
    ("VizWiz", {"question": "What is this?"}, f"What is this?\n{UNANSWERABLE}\n{SHORT}", "What is this?"),
    ("TextVQA_VAL", {"question": "What brand?"}, f"What brand?\n{SHORT}", f"What brand?\n{SHORT}"),
    (
        "MME",
        {"question": "Is this a cat? Please answer yes or no."},
        f"Is this a cat?\n{SHORT}",
        "Is this a cat? Please answer yes or no.",
    ),
    (
        "ScienceQA_TEST",
        SHEEP,
        f"Context: Two sheep.\nOne is woolly.\nWhich ratio?\nA. 0:4\nB. 1:3\n{LETTER}",
        f"Hint: Two sheep.\nOne is woolly.\nQuestion: Which ratio?\nOptions:\nA. 0:4\nB. 1:3\n{SELECT} \n",
    ),
    (
        "ScienceQA_VAL",
        CAPITALS,
        f"What is the capital of Wyoming?\nA. Phoenix\nB. Cheyenne\n{LETTER}",
        f"Question: What is the capital of Wyoming?\nOptions:\nA. Phoenix\nB. Cheyenne\n{SELECT} \n",
    ),
    *(
        (
            name,
            CHART,
            MMBENCH,
            f"Hint: Read the chart.\nQuestion: What follows?\nOptions:\nA. rain\nB. snow\nD. wind\n{SELECT} \n",
        )
        for name in ("MMBench_DEV_EN", "MMBench_DEV_EN_V11", "MMBench_TEST_EN", "MMBench_TEST_EN_V11", "MMBench", "MMBench_V11")
    ),
    *(
        (
            name,
            CHINESE,
            "看图。\n图中是什么？\nA. 猫\nB. 狗\n请直接回答选项字母。",
            f"Hint: 看图。\nQuestion: 图中是什么？\nOptions:\nA. 猫\nB. 狗\n{SELECT} \n",
        )
        for name in ("MMBench_DEV_CN", "MMBench_DEV_CN_V11", "MMBench_TEST_CN", "MMBench_CN", "MMBench_CN_V11")
    ),
    ("MMVet", {"question": "What is x in the equation?"}, "What is x in the equation?", "What is x in the equation?"),
]
NAMES = [case[0] for case in CASES]
REQUESTS = (SHORT, LETTER, UNANSWERABLE, SELECT, "Please answer yes or no.", "请直接回答选项字母。")


@pytest.mark.parametrize(("name", "row", "llava", "host"), CASES, ids=NAMES)
def test_each_benchmark_is_asked_as_llava_asks_it(name, row, llava, host):
    assert prompts.text(name, row) == llava
    assert prompts.default_style(name) == "llava"


@pytest.mark.parametrize(("name", "row", "llava", "host"), CASES, ids=NAMES)
def test_the_question_is_the_message_without_its_last_requests_in_both_styles(name, row, llava, host):
    for said in (llava, host):
        question = prompts.question_of(said)
        lines = said.split("\n")
        while any(lines[-1].strip() == request for request in ("", *REQUESTS)):
            lines.pop()
        assert question == "\n".join(lines).removesuffix(" Please answer yes or no.")
        assert not any(request in question for request in REQUESTS)
        assert prompts.question_of(question) == question


@pytest.mark.parametrize(
    "name",
    (
        "MMBench_DEV_KO MMBench_dev_en MMBench-Video CCBench MMVet_Hard MME-RealWorld DocVQA_VAL OCRVQA_TEST ShapesVQA ShapesYN "
        "MVBench_8frame Video-MME_8frame GQA data/POPE.tsv pope"
    ).split(),
)
def test_other_benchmarks_keep_the_hosts_message(name):
    message = [{"type": "text", "value": "first"}, {"type": "image", "value": "a.png"}, {"type": "text", "value": "second"}]
    assert prompts.default_style(name) == "vlmevalkit"
    assert prompts.text(name, {"question": "Why?"}) is None
    assert prompts.restyled(name, message, {"question": "Why?"}, "llava") == message
    assert prompts.max_new_tokens(name, "llava") is None
    assert not prompts.reads_ocr(name)


# details of single benchmarks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("Is it? Please answer yes or no.", "Is it?"),
        ("Is it?  Please answer yes or no. ", "Is it?"),
        ("Is it?\nplease answer yes or no", "Is it?"),
        ("Is it?", "Is it?"),
        ('Does the sign say "Please answer yes or no."?', 'Does the sign say "Please answer yes or no."?'),
    ],
)
def test_mme_trades_its_last_sentence_for_the_short_one(question, asked):
    assert prompts.text("MME", {"question": question}) == f"{asked}\n{SHORT}"


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ('["DAKOTA", "DIGITAL"]', "Reference OCR token: DAKOTA, DIGITAL\n"),
        ("['KING\\'S', 'ÿ', 10]", "Reference OCR token: KING'S, ÿ, 10\n"),
        ("('A', 'B')", "Reference OCR token: A, B\n"),
        (" A, B ", "Reference OCR token: A, B\n"),
        ("[yellow, tail], Honey", "Reference OCR token: [yellow, tail], Honey\n"),
        ("22", "Reference OCR token: 22\n"),
        ("[]", "Reference OCR token: \n"),
        ("", ""),
        ("  ", ""),
    ],
)
def test_ocr_tokens_stand_between_question_and_request(cell, line):
    row = {"question": "what does the SIGN say?", "ocr_tokens": cell}
    said = prompts.text("TextVQA_VAL", row)
    assert said == f"What does the sign say?\n{line}{SHORT}"
    assert prompts.question_of(said) == f"What does the sign say?\n{line}".strip()
    assert prompts.text("GQA_TestDev_Balanced", row) == f"what does the SIGN say?\n{SHORT}"


def test_only_textvqa_reads_ocr_tokens():
    assert [name for name in NAMES if prompts.reads_ocr(name)] == ["TextVQA_VAL"]


def test_vizwiz_is_written_with_one_capital():
    said = prompts.text("VizWiz", {"question": "OK. There is another picture I took. "})
    assert said == f"Ok. there is another picture i took. \n{UNANSWERABLE}\n{SHORT}"


@pytest.mark.parametrize("missing", ["", " ", "nan", "NaN", "None", "none", "N/A"])
def test_mmbench_lists_options_up_to_the_first_that_is_missing(missing):
    row = {"question": "Q?", "hint": missing, "A": "x", "B": missing, "C": "z", "D": "w"}
    assert prompts.text("MMBench_DEV_EN", row) == f"Q?\nA. x\n{LETTER}"
    del row["hint"], row["B"]
    assert prompts.text("MMBench_DEV_EN", row) == f"Q?\nA. x\n{LETTER}"


def test_mmbench_has_four_options_and_sodium_is_one():
    row = {"question": "Q?", "A": "x", "B": "Na", "C": "no", "D": "none of these", "E": "more"}
    assert prompts.text("MMBench_DEV_EN", row) == f"Q?\nA. x\nB. Na\nC. no\nD. none of these\n{LETTER}"


def test_scienceqa_keeps_every_option_it_has():
    row = {"question": "Q?", "A": "x", "B": "none", "C": "y", "D": "z", "E": "w"}
    assert prompts.text("ScienceQA_TEST", row) == f"Q?\nA. x\nB. none\nC. y\nD. z\nE. w\n{LETTER}"


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_a_question_is_refused(name):
    with pytest.raises(UserError, match="column 'question'"):
        prompts.text(name, {"index": "1"})


# styles -----------------------------------------------------------------------------------------------------------------


def test_a_restyled_message_keeps_its_pictures_in_order_and_has_one_text():
    message = [
        {"type": "text", "value": "Look at"},
        {"type": "image", "value": "b.png"},
        {"type": "text", "value": "and"},
        {"type": "image", "value": "a.png"},
    ]
    before = [dict(part) for part in message]
    said = prompts.restyled("POPE", message, {"question": "Is it red?"}, "llava")
    assert said == [message[1], message[3], {"type": "text", "value": f"Is it red?\n{SHORT}"}]
    said[0]["value"] = "changed"
    assert message == before
    assert prompts.restyled("POPE", message, {"question": "Is it red?"}, "vlmevalkit") == message


@pytest.mark.parametrize("name", NAMES)
def test_the_style_bounds_the_answer(name):
    long = name.startswith(("MMBench", "ScienceQA", "MMVet"))
    assert prompts.max_new_tokens(name, "llava") == (1024 if long else 128)
    assert prompts.max_new_tokens(name, "vlmevalkit") is None


def test_an_unknown_style_is_refused_with_the_nearest():
    for call in (lambda: prompts.restyled("X", [], {}, "lava"), lambda: prompts.max_new_tokens("X", "lava")):
        with pytest.raises(UserError, match=r"'lava'.*Did you mean 'llava'"):
            call()


# the question alone -----------------------------------------------------------------------------------------------------

CAUSES = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of objects, "
    "and the action and pose of persons. "
)
DETAIL = "Carefully watch this video and pay attention to every detail. "
SELECT_BEST = "Based on your observations, select the best option that accurately addresses the question."
FRAMES = "\nThese are the frames of a video. "
BEST = "Select the best answer to the following multiple-choice question based on the video. "
ONLY_LETTER = "Respond with only the letter (A, B, C, or D) of the correct option.\n"
REAL_WORLD = (
    "Select the best answer to the above multiple-choice question based on the image. "
    "Respond with only the letter (A, B, C, D, or E) of the correct option. \nThe best answer is:"
)
REAL_WORLD_CN = "根据图像选择上述多项选择题的最佳答案。只需回答正确选项的字母（A, B, C, D 或 E）。\n最佳答案为："
BRACKETS = "Question: Q?\nOptions:\n(A) x\n(B) y"
LINES = "Q?\nA. x\nB. y"


@pytest.mark.parametrize(
    ("text", "question"),
    [
        # video sets; the texts of a message stand on lines of their own
        (f"{CAUSES}{SELECT_BEST}\n\n{BRACKETS}\n\nOnly give the best option.\nBest option:(", BRACKETS),
        (f"{DETAIL}{SELECT_BEST}\n{BRACKETS}\n\nOnly give the best option.", BRACKETS),
        (f"{DETAIL}Based on your observations, answer the given questions.\nWhat happens?", "What happens?"),
        (f"{FRAMES}{BEST}{ONLY_LETTER}\nQuestion: {LINES}\nAnswer: ", f"Question: {LINES}"),
        (
            f"{FRAMES}This video's subtitles are listed below:\nhello\n{BEST}{ONLY_LETTER}\nQuestion: {LINES}\nAnswer: ",
            f"This video's subtitles are listed below:\nhello\nQuestion: {LINES}",
        ),
        (f"{LINES}\n{LETTER}", LINES),
        (f"{LINES}\n{LETTER[:-1]} and only give the best option.", LINES),
        # other image sets of the host, and its models
        (f"{LINES}\nAnswer directly with the option letter from the given choices. ", LINES),
        (f"{LINES}\nPlease select the correct answer from the options. ", LINES),
        (f"{LINES}\n{SELECT[:-1]} \n", LINES),
        (f"{LINES}\n{REAL_WORLD}", LINES),
        (f"{LINES}\n{REAL_WORLD_CN}", LINES),
        ("Why?\nAnswer the question directly.", "Why?"),
    ],
)
def test_what_frames_a_question_goes_and_its_options_stay(text, question):
    assert prompts.question_of(text) == question
    assert prompts.question_of(question) == question


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (f"Is it red? {SHORT} Look well.", "Is it red? Look well."),
        (f"Is it red?\n{SHORT}\nLook well.", "Is it red?\nLook well."),
        (f"Is it red? {UNANSWERABLE} {SHORT} Look well.", "Is it red? Look well."),
        (f"{SHORT}\nIs it red?", "Is it red?"),
        (f"Is it red?\nplease {SHORT.lower()}", "Is it red?"),
        ("Is it red?Please answer yes or no.", "Is it red?"),
        ("Is it red?请直接回答选项字母。看图", "Is it red? 看图"),
        ("图中是什么？请直接回答问题。", "图中是什么？"),
        ("Answer:\nAnswer:", ""),
        ("Please answer Please answer yes or no. yes or no.", ""),
        (f"{SHORT}\n\n{LETTER}", ""),
        ("", ""),
    ],
)
def test_requests_go_wherever_they_stand_and_leave_no_double_blank(text, question):
    assert prompts.question_of(text) == question
    assert prompts.question_of(question) == question


@pytest.mark.parametrize(
    "text",
    [
        "Answer the question: is it red?",
        "Which of them can only give the best option.",
        "What is the best option: the red one or the blue one?",
        "Answer: what does the sign say?",
        "Should I select the correct answer from the options above?",
        "Two  blanks,\n\nan empty line\tand a tab",
        "Hint: Select the best answer.\nQuestion: Which?\nOptions:\nA. x\nB. y",
        "Reference OCR token: Answer, the, question",
    ],
)
def test_other_text_stays_as_it_is(text):
    assert prompts.question_of(text) == text
    assert prompts.question_of(f" \n{text}\n ") == text


def test_every_sentence_of_the_styles_is_no_question():
    for sentence in (prompts.SHORT, prompts.LETTER, prompts.LETTER_CN, prompts.UNANSWERABLE, SELECT):
        assert prompts.question_of(sentence) == ""
        assert prompts.question_of(f"Why?\n{sentence}") == "Why?"


def test_long_runs_of_blanks_are_read_once():
    text = re.sub("x", " \n" * 20_000, f"axbxcx{SHORT}xd")
    assert prompts.question_of(text) == text.split(SHORT)[0].rstrip() + "\nd"
