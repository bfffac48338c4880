"""The door: flags in, exit status out. Nothing heavy is imported before there is work to do."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import commands, study
from .errors import UserError
from .stopping import terminated_as_interrupted

_EXAMPLES = """examples:
  python run.py --config configs/tiny.yaml                          the embedded demo, a few minutes on a laptop
  python run.py --data MME GQA --model tiny_script_16 tiny_full     any benchmark under LMUData
  python run.py --data my_questions.tsv --model tiny_script_16      your own table in VLMEvalKit's TSV format
  python run.py prepare GQA --source DIR                            the official download to a table under LMUData
  python run.py --data image10 --model llava_script_64              a group; --list data shows all
  torchrun --nproc-per-node 8 run.py --config configs/llava.yaml    one process for each GPU, the same results
  python run.py status --work-dir results                           what is done, running, missing, failed
  python run.py report --work-dir results                           tables, plots and report.html from what is on disk
  python run.py compare tiny_script_16 tiny_divprune_16             is the difference more than chance? (or two folders)
  python run.py merge mine theirs --into ours                       several people's results in one folder
  python run.py show --image a.jpg --question "What is it?" --model llava --method script cdpruner --budget 64 128
  python run.py bench --random-weights llavanext --budget 640 320    what pruning costs and saves, without a checkpoint
  python run.py --list models|methods|data
  python run.py conformance --method script my_method.py            does a method keep the laws? all = every one

