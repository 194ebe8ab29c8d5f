"""Where a network's parameters lie where nobody says it: on the disk if the memory allowed cannot hold them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lowmem.common.process_memory import resident
from lowmem.measure.ram import RESERVE, read_ram
from lowmem.network.architecture import Architecture
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.budget import read_limit
from lowmem.planning.candidates import Candidates
from lowmem.planning.choose import request_of
from lowmem.planning.engines.machine import DiskTier, disk_tier
from lowmem.planning.streamed import network_bytes, thriftiest
from lowmem.units import parse_bytes

OF_A_LIMIT = 0.9
"""Share of the memory allowed that the plan of a step may take here: the rest is for buffers of data not known yet."""

ON_DISK = "network_on_disk"
"""Of a saved run's options: the network lived on a disk."""

PLANNING = ("strategy", "micro_batch", "segments", "slots", "threads", "engine", "shards", "costs", "table_bytes")
"""Keywords of a trainer that decide."""


def folder_for(
    architecture: Architecture, optimizer: Optimizer | str | None, options: Mapping[str, Any], *, beside: int = 0
) -> str | None:
    """Return the folder of the disk on which the parameters of a network to train should lie, None for memory.

    options: keywords of `Trainer`. beside: bytes that training takes beside a step, such as a second network.

    Without `disk`, or without a limit of memory, parameters lie in memory, and where gradients are gathered or several
    ranks share a batch.

    Raises `InputError` for a limit or a disk that make no sense.
    """
    tier = disk_tier(options.get("disk"), options.get("disk_limit"))
    budget, ram = options.get("budget"), options.get("ram")
    if tier is None or (budget is None and ram is None) or options.get("strategy", "auto") != "auto":
        return None
    if not _has_room(tier, architecture):
        return None
    if options.get("group") is not None or options.get("shards", 1) != 1:
        return None
    if ram is not None:
        budget = max(read_ram(ram) - resident() - RESERVE, 1)
    assert budget is not None
    if not isinstance(budget, str) or "%" not in budget:
        budget = max(int(OF_A_LIMIT * parse_bytes(budget)), 1)
    clips, twice = options.get("clip_norm") is not None, bool(options.get("clip_twice"))
    if clips and not twice:
        return None
    how = {name: options[name] for name in PLANNING if options.get(name) is not None}
    how |= {"rehearse": clips, "batch_buffers": beside, "disk": replace(tier, parameters=False)}
    # Whether a plan has room for the parameters is told in a moment; looking for the best one may take many.
    request = request_of(architecture, options["batch_size"], budget, optimizer, **how)
    limit = read_limit(request)
    has_room = any(Candidates(variant, limit).plannable() for variant in thriftiest(request))
    return None if has_room else tier.folder  # if no disk helps either, the trainer says what is missing


def folder_again(architecture: Architecture, optimizer: Optimizer, options: dict[str, Any]) -> str | None:
    """Return the folder on whose disk the parameters of a saved run should lie, None for memory.

    options: keywords of `Trainer`, with `ON_DISK`, which is taken out, where the network lived on a disk before: then
    it does so again if there is one.
    """
    tier = disk_tier(options.get("disk"), options.get("disk_limit"))
    if options.pop(ON_DISK, False):
        return tier.folder if tier is not None and _has_room(tier, architecture) else None
    return folder_for(architecture, optimizer, options)


def _has_room(tier: DiskTier, architecture: Architecture) -> bool:
    """Say whether the file of a network keeps the limit of a disk."""
    return tier.limit is None or network_bytes(architecture) <= tier.limit
