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
    *(
        (name, {"question": "What is this?"}, f"What is this?\n{UNANSWERABLE}\n{SHORT}", "What is this?")
        for name in ("VizWiz", "VizWiz_TEST")
    ),
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
    *((name, {"question": "who sings?"}, f"who sings?\n{SHORT}", "who sings?") for name in ("TGIF-QA", "MSVD-QA", "MSRVTT-QA")),
    ("ActivityNet-QA", {"question": "who sings"}, f"Who sings?\n{SHORT}", "Who sings?"),
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
        "MVBench_8frame Video-MME_8frame MVBench Video-MME MLVU_MCQ MLVU_OpenEnded LongVideoBench OCRBench "
        "VizWiz_Other GQA data/POPE.tsv pope"
    ).split(),
)
def test_other_benchmarks_keep_the_hosts_message(name):
    message = [{"type": "text", "value": "first"}, {"type": "image", "value": "a.png"}, {"type": "text", "value": "second"}]
    assert prompts.default_style(name) == "vlmevalkit"
    assert prompts.text(name, {"question": "Why?"}) is None
    assert prompts.restyled(name, message, {"question": "Why?"}, "llava") == message
    assert prompts.max_new_tokens(name, "llava") == prompts.max_new_tokens(name, "vlmevalkit")
    assert prompts.max_new_tokens(name, "llava") == (1024 if name == "MLVU_OpenEnded" else None)  # a summary is not cut
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


@pytest.mark.parametrize(
    ("question", "asked"),
    [("is he alone", "Is he alone?"), ("  who is it? ", "Who is it?"), ("iPhone or not", "IPhone or not?"), ("42", "42?")],
)
def test_activitynet_gets_a_capital_and_a_question_mark(question, asked):
    assert prompts.text("ActivityNet-QA", {"question": question}) == f"{asked}\n{SHORT}"
    message = prompts.video_message("ActivityNet-QA", {"question": question, "video_path": "/a.mp4"}, "vlmevalkit")
    assert message[1:] == [{"type": "text", "value": asked}]


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
BARE = "Q?\n(A) x\n(B) y"
LINES = "Q?\nA. x\nB. y"


