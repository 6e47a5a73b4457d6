"""Whether a cluster can ever run what a job asks for; SLURM itself queues some of it for ever."""

from collections.abc import Iterable, Iterator

from quantexp.cluster import slurm
from quantexp.cluster.facts import Facts, Gres, Node, Partition, gather, parse_gres
from quantexp.cluster.needs import CALIBRATE, EVALUATE, needs
from quantexp.config import Resources
from quantexp.errors import ConfigError, did_you_mean, unknown
from quantexp.experiment.cell import Cell


def refused(cells: Iterable[Cell]) -> list[str]:
    """All reasons for which jobs of these cells can never run on this machine's cluster.

    Raises:
        ConfigError: SLURM does not answer.
    """
    cells = list(cells)
    distinct = dict.fromkeys(needs(cell, kind) for cell in cells for kind in (CALIBRATE, EVALUATE))
    found = here()
    texts = [text for asked in distinct for text in problems(asked, found)]
    texts += [text for cell in cells for text in _other_cluster(cell.config.cluster.sbatch)]
    return list(dict.fromkeys(texts))


def here() -> Facts:
    """What this machine's cluster has.

    Raises:
        ConfigError: SLURM does not answer.
    """
    try:
        return gather(_ask)
    except slurm.NoAnswerError as error:
        raise ConfigError(f"SLURM does not answer ({error}): try again later") from error


def _ask(*command: str) -> str:
    try:
        return slurm.ask(*command)
    except slurm.NoAnswerError:
        if command[0] == "sacctmgr":  # accounting may be down, and jobs start nevertheless
            return ""
        raise


def problems(asked: Resources, facts: Facts, where: str = "cluster") -> list[str]:
    """All reasons for which a job would be refused or wait for ever; empty when it can run.

    Args:
        asked: What the job asks for.
        facts: What the cluster has.
        where: The configuration's key, for messages.
    """
    found = [*_partition(asked, facts, where), *_account(asked, facts, where)]
    wanted = _gres(asked)
    found += _lacking(asked, wanted, facts, where)
    names = _names(asked, facts)
    if found or not names:
        return found
    # several partitions may be named; one that can run the job is enough
    each = [list(_within(asked, wanted, facts, name, where)) for name in names]
    return [] if not all(each) else list(dict.fromkeys(text for texts in each for text in texts))


def _other_cluster(options: Iterable[str]) -> Iterator[str]:
    for option in options:
        if option.lstrip("-").partition("=")[0] in ("clusters", "M"):
            yield (
                f"cluster.sbatch={option}: jobs are checked, followed and cancelled on this "
                "machine's cluster alone: leave it out, and start the command on a login node of "
                "that cluster"
            )


def _names(asked: Resources, facts: Facts) -> list[str]:
    name = asked.partition or facts.default_partition
    return [part.strip() for part in name.split(",")] if name else []


def _partition(asked: Resources, facts: Facts, where: str) -> Iterator[str]:
    if not _names(asked, facts):
        yield (
            f"{where}.partition has no value, and the cluster has no default: give one of "
            f"{', '.join(sorted(facts.partitions))}"
        )
    for name in _names(asked, facts):
        if name not in facts.partitions:
            yield unknown(f"partition in {where}.partition", name, facts.partitions)


def _account(asked: Resources, facts: Facts, where: str) -> Iterator[str]:
    mine = {a.account for a in facts.associations}
    if "associations" not in facts.enforced or not mine:
        return
    if asked.account is not None and asked.account not in mine:
        allowed = ", ".join(sorted(mine))
        hint = did_you_mean(asked.account, mine)
        yield f"{where}.account={asked.account} is not yours: {hint}allowed: {allowed}"
        return
    if asked.qos is None or "qos" not in facts.enforced:
        return
    of_account = [a for a in facts.associations if asked.account in (None, a.account)]
    allowed_qos = set().union(*(a.qos for a in of_account))
    if asked.qos not in allowed_qos:
        account = f" under account {asked.account}" if asked.account else ""
        yield (
            f"{where}.qos={asked.qos} is not yours{account}: "
            f"{did_you_mean(asked.qos, allowed_qos)}allowed: {', '.join(sorted(allowed_qos))}"
        )


def _gres(asked: Resources) -> Gres:
    if asked.gres is not None:
        return parse_gres(asked.gres)
    return {("gpu", asked.gpu_type or ""): asked.gpus} if asked.gpus else {}


