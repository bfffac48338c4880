"""What can be named: tables of models, methods and benchmarks, made without loading any of them."""

from __future__ import annotations


def tell(what: str) -> None:
    """Print a table of the models, methods or data that can be named."""
    rows = {"models": _models, "methods": _methods, "data": _data}[what]()
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())
    if what == "data":
        print("\n".join(_about_data()))


def _models() -> list[tuple[str, ...]]:
    from .backbones import BACKBONES, Backbone
    from .methods import catalogue
    from .offers import offers, served

    def methods_of(record: Backbone) -> str:
        able = served(offers(record.family, whole=record.protocol == "paper"))
        lacking = [name for name in catalogue() if name not in able]
        return "all" if not lacking else f"all but {', '.join(lacking)}" if len(lacking) <= len(able) else ", ".join(able)

    head = ("MODEL", "FAMILY", "VISUAL TOKENS", "FRAMES", "RELEVANCE", "CHECKPOINT", "ABOUT", "METHODS")
    rows = [
        (
            b.id,
            b.family,
            b.counted(),
            str(b.frames),
            "clip, llm" if b.clip else "llm",
            "embedded" if b.id == "tiny" else b.checkpoint,
            b.summary,
            methods_of(b),
        )
        for b in BACKBONES.values()
    ]
    note = ("NAME", "", "", "", "", "any other", "--checkpoint NAME=DIR_OR_HUB_ID [--family FAMILY]", "those of the family")
    return [head, *rows, note]


def _methods() -> list[tuple[str, ...]]:
    from .methods import catalogue

    head = ("METHOD", "ABOUT", "NEEDS", "PARAMETERS")
    rows = [
        (m.name, m.summary, ", ".join(m.needs) or "-", ", ".join(f"{k}={v}" for k, v in m.params) or "-")
        for m in catalogue().values()
    ]
    both = ("A+B", "A before the language model, B inside it, as script+fastv", "of both", "before=None, and those of both")
    return [head, *rows, both]


def _data() -> list[tuple[str, ...]]:
    from .benchmarks import BENCHMARKS
    from .benchmarks.folders import expected_folder

    folder = expected_folder()
    rows: list[tuple[str, ...]] = [("BENCHMARK", "MODALITY", "QUESTIONS", "METRIC", "JUDGE", "STATE", "TABLE", "NOTE")]
    for b in BENCHMARKS.values():
        table = f"{b.host}.tsv" if b.kind != "embedded" else "-"
        state = "made on demand" if b.kind == "embedded" else "present" if (folder / table).is_file() else "missing"
        note = ", ".join(filter(None, [*(f"also {name}" for name in b.aka), b.note]))
        rows.append((b.name, b.modality, b.asked or "-", b.metric or "-", b.judge or "-", state, table, note))
    return rows


def _about_data() -> list[str]:
    """What stands below the table of benchmarks."""
    from .benchmarks import GROUPS
    from .benchmarks.folders import expected_folder

    groups = [f"  {name:<10} {' '.join(members)}" for name, members in GROUPS.items()]
    return [
        "",
        f"Tables are looked for in {expected_folder()} (LMUData); `run.py prepare NAME --source DIR` makes them.",
        "Groups:",
        *groups,
        "Videos: NAME_8frame and NAME_1fps fix what is shown (groups too); the plain name shows what the model is made for.",
        "Also: any other image set of VLMEvalKit by its own name, and the path of a TSV file.",
    ]
