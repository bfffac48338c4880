"""`run.py bench`: what pruning costs and saves, measured on one machine with all that is compared taking turns.

command.py    the command, from its arguments to its exit status
wanted.py     what is to be measured
geometry.py   published sizes of models, for random weights
subject.py    a model at work: loaded, or drawn
clocks.py     moments on a device
passes.py     one generation, timed pass by pass
measure.py    the turns of one batch
rows.py       what was found of a configuration, and medians, quartiles and ratios of it
table.py      rows for a terminal
files.py      rows as JSON, a spreadsheet and a plot
"""

from .command import command

__all__ = ["command"]