@pytest.mark.parametrize(
    ("text", "question"),
    [
        # video sets; the texts of a message stand on lines of their own, and headings go where it tells of a video
        (f"{CAUSES}{SELECT_BEST}\n\n{BRACKETS}\n\nOnly give the best option.\nBest option:(", BARE),
        (f"{DETAIL}{SELECT_BEST}\n{BRACKETS}\n\nOnly give the best option.", BARE),
        (f"{BRACKETS}\n\nOnly give the best option.", BRACKETS),
        (f"{DETAIL}Based on your observations, answer the given questions.\nWhat happens?", "What happens?"),
        (f"{FRAMES}{BEST}{ONLY_LETTER}\nQuestion: {LINES}\nAnswer: ", LINES),
        (
            f"{FRAMES}This video's subtitles are listed below:\nhello\n{BEST}{ONLY_LETTER}\nQuestion: {LINES}\nAnswer: ",
            f"This video's subtitles are listed below:\nhello\n{LINES}",
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


# videos -----------------------------------------------------------------------------------------------------------------

CLIP = {
    "index": "3",
    "video_path": "/data/clip.mp4",
    "question": "What is done?",
    "candidates": "['He\\'s sitting.', 'Nothing', 7]",
    "task_type": "Action Count",
    "data_type": "video",
    "bound": "False",
}
LETTERED = CLIP | {"candidates": "['A. Sit.', 'B. Stand.', 'C. 7']"}
OPTIONS = "(A) He's sitting.\n(B) Nothing\n(C) 7"
TASK = f"Question: What is done?\nOptions:\n{OPTIONS}"
GIVE = {"type": "text", "value": "\nOnly give the best option."}


def said(value: str, role: str = "") -> dict[str, str]:
    return {"type": "text", "value": value, **({"role": role} if role else {})}


SHOWN = {"type": "video", "value": "/data/clip.mp4", "sampler": "middle"}
HOSTED = {  # table -> the row, what stands before the video and behind it, the question
    "MVBench": (
        CLIP,
        [said(f"{CAUSES}{SELECT_BEST}\n", "system")],
        [said(TASK), GIVE, said("Best option:(", "assistant")],
        f"What is done?\n{OPTIONS}",
    ),
    "MLVU_MCQ": (CLIP, [said(f"{DETAIL}{SELECT_BEST}", "system")], [said(TASK), GIVE], f"What is done?\n{OPTIONS}"),
    "MLVU_OpenEnded": (
        CLIP,
        [said(f"{DETAIL}Based on your observations, answer the given questions.", "system")],
        [said("What is done?")],
        "What is done?",
    ),
    "Video-MME": (
        LETTERED,
        [],
        [
            said(f"{FRAMES}{BEST}{ONLY_LETTER}"),
            said("Question: What is done?\nA. Sit.\nB. Stand.\nC. 7\nAnswer: "),
        ],
        "What is done?\nA. Sit.\nB. Stand.\nC. 7",
    ),
    "LongVideoBench": (
        CLIP,
        [],
        [said(f"What is done?\nA. He's sitting.\nB. Nothing\nC. 7\n{LETTER}")],
        "What is done?\nA. He's sitting.\nB. Nothing\nC. 7",
    ),
}
OPEN = ("TGIF-QA", "MSVD-QA", "MSRVTT-QA", "ActivityNet-QA")


def words(message: list[dict[str, str]]) -> str:
    """What a model's prompt holds of it, without the answer's opening."""
    return "\n".join(part["value"] for part in message if part["type"] == "text" and part.get("role") != "assistant")


def test_nine_sets_are_known():
    assert (*("MVBench", "Video-MME", "MLVU_MCQ", "MLVU_OpenEnded", "LongVideoBench"), *OPEN) == prompts.VIDEOS


@pytest.mark.parametrize("table", HOSTED)
@pytest.mark.parametrize("style", prompts.STYLES)
def test_video_sets_of_the_host_are_asked_in_its_words(table, style):
    row, before, behind, question = HOSTED[table]
    message = prompts.video_message(table, row, style)
    assert message == [*before, SHOWN, *behind]
    assert prompts.restyled(table, message, row, style) == message
    assert prompts.question_of(words(message)) == question
    assert prompts.question_of(question) == question


@pytest.mark.parametrize("table", OPEN)
def test_open_video_sets_are_asked_for_a_word_or_phrase_in_style_llava(table):
    row = {"question": "What is done?", "video_path": "/data/clip.mp4"}
    host, llava = (prompts.video_message(table, row, style) for style in ("vlmevalkit", "llava"))
    assert host == [SHOWN, said("What is done?")]
    assert llava == [SHOWN, said(f"What is done?\n{SHORT}")]
    assert prompts.restyled(table, host, row, "llava") == prompts.restyled(table, llava, row, "llava") == llava
    assert prompts.question_of(words(host)) == prompts.question_of(words(llava)) == "What is done?"
    assert prompts.default_style(table) == "llava"
    assert prompts.max_new_tokens(table, "llava") == 128


@pytest.mark.parametrize("table", prompts.VIDEOS)
def test_a_message_says_how_its_video_is_read(table):
    (part,) = (p for p in prompts.video_message(table, CLIP, "llava", "16", "ends", "0.5") if p["type"] == "video")
    assert part == {"type": "video", "value": "/data/clip.mp4", "frames": "16", "sampler": "ends", "fps": "0.5"}


@pytest.mark.parametrize(
    ("cells", "more"),
    [
        ({"bound": "True", "start": "3.2", "end": " 7 "}, {"start": "3.2", "end": "7"}),
        ({"bound": "False", "start": "", "end": ""}, {}),
        ({"bound": "False", "start": "1.0", "end": "2.0"}, {}),
        ({"bound": "TRUE", "start": "0", "end": "2.0", "data_type": "frame"}, {"start": "0", "end": "2.0", "folder_fps": "3"}),
        ({"bound": "False", "data_type": "gif"}, {}),
    ],
)
def test_mvbench_cuts_out_a_span_where_it_has_one(cells, more):
    assert prompts.video_message("MVBench", CLIP | cells, "vlmevalkit")[1] == SHOWN | more
    assert prompts.video_message("MLVU_MCQ", CLIP | cells, "vlmevalkit")[1] == SHOWN


@pytest.mark.parametrize(
    "cell",
    ["", "[]", "['one']", "['A. x' 'B. y']", "x, y", "{'a', 'b'}", "['a', 'b'", "__import__('os').getcwd()", str(["x"] * 27)],
)
@pytest.mark.parametrize("table", ["MVBench", "Video-MME", "MLVU_MCQ", "LongVideoBench"])
def test_options_that_are_no_list_are_refused(table, cell):
    with pytest.raises(UserError, match=rf"{table}, row 3: .*'candidates'"):
        prompts.video_message(table, CLIP | {"candidates": cell}, "vlmevalkit")


@pytest.mark.parametrize(
    ("cell", "options"),
    [("[1, 2.5]", "(A) 1\n(B) 2.5"), ("('x', 'y')", "(A) x\n(B) y"), (' ["it\'s", "Ü"]\n', "(A) it's\n(B) Ü")],
)
def test_options_are_read_as_python_writes_them(cell, options):
    message = prompts.video_message("MLVU_MCQ", CLIP | {"candidates": cell, "question": "22"}, "vlmevalkit")
    assert message[2] == said(f"Question: 22\nOptions:\n{options}")


@pytest.mark.parametrize("style", prompts.STYLES)
@pytest.mark.parametrize(
    ("table", "column"),
    [
        *((table, column) for table in prompts.VIDEOS for column in ("question", "video_path")),
        *((table, "candidates") for table in HOSTED if table != "MLVU_OpenEnded"),
        *(("MVBench", column) for column in ("bound", "data_type", "start", "end")),
    ],
)
def test_a_row_that_lacks_a_column_is_refused(table, column, style):
    row = CLIP | {"bound": "True", "start": "1", "end": "2"}
    prompts.video_message(table, row, style)
    for poorer in ({k: v for k, v in row.items() if k != column}, row | {column: " "}):
        with pytest.raises(UserError, match=rf"{table}, row 3: the column '{column}'"):
            prompts.video_message(table, poorer, style)


@pytest.mark.parametrize(("column", "cell"), [("bound", "yes"), ("start", "0:03"), ("end", "nan"), ("end", "inf")])
def test_a_span_that_is_none_is_refused(column, cell):
    row = CLIP | {"bound": "True", "start": "1", "end": "2", column: cell}
    with pytest.raises(UserError, match=rf"row 3: '{column}' must be .* not '{cell}'"):
        prompts.video_message("MVBench", row, "vlmevalkit")


def test_unknown_video_sets_and_styles_are_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"'MVBench_8frame'.*Did you mean 'MVBench'"):
        prompts.video_message("MVBench_8frame", CLIP, "llava")
    with pytest.raises(UserError, match=r"'lava'.*Did you mean 'llava'"):
        prompts.video_message("MVBench", CLIP, "lava")


def test_the_words_are_those_of_vlmevalkit():
    """Its own classes build the messages, without their data: of a video that is not cut into frames."""
    pytest.importorskip("vlmeval", exc_type=ImportError)
    from script_vlmeval.plugin.host import host

    try:
        host()
    except UserError as error:
        pytest.skip(str(error))
    from vlmeval.dataset.longvideobench import LongVideoBench
    from vlmeval.dataset.mlvu import MLVU_MCQ, MLVU_OpenEnded
    from vlmeval.dataset.mvbench import MVBench
    from vlmeval.dataset.videomme import VideoMME

    classes = {"MVBench": MVBench, "MLVU_MCQ": MLVU_MCQ, "MLVU_OpenEnded": MLVU_OpenEnded}
    classes |= {"Video-MME": VideoMME, "LongVideoBench": LongVideoBench}
    assert classes.keys() == HOSTED.keys()
    for table, kind in classes.items():
        dataset = kind.__new__(kind)
        dataset.data_root, dataset.fps, dataset.nframe, dataset.use_subtitle = "/data", -1, 0, False
        dataset.save_video_frames = lambda *_: ([], [], {"fps": 1.0})
        dataset.load_into_video_and_process = lambda line: "/data/clip.mp4"
        row = HOSTED[table][0]
        line = row | {"bound": False, "prefix": "", "video": "clip" if table == "Video-MME" else "clip.mp4", "answer": "Nothing"}
        theirs = dataset.build_prompt(line, True)
        ours = prompts.video_message(table, row, "vlmevalkit")
        assert [p for p in theirs if p["type"] == "text" and p["value"]] == [p for p in ours if p["type"] == "text"]
        kinds = [p["type"] for p in theirs if p["value"]]
        assert kinds == [p["type"] for p in ours], table
