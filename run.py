"""Evaluate visual-token pruning: `python run.py --data ShapesVQA --model tiny_full tiny_script_16`. See --help."""

import sys

from script_vlmeval.cli import main

if __name__ == "__main__":
    sys.exit(main())
