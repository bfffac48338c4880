"""A language model as judge of open answers: what it is asked, how its reply is read, and how no reply is paid for twice.

`tasks` holds words and readers, `cache` what was answered before, `line` one request and its retries, `client` the judge that
puts them together. Importing this loads no client library.
"""

from __future__ import annotations

from .client import Judge, Reply, judge_of
from .tasks import PROTOCOL, Task, VideoVerdict, parse_fraction, parse_pair, parse_video, video_qa

__all__ = [
    "PROTOCOL",
    "Judge",
    "Reply",
    "Task",
    "VideoVerdict",
    "judge_of",
    "parse_fraction",
    "parse_pair",
    "parse_video",
    "video_qa",
]
