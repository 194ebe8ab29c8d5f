"""Errors in the words of the command line: a keyword of Python becomes the flag that stands for it."""

import re
from collections.abc import Mapping

from lowmem.errors import Advice, LowmemError

RENAMED: Mapping[str, str] = {
    "batch_size": "batch",
    "schedule": "lr-schedule",
    "standardise": "standardise",
    "save_to": "save",
    "until": "epochs",
    "initialiser": "init",
    "every": "lr-every",
    "factor": "lr-factor",
}
"""Keywords of Python whose flag has another name than theirs."""

KEYWORDS = (
    *("budget", "batch_size", "micro_batch", "strategy", "segments", "slots", "threads", "engine", "optimizer", "ram"),
    *("disk", "disk_limit", "shards"),
    *("seed", "schedule", "clip_value", "clip_norm", "clip_twice", "class_weights", "non_finite", "patience"),
    *(
        "save_to",
        "save_every",
        "journal",
        "lr",
        "weight_decay",
        "label_smoothing",
        "quantile",
        "activation",
        "loss",
        "dtype",
    ),
    *("patience_metric", "min_improvement", "until"),
    *("norm", "dropout", "residual", "gain", "standardise", "shuffle_rows", "held_out", "target", "weights"),
    *("initialiser", "ranks", "data", "targets", "features", "ignore"),
)
"""Keywords of Python that a flag of some command stands for."""

_ANY = "|".join(sorted(KEYWORDS, key=len, reverse=True))
_GIVEN = re.compile(rf"(?<![\w./\"'(,-])({_ANY})=(\"[^\"]*\"|'[^']*'|[^\s,;)]+?)(?=[.,;:)]?(?:\s|$|,|;|\)))")
_NAMED = re.compile(rf"(?<![\w./\"'-])({'|'.join(name for name in KEYWORDS if '_' in name)})(?![\w(/=\"']|\.\w)")
_FIRST = re.compile(rf"^({_ANY}) (?=must be|must name|goes with|was|is not|needs)")
_RATE = re.compile(r"^(warm_up|every|factor) of a \w+ learning rate ")
_OPEN = re.compile(rf"(?<![\w./\"'(,-])({_ANY})=(?= \()|(?<!\S)(budget|ram)(?= \((?:what|the))")
_WIDTHS = re.compile(r"make the network with widths\[(-1|0)\]=(\d+)")


SIDES = {"0": "begin", "-1": "end"}


def flag(keyword: str) -> str:
    """Return the flag that stands for a keyword of Python."""
    return f"--{RENAMED.get(keyword, keyword).replace('_', '-')}"


def as_flag(advice: Advice) -> str:
    """Write advice as a flag of a command: `--budget 24MiB`."""
    words = {True: "yes", False: "no", None: "none"}
    value = words[advice.value] if advice.value is None or isinstance(advice.value, bool) else str(advice.value)
    constant = advice.keyword == "schedule" and isinstance(advice.value, float)  # a rate, and no name of a schedule
    name = flag("lr" if constant else advice.keyword)
    return f'{name} "{value}"' if " " in value or not value else f"{name} {value}"


def in_flags(error: LowmemError) -> str:
    """Return the text of an error with flags in place of keywords."""
    text = _FIRST.sub(lambda match: f"{flag(match[1])} ", error.line(as_flag))
    text = _RATE.sub(lambda match: f"{flag(match[1])} ", text)
    text = _OPEN.sub(lambda match: flag(match[1] or match[2]), text)
    text = _WIDTHS.sub(lambda match: f"train a network whose --widths {SIDES[match[1]]} with {match[2]}", text)
    text = text.replace("; got None.", "; got none.")
    text = _GIVEN.sub(lambda match: _written(match[1], match[2]), text)
    return _NAMED.sub(lambda match: flag(match[1]), text)


def _written(keyword: str, value: str) -> str:
    """Write a keyword and its value, which may be in quotes, as a flag."""
    bare = value.strip("\"'")
    if bare == "True":
        return flag(keyword)
    return f"{flag(keyword)} {value if ' ' in bare or not bare else bare}"
