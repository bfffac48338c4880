"""`report.html`: everything that a folder of results says, kept tokens sample by sample, in one file without network.

    write.py      the file, from the parts below and the assets
    facts.py      what was run, the plots, and where the figures come from
    tables.py     the tables, as records that the page sorts and filters
    samples.py    the atlas: a benchmark's samples with what each configuration answered and kept
    answers.py    the cells' records of those samples; tokens.py: which tokens they kept
    embed.py      data within the page
    assets/       the page itself: HTML, style, and scripts that are put together in the order of their names

Text of models and data is escaped wherever it goes: as HTML where it is written, as JSON in blocks that are not executed, as text
nodes by the scripts. The page's policy allows its own script and style, by their hash, and pictures that it holds; nothing else.
"""

from .write import write_page

__all__ = ["write_page"]