exit status: 0 all cells done (or laws kept), 1 some failed (a rerun finishes them), 2 something must be changed first"""
_KEPT = {  # of what Ctrl-C stops
    "bench": "What was measured before is in bench.json.",
    "conformance": "",
    "prepare": "What was checked is remembered: run the same command again to go on.",
}
_COMMANDS = ["run", "status", "report", "compare", "merge", "show", "bench", "prepare", "conformance"]
_CHECKPOINT = "another checkpoint, a folder or a hub id, for a model, or one under a name of your own"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(f"{message[:1].upper()}{message[1:]}. See --help.")


def parser(command: str = "run") -> argparse.ArgumentParser:
    """The same for all commands; what one of them does not heed is left out of its help."""
    about = "Score visual-token pruning: configurations x benchmarks -> spreadsheets."
    p = _Parser("run.py", description=about, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}  # given twice, both count
    choices = study.CHOICES
    what = "run (default); status, report, compare and merge look at results; show draws; bench measures; prepare makes tables"
    p.add_argument("command", nargs="?", choices=_COMMANDS, default="run", help=what)
    p.add_argument(
        "names", nargs="*", metavar="NAME", help="compare: two configurations or folders; merge: folders; prepare: benchmarks"
    )
    p.add_argument("--model", **many, metavar="NAME", help="configurations, such as tiny_script_16 tiny_full")
    p.add_argument("--data", **many, metavar="NAME", help="benchmarks, groups of them, or paths of TSV files")
    p.add_argument("--config", type=Path, metavar="FILE", help="a study in YAML; flags beside it win")
    p.add_argument("--work-dir", metavar="DIR", help="where results go (results)")
    p.add_argument("--mode", choices=choices["mode"], help="infer: answers only; eval: scores only (all)")
    p.add_argument("--limit", metavar="N", help="the first N rows of each benchmark, and what is scored together with them")
    size = "samples per forward pass, halved where memory is short; auto (32); bench: one or several (1)"
    p.add_argument("--batch-size", nargs="+", metavar="N", help=size)
    p.add_argument("--max-failures", metavar="N", help="failed rows with which a cell goes on (a twentieth, at least 20)")
    p.add_argument("--atlas", metavar="N", help="rows of each benchmark of which kept tokens are recorded, for report.html (100)")
    p.add_argument("--param", **many, metavar="K=V", help="method parameters, such as gamma=2")
    p.add_argument("--checkpoint", **many, metavar="NAME=DIR", help=_CHECKPOINT)
    p.add_argument("--family", **many, metavar="FAMILY", help="of checkpoints under names of your own that are to be fetched")
    p.add_argument("--protocol", choices=choices["protocol"], help="LLaVA-NeXT: 5 whole tiles (paper), or as transformers does")
    p.add_argument("--prompt-style", choices=choices["prompt-style"], help="auto: as the published numbers of a benchmark were")
    p.add_argument("--offline", action="store_true", help="never download a checkpoint")
    p.add_argument("--seed", metavar="N", help="for methods that draw (0)")
    p.add_argument("--device", help="auto, cpu, cuda, cuda:1, all: spread over all GPUs (auto)")
    p.add_argument("--dtype", choices=choices["dtype"], help="auto: float32 on a CPU, else bfloat16")
    p.add_argument("--attn", choices=choices["attn"], help="attention kernel (sdpa)")
    p.add_argument("--judge", metavar="MODEL", help="model that scores open answers; its key from OPENAI_API_KEY")
    p.add_argument("--judge-url", metavar="URL", help="where it is served, as https://host/v1 (OpenAI's)")
    p.add_argument("--source", type=Path, metavar="DIR", help="prepare: the folder of the official download")
    p.add_argument("--allow-missing", action="store_true", help="prepare: leave out rows whose pictures or videos are missing")
    p.add_argument("--fresh", action="store_true", help="discard earlier results of these cells (prepare: an earlier table)")
    p.add_argument("--reuse", action="store_true", help="take up earlier results (the default; for VLMEvalKit's habits)")
    p.add_argument("--dry-run", action="store_true", help="say which cells are done, partial or missing, and stop")
    p.add_argument(
        "--method", **many, metavar="NAME", help="show, bench: methods; conformance: methods, files that define some, or all"
    )
    p.add_argument("--budget", **many, metavar="B", help="show, bench: budgets (the model's own)")
    p.add_argument("--image", **many, metavar="FILE", help="show: pictures of one question")
    p.add_argument("--video", metavar="FILE", help="show: a video, or a folder of frames")
    p.add_argument("--frames", type=int, metavar="N", help="show: how many frames of it")
    p.add_argument("--question", metavar="TEXT", help="show: what is asked of them")
    weights = "bench: models of published size with random weights, which time does not depend on"
    p.add_argument("--random-weights", **many, metavar="MODEL", help=weights)
    p.add_argument("--repeats", metavar="N", help="bench: how often each is measured (5)")
    p.add_argument("--new-tokens", metavar="N", help="bench: of an answer (32)")
    output = "show: where to draw, a PNG, SVG or PDF (kept.png); bench: a folder (results/bench)"
    p.add_argument("-o", "--output", metavar="FILE", help=output)
    p.add_argument("--into", type=Path, metavar="DIR", help="merge: the folder that holds all")
    p.add_argument("--recordings", type=Path, metavar="DIR", help="conformance: where recordings of official code are")
    p.add_argument("--list", choices=["models", "methods", "data"], help="what can be named")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    for action in p._actions if command in _OWN else ():
        if action.dest not in _OWN[command] | {"help", "command"}:
            action.help = argparse.SUPPRESS
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 some cells failed, 2 the user must change something. Of several processes the first talks."""
    first = commands.first()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost connection is told of in words, not in frames of C++
    logging.basicConfig(level=logging.WARNING if first else logging.CRITICAL, handlers=[_log_handler()])
    warned = set[str]()
    try:
        with warnings.catch_warnings(), terminated_as_interrupted():
            warnings.showwarning = lambda message, *_: _warn(str(message), warned) if first else None
            given = sys.argv[1:] if argv is None else argv
            asked = next((word for word in given if word in _COMMANDS), "run") if {"-h", "--help"} & {*given} else "run"
            args = parser(asked).parse_intermixed_args(given)
            alone = args.list or args.dry_run or args.command != "run"  # work for one process
            return _dispatch(args) if first or not alone else 0
    except UserError as error:
        if first:
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        given = sys.argv[1:] if argv is None else argv
        said = next((words for command, words in _KEPT.items() if command in given), commands.kept("--fresh" in given))
        if first:
            print(f"Stopped. {said}".rstrip(), file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
        return 0


def _log_handler() -> logging.Handler:
    """Writes as `_warn` does."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain())
    return handler


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def _warn(message: str, said: set[str]) -> None:
    """Each warning once, in plain words."""
    if message not in said:
        said.add(message)
        print(f"warning: {message}", file=sys.stderr)


def _dispatch(args: argparse.Namespace) -> int:
    if args.list:
        from .listing import tell

        tell(args.list)
        return 0
    _check_flags(args)
    if args.command in ("conformance", "prepare", "show", "bench", "compare", "merge"):
        return int(getattr(commands, args.command)(args))
    if args.command == "status":
        from .status import command

        return command(Path(args.work_dir or study.DEFAULTS["work-dir"]), live=sys.stdout.isatty())
    if args.command == "report":
        return commands.report(Path(args.work_dir or study.DEFAULTS["work-dir"]))
    if args.fresh and args.mode == "eval":
        raise UserError("--fresh discards the answers that --mode eval would score: give one of them.")
    if args.fresh and args.reuse:
        raise UserError("--fresh discards earlier results and --reuse takes them up: give one of them.")
    configs, data, settings = study.read(args)
    models = study.models_of(args, configs, settings["protocol"])
    if args.dry_run:
        return commands.dry_run(configs, data, Path(str(settings["work-dir"])), models)
    return commands.run(configs, data, settings, models, args)


_SHOWN = {"image", "video", "frames", "question", "budget", "output"}
_LOADED = {"model", "method", "param", "checkpoint", "family", "protocol", "offline", "seed", "device", "dtype", "attn"}
_OWN = {  # flags of a command
    "bench": _LOADED | {"random_weights", "budget", "batch_size", "repeats", "new_tokens", "output", "quiet"},
    "conformance": {"method", "recordings", "param", "quiet"},
    "report": {"work_dir", "quiet"},
    "compare": {"names", "work_dir", "data"},
    "merge": {"names", "into"},
    "show": _LOADED | _SHOWN | {"prompt_style"},
    "status": {"work_dir"},
    "prepare": {"names", "source", "allow_missing", "fresh", "quiet"},
}
_FOREIGN = {
    "recordings",
    "source",
    "allow_missing",
    "into",
    "method",
    "random_weights",
    "repeats",
    "new_tokens",
    *_SHOWN,
}  # which `run` does not heed


def _check_flags(args: argparse.Namespace) -> None:
    """UserError for flags that the command would not heed."""
    plain = parser().parse_args([])
    given = {name for name, value in vars(args).items() if value != getattr(plain, name)} - {"command"}
    if args.command not in ("prepare", "compare", "merge") and args.names:
        raise UserError(f"'{args.names[0]}': benchmarks are named with --data, configurations with --model. See --help.")
    allowed = _OWN.get(args.command, set(vars(plain)) - _FOREIGN)
    if foreign := sorted(f"--{name.replace('_', '-')}" for name in given - allowed):
        if args.command == "run":
            owners = " and ".join(f"`run.py {name}`" for name in sorted(_OWN) if (given - allowed) & _OWN[name])
            raise UserError(f"{', '.join(foreign)}: these belong to {owners}; what is run is named with --model.")
        takes = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in allowed - {"names"}))
        raise UserError(f"`run.py {args.command}` takes no {' or '.join(foreign)}: only {takes}.")
