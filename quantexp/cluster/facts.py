"""What a SLURM cluster has and allows: partitions, nodes, accounts, limits; asked once.

The parsers are pure; :func:`gather` runs the five programs that tell.
"""

import getpass
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

Ask = Callable[..., str]  # the words of a command → what it prints
Gres = dict[tuple[str, str], int]  # name and type (or "") → how many


@dataclass(frozen=True)
class Partition:
    """A queue.

    Attributes:
        name: As ``--partition`` has it.
        default: Whether jobs go here that name none.
        minutes: The longest time limit; ``None``: no limit.
        qos: Which QOS may use it; ``None``: all.
        cpus: The most per node and job; ``None``: what the node has.
        memory_mb: Likewise, in MiB.
    """

    name: str
    default: bool = False
    minutes: int | None = None
    qos: frozenset[str] | None = None
    cpus: int | None = None
    memory_mb: int | None = None


@dataclass(frozen=True)
class Node:
    """A machine, as configured: whether it is free or down is not asked."""

    name: str
    cpus: int
    memory_mb: int
    gres: Gres
    features: frozenset[str]
    partitions: frozenset[str]


@dataclass(frozen=True)
class Association:
    """What a user may do under one account."""

    account: str
    qos: frozenset[str]
    max_submit: int | None = None
    default_qos: str = ""


@dataclass(frozen=True)
class Qos:
    """Limits of a quality of service."""

    name: str
    max_submit: int | None = None
    minutes: int | None = None


@dataclass(frozen=True)
class Facts:
    """All of it.

    Attributes:
        enforced: Of ``associations``, ``limits``, ``qos``: what accounting really refuses.
        associations: The user's; empty where there is no accounting.
        max_array_size: One more than the largest index of an array.
    """

    partitions: dict[str, Partition]
    nodes: tuple[Node, ...]
    associations: tuple[Association, ...] = ()
    qos: dict[str, Qos] = field(default_factory=dict)
    enforced: frozenset[str] = frozenset()
    max_array_size: int = 1001

    @property
    def default_partition(self) -> str | None:
        """Where jobs go that name no partition."""
        return next((p.name for p in self.partitions.values() if p.default), None)

    def max_submit(self, account: str | None, qos: str | None) -> int | None:
        """The most jobs that the user may have in the queue; ``None`` where nothing says so."""
        if "limits" not in self.enforced:
            return None
        own = [a for a in self.associations if account in (None, a.account)]
        each = [self._max_submit(a, qos or a.default_qos) for a in own]
        # which of several accounts is the default is not asked: sbatch will say
        known = [limit for limit in each if limit is not None]
        return max(known) if known and len(known) == len(each) else None

    def _max_submit(self, association: Association, qos: str) -> int | None:
        found = [association.max_submit, self.qos[qos].max_submit if qos in self.qos else None]
        return min((limit for limit in found if limit is not None), default=None)


@cache
def gather(ask: Ask) -> Facts:
    """Asks a cluster, once per process.

    Args:
        ask: Runs a program of SLURM and returns what it prints; its errors pass through, but
            accounting may be missing.
    """
    me = f"user={getpass.getuser()}"
    config = parse_config(ask("scontrol", "show", "config"))
    associations: tuple[Association, ...] = ()
    qos: dict[str, Qos] = {}
    if "none" not in config.get("AccountingStorageType", "none"):
        columns = "format=Account,QOS,MaxSubmit,DefaultQOS"
        associations = parse_associations(
            ask("sacctmgr", "-nP", "show", "assoc", "where", me, columns)
        )
        qos = parse_qos(ask("sacctmgr", "-nP", "show", "qos", "format=Name,MaxSubmitPU,MaxWall"))
    return Facts(
        parse_partitions(ask("scontrol", "show", "partition", "-ao")),
        parse_nodes(ask("scontrol", "show", "node", "-ao")),
        associations,
        qos,
        _enforced(config.get("AccountingStorageEnforce", "")),
        int(config.get("MaxArraySize", "1001")),
    )