def _lacking(asked: Resources, wanted: Gres, facts: Facts, where: str) -> Iterator[str]:
    """What no node of the cluster has, whatever the partition."""
    there = {key for node in facts.nodes for key in node.gres}
    for name, kind in wanted:
        key = f"{where}.gres={asked.gres}" if asked.gres else f"{where}.gpus={asked.gpus}"
        kinds = {other for n, other in there if n == name and other}
        if name not in {n for n, _ in there}:
            has = ", ".join(sorted({n for n, _ in there})) or "none"
            yield f"{key}: the cluster has no '{name}' (its generic resources: {has})"
        elif kind and kind not in kinds:
            key = key if asked.gres else f"{where}.gpu_type={kind}"
            has = f"allowed: {', '.join(sorted(kinds))}" if kinds else "its GPUs have no types"
            yield f"{key}: the cluster has no {name} '{kind}': {did_you_mean(kind, kinds)}{has}"
    features = {feature for node in facts.nodes for feature in node.features}
    word = asked.constraint or ""
    if word.replace("_", "").replace("-", "").isalnum() and word not in features:
        yield unknown(f"feature in {where}.constraint", word, features)


def _within(asked: Resources, wanted: Gres, facts: Facts, name: str, where: str) -> Iterator[str]:
    partition = facts.partitions[name]
    yield from _may_use(asked, partition, where)
    limits = [partition.minutes]
    if asked.qos in facts.qos and "limits" in facts.enforced:
        limits.append(facts.qos[asked.qos].minutes)
    longest = min((limit for limit in limits if limit is not None), default=None)
    if longest is not None and (asked.time_min or 0) > longest:
        yield (
            f"{where}.time_min={asked.time_min} is above the limit of partition '{name}'"
            f"{f' or QOS {asked.qos}' if asked.qos else ''}: at most {longest}"
        )
    nodes = [node for node in facts.nodes if name in node.partitions]
    alone = list(_sizes(asked, wanted, partition, nodes, where))
    yield from alone
    if not alone and nodes and not any(_fits(asked, wanted, partition, node) for node in nodes):
        yield (
            f"no node of partition '{name}' has all at once: {_words(asked, wanted)}; "
            f"lower one of {where}.cpus, {where}.memory_gb, {where}.gpus"
        )


def _may_use(asked: Resources, partition: Partition, where: str) -> Iterator[str]:
    # accounts are sbatch's matter: those below an allowed one are allowed too, or not, by version
    if partition.qos is not None and asked.qos is not None and asked.qos not in partition.qos:
        yield (
            f"{where}.qos={asked.qos} may not use partition '{partition.name}': "
            f"allowed: {', '.join(sorted(partition.qos))}"
        )


def _sizes(
    asked: Resources, wanted: Gres, partition: Partition, nodes: list[Node], where: str
) -> Iterator[str]:
    """What each node has too little of."""

    def most(values: Iterable[int], limit: int | None) -> int:
        return min(max(values, default=0), limit if limit is not None else 1 << 60)

    def say(key: str, value: object, largest: object) -> str:
        return (
            f"{where}.{key}={value} is more than any node of partition '{partition.name}' gives: "
            f"at most {largest}"
        )

    cpus = most((node.cpus for node in nodes), partition.cpus)
    if (asked.cpus or 0) > cpus:
        yield say("cpus", asked.cpus, cpus)
    memory = most((node.memory_mb for node in nodes), partition.memory_mb)
    if (asked.memory_gb or 0) * 1024 > memory:
        yield say("memory_gb", asked.memory_gb, f"{memory / 1024:g}")
    for (name, kind), count in wanted.items():
        largest = max((_count(node, name, kind) for node in nodes), default=0)
        if count > largest:
            key, value = ("gres", asked.gres) if asked.gres else ("gpus", str(count))
            yield say(key, value, f"{largest} {name}{f' {kind}' if kind else ''}")


def _count(node: Node, name: str, kind: str) -> int:
    return sum(n for (other, its), n in node.gres.items() if other == name and kind in ("", its))


def _fits(asked: Resources, wanted: Gres, partition: Partition, node: Node) -> bool:
    return (
        (asked.cpus or 0) <= node.cpus
        and (asked.memory_gb or 0) * 1024 <= node.memory_mb
        and all(_count(node, *key) >= count for key, count in wanted.items())
    )


def _words(asked: Resources, wanted: Gres) -> str:
    parts = [f"{asked.cpus} CPUs"] if asked.cpus else []
    parts += [f"{asked.memory_gb:g} GiB"] if asked.memory_gb else []
    parts += [f"{n} {name}{f' {kind}' if kind else ''}" for (name, kind), n in wanted.items()]
    return ", ".join(parts)
