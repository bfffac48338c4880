"""What the door's commands do, and what they tell. Nothing heavy is imported before there is work to do."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import study
from .cells import FULL, Config, parse_params
from .errors import UserError
from .stopping import STOPPED

if TYPE_CHECKING:
    from . import sweep
    from .backbones import Models
    from .benchmarks import Benchmark
    from .ranks import Ranks
    from .sweep import Outcome


def run(configs: list[Config], names: list[str], settings: dict[str, Any], models: Models, args: argparse.Namespace) -> int:
    from .benchmarks import expand

    data = expand(names)
    work_dir = Path(str(settings["work-dir"]))
    judge = study.judge_of(settings, work_dir)
    from . import sweep

    options = sweep.Options(
        work_dir=work_dir,
        mode=settings["mode"],
        limit=settings["limit"],
        batch_size=settings["batch-size"],
        seed=settings["seed"],
        device=settings["device"],
        dtype=settings["dtype"],
        attn=settings["attn"],
        models=models,
        prompt_style=settings["prompt-style"],
        fresh=args.fresh,
        quiet=args.quiet,
        judge=judge,
        max_failures=settings["max-failures"],
        atlas=settings["atlas"],
    )
    outcome = _swept(configs, data, options)
    if outcome is None:
        return 1
    if not first():
        return outcome.status
    if options.mode != "infer" and (outcome.done or outcome.already or outcome.failed):
        try:
            report(options.work_dir)
        except UserError as error:
            if outcome.done:
                raise
            print(f"warning: the tables stay as they were. {error}", file=sys.stderr)
    _tell(outcome, options.work_dir)
    return outcome.status


def _swept(configs: Sequence[Config], data: Sequence[Benchmark], options: sweep.Options) -> Outcome | None:
    """The outcome; None where another process of the run failed, which is told of."""
    from . import sweep
    from .ranks import RankFailed

    ranks, failed = None, ""
    try:
        ranks = _met()
        return sweep.run(configs, data, options, ranks)
    except RankFailed as error:
        failed = (ranks.gone() if ranks else "") or str(error)
        if STOPPED in failed:
            raise KeyboardInterrupt from None
        return None
    except KeyboardInterrupt:
        failed = ranks.gone() if ranks else ""
        if failed and STOPPED not in failed:  # a launcher stops all when one is gone
            return None
        raise
    finally:
        if failed and STOPPED not in failed and _speaks(ranks, failed):
            print(f"FAILED: {failed.rstrip('.')}. {kept(options.fresh)}", file=sys.stderr)
        if ranks:
            ranks.close()


def _met() -> Ranks:
    """The processes of this run. What keeps one of them away the first cannot tell: it may be what is missing."""
    from .ranks import Ranks

    try:
        return Ranks.here()
    except UserError as error:
        if not first():
            print(f"error: process {os.environ['RANK']}: {error}", file=sys.stderr)
        raise


def _speaks(ranks: Ranks | None, failed: str) -> bool:
    """Whether this process tells of a failure: the first does, and the second where the first is no more."""
    rank = ranks.rank if ranks else int(os.environ.get("RANK", "0"))
    spoke = re.match(r"rank 0 \([^)]*\) failed: ", failed)  # what torch says of a lost connection may have "failed: " in it too
    return rank == 0 or (rank == 1 and "rank 0" in failed and not spoke)


def first() -> bool:
    """Whether this process is the one that talks."""
    return os.environ.get("RANK", "0") == "0"


def kept(fresh: bool) -> str:
    """What is lost, and how to go on."""
    again = "without --fresh, which would discard them," if fresh else "again"
    return f"Answers so far are on disk: run the same command {again} to go on."


def _tell(outcome: Outcome, work_dir: Path) -> None:
    """What happened, in a few lines."""
    if outcome.already and not outcome.done and not outcome.failed:
        cells = "the cell was" if len(outcome.already) == 1 else f"all {len(outcome.already)} cells were"
        print(f"Nothing to do: {cells} done. --fresh runs them again.")
    elif outcome.already:
        print(f"{len(outcome.already)} cells were done before.")
    if outcome.done:
        cells = "1 cell" if len(outcome.done) == 1 else f"{len(outcome.done)} cells"
        print(f"{cells} done; answers and scores: {work_dir}/<configuration>/<benchmark>/")
    for benchmark in sorted(outcome.submissions):
        print(f"To send in: {work_dir}/<configuration>/{benchmark}/<configuration>_{benchmark}_submission.json")
    for cell, (rows, why) in outcome.rows.items():
        print(f"FAILED ROWS: {cell}: {rows} could not be answered and count as wrong ({why})", file=sys.stderr)
    if outcome.rows:
        print("A rerun, without --fresh, tries the failed rows again.", file=sys.stderr)
    for trouble in outcome.troubles:
        print(f"TROUBLE: {trouble}", file=sys.stderr)
    for cell, reason in outcome.failed.items():
        print(f"NOT DONE: {cell}: {reason}", file=sys.stderr)


def report(work_dir: Path) -> int:
    """Exit status 0, or 1 where a cell cannot be read."""
    from .report import summarise, table
    from .report.summary import UNREADABLE

    summary = summarise(work_dir)
    print(table(summary))
    print(f"Tables: {summary.workbook}" + (f"; plots: {summary.plots[0].parent}" if summary.plots else ""))
    if summary.page:
        print(f"To look at, kept tokens too: {summary.page}")
    return int(UNREADABLE in summary.gaps.values())


def show(args: argparse.Namespace) -> int:
    from .show import command

    if len(args.model) > 1:
        raise UserError(f"--model names one model to show ({args.model[0]}); methods are named with --method.")
    model = args.model[0] if args.model else "tiny"
    settings = study.settings(args)
    models = study.models_of(args, [Config(model, FULL)], settings["protocol"])
    how = {name: settings[name] for name in ("seed", "device", "dtype", "attn")}
    return command(
        args.image,
        args.video or "",
        args.question or "",
        model=model,
        methods=args.method or ["script"],
        budgets=args.budget,
        out=args.output or "kept.png",
        params=parse_params(args.param),
        frames=args.frames,
        models=models,
        style=settings["prompt-style"],
        **how,
    )


def bench(args: argparse.Namespace) -> int:
    from .bench import command

    sizes, args.batch_size = args.batch_size or [1], []
    settings = study.settings(args)
    drawn = set(args.random_weights)  # some have no record, and none needs a checkpoint
    models = study.models_of(args, [c for c in map(Config.parse, args.model) if c.model not in drawn], settings["protocol"])
    return command(
        args.model,
        random_weights=args.random_weights,
        methods=args.method,
        budgets=args.budget,
        params=parse_params(args.param),
        batch_sizes=sizes,
        repeats=args.repeats or 5,
        new_tokens=args.new_tokens or 32,
        out=args.output or Path(str(settings["work-dir"])) / "bench",
        models=models,
        quiet=args.quiet,
        **{name: settings[name] for name in ("seed", "device", "dtype", "attn")},
    )


def compare(args: argparse.Namespace) -> int:
    from .compare import command

    if len(args.names) != 2:
        raise UserError(
            "Name two to compare: configurations (run.py compare tiny_script_16 tiny_full) or folders of results "
            "(run.py compare mine theirs)."
        )
    first, second = args.names
    return command(first, second, Path(args.work_dir or study.DEFAULTS["work-dir"]), args.data)


def merge(args: argparse.Namespace) -> int:
    from .merge import command

    if not args.names or args.into is None:
        raise UserError("Name folders of results and where they go: run.py merge mine theirs --into ours.")
    return command([Path(name) for name in args.names], args.into)


def prepare(args: argparse.Namespace) -> int:
    """Makes what can be made; what cannot is told of at the end."""
    from .benchmarks.folders import new_data_folder
    from .prepare import prepare as made_of

    if not args.names or not args.source:
        raise UserError(
            "Name benchmarks and the folder of their download: run.py prepare GQA --source DIR. See docs/benchmarks.md."
        )
    benchmarks, data = study.preparable(args.names), new_data_folder()
    how = dict(quiet=args.quiet, fresh=args.fresh, allow_missing=args.allow_missing)
    failed = []
    for benchmark in benchmarks:
        try:
            made = made_of(benchmark.host, args.source, data, called=benchmark.name, **how)
        except UserError as error:
            failed.append(f"{benchmark.name}: {str(error).removeprefix(f'{benchmark.name}: ')}")
            continue
        print(f"{benchmark.name}: {made.rows:,} questions in {made.table}")
        for note in made.notes:
            print(f"  {note}")
    if failed:
        raise UserError("\n  ".join([f"{len(failed)} of {len(benchmarks)} were not prepared:", *failed][len(benchmarks) == 1 :]))
    return 0


def conformance(args: argparse.Namespace) -> int:
    if not args.method:
        raise UserError("No method: name some with --method (script), a file of your own (my_method.py), or all.")
    from .conformance.report import command

    return command(args.method, args.recordings, quiet=args.quiet, params=parse_params(args.param))


def dry_run(configs: Sequence[Config], names: Sequence[str], work_dir: Path, models: Models) -> int:
    from .benchmarks import expand
    from .runtime import method_of
    from .status import MISSING, states

    for config in configs:
        method_of(config, models)
    there = {(cell.config, cell.benchmark): cell for cell in (states(work_dir) if work_dir.is_dir() else [])}
    counts: dict[str, int] = {"done": 0, "partial": 0, MISSING: 0}
    for config in configs:
        for name in [benchmark.name for benchmark in expand(names)]:
            cell = there.get((str(config), name))
            state, answers = (cell.state, cell.answers) if cell else (MISSING, 0)
            state = "partial" if cell and cell.lost else state
            counts[state] = counts.get(state, 0) + 1
            print(f"{state:8} {config}/{name}" + (f" ({answers} answers)" if answers and state != "done" else ""))
    print(", ".join(f"{n} {state}" for state, n in counts.items()))
    print("Only looked at what is on disk: settings are not compared, data and names known to VLMEvalKit alone are not checked.")
    return 0