def parse_config(text: str) -> dict[str, str]:
    """``scontrol show config``: ``Key = value`` lines."""
    found = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in found}


def parse_partitions(text: str) -> dict[str, Partition]:
    """``scontrol show partition -ao``: one partition per line."""
    found = {}
    for line in _lines(text, "PartitionName"):
        name = line["PartitionName"]
        found[name] = Partition(
            name,
            line.get("Default") == "YES",
            minutes(line.get("MaxTime", "")),
            _allowed(line.get("AllowQos", "ALL")),
            _number(line.get("MaxCPUsPerNode", "")),
            _number(line.get("MaxMemPerNode", "")),
        )
    return found


def parse_nodes(text: str) -> tuple[Node, ...]:
    """``scontrol show node -ao``: one node per line."""
    return tuple(
        Node(
            line["NodeName"],
            # without the cores that are kept for the system
            int(line.get("CPUEfctv") or line.get("CPUTot", "0")),
            int(line.get("RealMemory", "0")) - int(line.get("MemSpecLimit", "0")),
            parse_gres(line.get("Gres", "")),
            _words(line.get("AvailableFeatures", "")),
            _words(line.get("Partitions", "")),
        )
        for line in _lines(text, "NodeName")
    )


def parse_associations(text: str) -> tuple[Association, ...]:
    """``sacctmgr -nP show assoc format=Account,QOS,MaxSubmit,DefaultQOS``; the last may lack."""
    rows = ([*line.split("|"), ""] for line in text.splitlines() if line.count("|") >= 2)
    return tuple(Association(row[0], _words(row[1]), _number(row[2]), row[3]) for row in rows)


def parse_qos(text: str) -> dict[str, Qos]:
    """``sacctmgr -nP show qos format=Name,MaxSubmitPU,MaxWall``."""
    rows = (line.split("|") for line in text.splitlines() if line.count("|") >= 2)
    return {row[0]: Qos(row[0], _number(row[1]), minutes(row[2])) for row in rows}


def parse_gres(text: str) -> Gres:
    """``gpu:2``, ``gpu:a100:4(S:0-1),tmpdisk:4T``: by name and type."""
    found: Gres = {}
    for item in re.sub(r"\([^)]*\)", "", text).split(","):
        parts = item.strip().removeprefix("gres/").split(":")
        if not parts[0]:
            continue
        given = re.fullmatch(r"(\d+)([KMGTP]?)", parts[-1]) if len(parts) > 1 else None
        count = int(given[1]) << 10 * " KMGTP".index(given[2] or " ") if given else 1
        if given:
            parts.pop()
        key = (parts[0], parts[1] if len(parts) > 1 else "")
        found[key] = found.get(key, 0) + count
    return found


def minutes(text: str) -> int | None:
    """A time of SLURM (``1-12:00:00``, ``01:00:00``) in minutes; ``None`` for no limit."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if not found:
        return None
    days, hours, rest, _ = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + rest


def _lines(text: str, first: str) -> Iterator[Mapping[str, str]]:
    # values with blanks (reasons, comments) are cut, but none of those is read here
    for line in text.splitlines():
        found = dict(re.findall(r"(?:^|\s)([\w/]+)=(\S*)", line))
        if first in found:
            yield found


def _words(text: str) -> frozenset[str]:
    return frozenset(word for word in text.split(",") if word and word not in ("(null)", "N/A"))


def _allowed(text: str) -> frozenset[str] | None:
    return None if text in ("ALL", "") else _words(text)


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _enforced(text: str) -> frozenset[str]:
    """``safe`` and the like mean more than they say (slurm.conf's manual)."""
    said = {word for word in text.lower().split(",") if word != "none"}
    if "all" in said:
        said |= {"associations", "limits", "qos", "safe"}
    if "safe" in said:
        said |= {"limits"}
    return frozenset(said | ({"associations"} if said & {"limits", "qos", "wckeys"} else set()))
