"""What is known of each benchmark. Numbers of questions are the published ones; what is scored is counted in every result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. `kind` is where it comes from: 'embedded' (made on the spot), 'host' (VLMEvalKit has it, or a class of ours
    there), 'video' (a table that `prepare` made, with videos), or 'tsv' (the user's own table).
    """

    name: str  # how the user and our result folders call it
    host: str  # the table's name in the data folder, VLMEvalKit's where it has the set; for 'tsv' the path
    kind: str
    rule: str = ""  # of `scoring.RULES`; '' leaves it to the host's scorer
    metric: str = ""
    split: str = ""
    questions: int = 0  # published; 0 where the files state no one number
    earlier: int = 0  # of another file that is published too
    judge: str = ""  # '' | optional | needed
    aka: tuple[str, ...] = ()
    note: str = ""
    frames: int | None = None  # of a video; None: as many as the model is made for
    fps: float | None = None  # instead of a fixed number of frames

    @property
    def modality(self) -> str:
        return "video" if self.kind == "video" else "image"

    @property
    def asked(self) -> str:
        """Split and number of questions, for a table."""
        numbers = " or ".join(f"{n:,}" for n in self.published)
        return ", ".join(filter(None, [self.split, numbers]))

    @property
    def published(self) -> list[int]:
        """The numbers of questions under which its figures are published."""
        return [n for n in (self.questions, self.earlier) if n]


_VQA, _CHOICE, _YES_NO = "VQA accuracy", "accuracy", "perception + cognition"
_OPEN = "exact match; judge: accuracy, score"
RECORDS: tuple[Benchmark, ...] = (
    Benchmark("ShapesVQA", "ShapesVQA", "embedded", "exact", "accuracy", "test", 1_200, note="drawn scenes, open answers"),
    Benchmark(
        "ShapesYN",
        "ShapesYN",
        "embedded",
        "pairs",
        "accuracy + accuracy+",
        "test",
        600,
        note="drawn scenes, yes/no pairs as in MME",
    ),
    # image10
    Benchmark("VQAv2", "VQAv2_VAL", "host", "vqa", _VQA, "val", 214_354, note="papers report test-dev"),
    Benchmark("GQA", "GQA_TestDev_Balanced", "host", "gqa", "accuracy", "test-dev balanced", 12_578),
    Benchmark("VizWiz", "VizWiz", "host", "vizwiz", _VQA, "val", 4_319, note="another split than the papers' test"),
    Benchmark("ScienceQA", "ScienceQA_TEST", "host", "scienceqa", _CHOICE, "test with image", 2_017, aka=("SQA",)),
    Benchmark(
        "TextVQA", "TextVQA_VAL", "host", "textvqa", _VQA, "val", 5_000, note="OCR tokens where the table has a column ocr_tokens"
    ),
    Benchmark("POPE", "POPE", "host", "pope", "F1, mean of three splits", "three splits"),
    Benchmark("MME", "MME", "host", "mme", _YES_NO, "", 2_374),
    Benchmark("MMBench", "MMBench_DEV_EN", "host", "mmbench", "accuracy, circular", "dev", 4_329, 4_377),
    Benchmark("MMBench_CN", "MMBench_DEV_CN", "host", "mmbench", "accuracy, circular", "dev", 4_329),
    Benchmark("MMVet", "MMVet", "host", "mmvet", "judge score", "", 218, judge="needed", note="without a judge: the upload file"),
    # video4
    Benchmark("MVBench", "MVBench", "video", "mvbench", _CHOICE, "20 tasks", 4_000),
    Benchmark("Video-MME", "Video-MME", "video", "videomme", _CHOICE, "test, without subtitles", 2_700),
    Benchmark("MLVU", "MLVU_MCQ", "video", "mlvu", "M-Avg", "dev, 7 multiple-choice tasks", 2_174),
    Benchmark("LongVideoBench", "LongVideoBench", "video", "longvideobench", _CHOICE, "val, without subtitles", 1_337),
    # videoqa4
    Benchmark("TGIF-QA", "TGIF-QA", "video", "videoqa", _OPEN, "FrameQA test", 13_691, judge="optional"),
    Benchmark("MSVD-QA", "MSVD-QA", "video", "videoqa", _OPEN, "test", 13_157, judge="optional"),
    Benchmark("MSRVTT-QA", "MSRVTT-QA", "video", "videoqa", _OPEN, "test", 72_821, judge="optional"),
    Benchmark("ActivityNet-QA", "ActivityNet-QA", "video", "videoqa", _OPEN, "test", 8_000, judge="optional"),
    # beside them
    Benchmark("DocVQA", "DocVQA_VAL", "host", "anls", "ANLS", "val", 5_349),
    Benchmark("OCRBench", "OCRBench", "host", "ocrbench", "accuracy", "", 1_000, note="points of 1,000 divided by ten"),
    Benchmark("MLVU_OpenEnded", "MLVU_OpenEnded", "video", "mlvuopen", "G-Avg", "dev, 2 open tasks", judge="needed"),
    Benchmark("VQAv2_TESTDEV", "VQAv2_TESTDEV", "host", "", "", "test-dev", 107_394, note="no answers: makes the submission"),
    Benchmark("VizWiz_TEST", "VizWiz_TEST", "host", "", "", "test", 8_000, note="no answers: makes the submission"),
)
BENCHMARKS: dict[str, Benchmark] = {record.name: record for record in RECORDS}
