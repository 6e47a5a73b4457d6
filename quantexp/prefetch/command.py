"""``python -m quantexp prefetch``: fetches what a sweep reads from the hub, and writes it down."""

import argparse
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from quantexp.config import ExperimentConfig, from_plain
from quantexp.errors import ConfigError, DataError, QuantexpError
from quantexp.experiment import record
from quantexp.experiment.estimate import readable_size
from quantexp.experiment.plan import without_executed
from quantexp.plugins import active
from quantexp.prefetch import cache, manifest, remote
from quantexp.prefetch.manifest import Entry
from quantexp.prefetch.needed import MODEL, Need, needs
from quantexp.prefetch.remote import Listing

_DESCRIPTION = """\
Fetches everything that the cells of a command need from the Hugging Face hub: models, corpora, data
sets of zero-shot tasks. Run it where there is network, with the arguments of the sweep:

  python -m quantexp prefetch sweep=flatquant_table1
  python -m quantexp prefetch model=llama3_8b data=wikitext2 evaluation=papers -m

What is in the cache (HF_HOME) is not fetched again, and what broke off goes on. A manifest in
outputs/prefetch holds commits, files, sizes and hashes. Gated models need HF_TOKEN in the
environment."""
_SPARE = 1 << 30  # bytes that stay free on the cache's file system


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        "python -m quantexp prefetch",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("overrides", nargs="*", help="as for the sweep: sweep=NAME, KEY=VALUE")
    made.add_argument("-m", "--multirun", action="store_true", help="the overrides are a grid")
    made.add_argument(
        "--update",
        action="store_true",
        help="ask what branches stand for now; without it, what was fetched stays",
    )
    return made


def main(argv: Sequence[str]) -> int:
    """Fetches what the cache lacks.

    Raises:
        ConfigError: A cell cannot run, or the disk is too small.
        DataError: The hub refuses something, or cannot be reached; nothing was fetched, unless
            the transfer itself failed.
    """
    arguments = parser().parse_intermixed_args(argv)
    with active.active(active.given(arguments.overrides)):
        return _prefetch(arguments.overrides, arguments.multirun, arguments.update)


def _prefetch(given: Sequence[str], multirun: bool, update: bool) -> int:
    from quantexp.application import grid_of

    sweeps = [item for item in given if item.startswith("sweep=")]
    grid = grid_of(sweeps, [item for item in given if item not in sweeps], multirun)
    configs = _read(grid.data)
    outputs = Path(configs[0].paths.outputs)
    wanted = needs(configs)
    if grid.note:
        print(f"note     {grid.note}")
    if not wanted:
        print("nothing  these cells read nothing from the hub: jobs can run offline as they are")
        return 0
    entries = _fetch(wanted, outputs, update)
    path = outputs / "prefetch" / f"{grid.name}.json"
    manifest.write(path, grid.name, without_executed(grid.given), entries)
    print(f"manifest {path.resolve()}")
    print(f"total    {readable_size(sum(e.size for e in entries))} in {cache.folder()}")
    command = " ".join([*grid.given, *(["-m"] if multirun and not sweeps else [])])
    print("offline  jobs can now run without network, where they see this cache (HF_HOME):")
    print(f"         HF_HUB_OFFLINE=1 python -m quantexp {command}")
    return 0


def _read(grid: Iterable[dict[str, object]]) -> list[ExperimentConfig]:
    """The configurations, or all reasons why they are none."""
    configs: list[ExperimentConfig] = []
    refused: dict[str, None] = {}
    for data in grid:
        try:
            configs.append(from_plain(data))
        except QuantexpError as error:
            refused[str(error)] = None
    if refused:
        raise ConfigError("\n       ".join(refused))
    return configs


def _fetch(wanted: Sequence[Need], outputs: Path, update: bool) -> list[Entry]:
    known = {} if update else manifest.read(outputs, wanted)
    listings, problems = _ask([need for need in wanted if need not in known], known)
    if problems:
        raise DataError("\n       ".join([*problems, "nothing was fetched"]))
    _room({need: listing for need, listing in listings.items() if listing is not None})
    entries = []
    for need in wanted:
        if need in known:
            found = known[need]
            _say("cached", found)
        else:
            found = _one(need, listings[need])
        entries.append(found)
    return entries


def _ask(
    unknown: Sequence[Need], known: dict[Need, Entry]
) -> tuple[dict[Need, Listing], list[str]]:
    """What the hub says of each; offline, what the cache holds is taken as it is."""
    from quantexp.calibration.hub import offline

    listings: dict[Need, Listing] = {}
    problems = []
    for need in unknown:
        if offline():
            found = _from_cache(need)
            if found is None:
                problems.append(
                    f"{need.label} is not whole in the cache {cache.folder()}, and the network is "
                    "off (HF_HUB_OFFLINE): unset it, on a machine with network"
                )
            else:
                known[need] = found
            continue
        try:
            listings[need] = remote.ask(need)
        except DataError as error:
            problems.append(str(error))
    return listings, problems


def _from_cache(need: Need) -> Entry | None:
    commit = cache.commit(need)
    if commit is None or not cache.prepared(need):
        return None
    names = cache.names(need, commit)
    there = all(cache.file(need, commit, name) for name in names)
    if not there or (need.kind == MODEL and not cache.complete(need, commit)):
        return None
    return manifest.entry(need, commit, names, record.now())


def _room(listings: dict[Need, Listing]) -> None:
    """Refuses what will not fit; sizes that the hub does not say count as nothing."""
    missing = 0
    for need, listing in listings.items():
        for name, size in listing.sizes.items():
            if cache.file(need, listing.commit, name) is None:
                missing += size or 0
    folder = cache.folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if missing and missing + _SPARE > free:
        raise ConfigError(
            f"{readable_size(missing)} are to be fetched into {folder}, which has "
            f"{readable_size(free)} free: make room, or set HF_HOME to a larger disk "
            "(that jobs see as well); nothing was fetched"
        )


def _one(need: Need, listing: Listing) -> Entry:
    def missing() -> list[str]:
        return [n for n in listing.sizes if cache.file(need, listing.commit, n) is None]

    before = missing()
    # the cache must also know what the revision stands for, or jobs do not find the files
    named = need.kind != MODEL or cache.commit(need) == listing.commit
    if before or not named or not cache.prepared(need):
        size = sum(listing.sizes[name] or 0 for name in before)
        print(f"fetching {need.label}: {len(before)} files, {readable_size(size)}", flush=True)
        remote.download(need, listing)
    after = missing()
    if after:
        raise DataError(
            f"{need.label} changed on the hub while it was fetched ({', '.join(after)} missing): "
            "run the same command again"
        )
    found = manifest.entry(need, listing.commit, listing.sizes, record.now())
    _say("fetched" if before else "cached", found)
    return found


def _say(state: str, entry: Entry) -> None:
    size = readable_size(entry.size)
    print(f"{state:<8} {entry.need.label} at {entry.commit[:12]}: {len(entry.files)} files, {size}")
