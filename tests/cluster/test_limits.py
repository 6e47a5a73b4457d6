"""What a cluster has is read from SLURM's own words; what it cannot run is refused at once.

``slurm_said`` was recorded from SLURM 22.05: ``plain`` enforces nothing, ``enforced`` has accounts,
QOS and partitions with limits. Typed GPUs are written as slurm.conf's manual has them.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from quantexp.cluster import facts
from quantexp.cluster.facts import Facts
from quantexp.cluster.limits import problems
from quantexp.config import Resources

SAID = Path(__file__).parent / "slurm_said"
TYPED = (
    "NodeName=g1 Arch=x86_64 CPUEfctv=60 CPUTot=64 AvailableFeatures=ib,nvme "
    "Gres=gpu:a100:4(S:0-1),nvme:1 OS=Linux 6.1 Comment=two words RealMemory=515000 "
    "MemSpecLimit=3000 Partitions=main,low\n"
)


def cluster(kind: str, more_nodes: str = "", asked: list[str] | None = None) -> Facts:
    def ask(*command: str) -> str:
        if asked is not None:
            asked.append(" ".join(command[:4]))
        name = command[3 if command[0] == "sacctmgr" else 2]
        if name == "node":
            return (SAID / "node.txt").read_text() + more_nodes
        return (SAID / f"{kind}_{name}.txt").read_text()

    return facts.gather.__wrapped__(ask)


def test_a_cluster_is_read_from_what_slurm_prints() -> None:
    found = cluster("enforced", TYPED)
    assert found.default_partition == "main"
    assert found.partitions["main"].minutes is None
    assert found.partitions["low"].minutes == 36 * 60
    limited = found.partitions["cancel"]
    assert (limited.minutes, limited.cpus, limited.memory_mb) == (60, 2, 2048)
    assert limited.qos == {"long"}
    first, _, typed = found.nodes
    assert (first.cpus, first.memory_mb, first.gres) == (4, 4096, {("gpu", ""): 2})
    assert (typed.cpus, typed.memory_mb) == (60, 512000)
    assert typed.gres == {("gpu", "a100"): 4, ("nvme", ""): 1}
    assert typed.features == {"ib", "nvme"}
    assert found.max_array_size == 1001
    assert found.max_submit(None, None) is None  # of two accounts, and one has no limit
    assert found.max_submit("vision", "long") == 50
    assert found.max_submit("ann", None) is None


def test_few_programs_are_asked_and_accounting_only_where_there_is_one() -> None:
    asked: list[str] = []
    cluster("enforced", asked=asked)
    assert len(asked) == 5
    without = facts.parse_config("AccountingStorageType   = accounting_storage/none\n")
    assert "none" in without["AccountingStorageType"]


@pytest.mark.parametrize(
    ("kind", "asks", "message"),
    [
        ("plain", {"partition": "man"}, "unknown partition .*'man': did you mean 'main'"),
        ("plain", {"partition": "low,gpu"}, "'gpu': .*allowed: cancel, low, main"),
        ("plain", {"cpus": 99}, r"cluster.cpus=99 is more than any node of .*'main'.*at most 4"),
        ("plain", {"memory_gb": 99}, r"memory_gb=99 is more than .*at most 4"),
        ("plain", {"gpus": 9}, r"gpus=9 is more than .*at most 2 gpu"),
        ("plain", {"gpus": 1, "gpu_type": "a100"}, "no gpu 'a100': its GPUs have no types"),
        ("plain", {"gres": "tpu:1"}, r"gres=tpu:1: the cluster has no 'tpu' .*: gpu\)"),
        ("plain", {"constraint": "ib"}, "unknown feature in cluster.constraint 'ib'"),
        ("enforced", {"account": "vison"}, "vison is not yours: did you mean 'vision'.*ann, vis"),
        ("enforced", {"account": "ann", "qos": "long"}, "qos=long is not yours under account ann"),
        ("enforced", {"partition": "cancel", "qos": "normal"}, "qos=normal may not use .*'cancel'"),
        ("enforced", {"partition": "cancel", "cpus": 3}, r"cpus=3 .*'cancel' gives: at most 2"),
        ("enforced", {"partition": "cancel", "memory_gb": 3.0}, r"memory_gb=3.0 .*at most 2"),
        (
            "enforced",
            {"partition": "low", "time_min": 9999},
            r"time_min=9999 .*'low': at most 2160",
        ),
        ("enforced", {"qos": "long", "time_min": 9999}, "or QOS long: at most 2880"),
    ],
)
def test_what_can_never_run_is_refused_with_what_is_allowed(
    kind: str, asks: dict[str, Any], message: str
) -> None:
    found = problems(Resources(**asks), cluster(kind))
    assert len(found) == 1, found
    assert re.search(message, found[0]), found


def test_all_reasons_come_at_once() -> None:
    asks = Resources(cpus=99, memory_gb=99, gpus=9, time_min=99999, partition="cancel", qos="long")
    assert len(problems(asks, cluster("enforced"))) == 4
    assert (
        len(problems(Resources(partition="x", account="y", gres="tpu"), cluster("enforced"))) == 3
    )


@pytest.mark.parametrize(
    "asks",
    [
        {},
        {"cpus": 4, "memory_gb": 4, "gpus": 2, "time_min": 10**6},
        {"partition": "cancel,main", "cpus": 4},  # one of them is enough
        {"account": "any", "qos": "any"},  # nothing is enforced here
        {"gres": "gpu:a100:4", "cpus": 60, "constraint": "ib"},
        {"gpus": 4, "gpu_type": "a100", "memory_gb": 500},
        {"gres": "gres/gpu:1"},
        {"constraint": "ib&nvme"},  # SLURM's own language: left to it
    ],
)
def test_what_can_run_is_let_through(asks: dict[str, Any]) -> None:
    assert problems(Resources(**asks), cluster("plain", TYPED)) == []


def test_what_only_different_nodes_have_is_no_node() -> None:
    found = problems(
        Resources(gres="gpu:a100:1,tape:1"),
        cluster(
            "plain",
            TYPED
            + TYPED.replace("NodeName=g1", "NodeName=t1").replace(
                "gpu:a100:4(S:0-1),nvme:1", "tape:2"
            ),
        ),
    )
    assert found == [
        "no node of partition 'main' has all at once: 1 gpu a100, 1 tape; lower one of "
        "cluster.cpus, cluster.memory_gb, cluster.gpus"
    ]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("UNLIMITED", None), ("1-12:00:00", 2160), ("00:30:00", 30), ("", None), ("02:00:30", 120)],
)
def test_times_of_slurm(text: str, minutes: int | None) -> None:
    assert facts.minutes(text) == minutes


def test_counts_of_gres_have_units_and_types_may_begin_with_a_digit() -> None:
    assert facts.parse_gres("tmpdisk:4T,gpu:3g.20gb:2") == {
        ("tmpdisk", ""): 4 << 40,
        ("gpu", "3g.20gb"): 2,
    }
