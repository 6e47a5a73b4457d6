"""The corpora of the papers, as data: where their files are and how windows are taken from them.

Every file is pinned by repository and commit. The commits are those that public projects pin as
well; what is inside them could not be looked at where this table was written (no network), so
file names and columns are as those projects use them:

- ``Salesforce/wikitext``: commit and both parquet files seen pinned together, column ``text``.
- ``allenai/c4``: commit seen pinned together with the files ``en/c4-*.json.gz``, key ``text``.
- ``mit-han-lab/pile-val-backup``: commit and ``val.jsonl.zst`` seen; key ``text`` is AWQ's.
- ``roneneldan/TinyStories``: commit and parquet files seen pinned together, column ``text``.

Penn Treebank has no parquet files under a commit that could be confirmed, so it is no entry here:
``data=ptb`` reads a file that the user fetched, identified by its content.
"""

from dataclasses import dataclass

from quantexp.errors import ConfigError
from quantexp.values import one_of

SAMPLING_VERSION = 1  # raised whenever the same file may give other windows

BLANK_LINE, SPACE, BOS = "blank_line", "space", "bos"
JOINS = (BLANK_LINE, SPACE, BOS)

TEXT, DOCUMENTS, LEADING = "text", "documents", "leading"


@dataclass(frozen=True)
class Part:
    """One split of a corpus.

    Attributes:
        file: Path within the repository.
        sampling: ``text``: documents are joined and tokenized once, windows are drawn or cut from
            the whole. ``documents``: each window is drawn from a random document that is long
            enough (GPTQ's way with C4). ``leading``: the first tokens of shuffled documents.
        join: Between documents: ``blank_line``, ``space``, or ``bos`` (each begins with a BOS).
        documents: Only so many of the first documents; ``None``: all.
        strip: White space around each document is removed.
        windows: A test set has at most so many windows; ``None``: all that fit.
        shuffle_seed: Of ``leading``.
    """

    file: str
    sampling: str = TEXT
    join: str = BLANK_LINE
    documents: int | None = None
    strip: bool = False
    windows: int | None = None
    shuffle_seed: int | None = None


@dataclass(frozen=True)
class HubCorpus:
    """A corpus on the Hugging Face hub.

    Attributes:
        repo: Dataset repository.
        revision: Commit, 40 hexadecimal digits.
        train: What calibration reads.
        heldout: What perplexity is measured on; ``None``: not meant for that.
        field: Column or key of the text.
    """

    repo: str
    revision: str
    train: Part
    heldout: Part | None
    field: str = "text"


def _wikitext(train: Part) -> HubCorpus:
    return HubCorpus(
        repo="Salesforce/wikitext",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
        train=train,
        heldout=Part("wikitext-2-raw-v1/test-00000-of-00001.parquet"),
    )


def _c4(heldout: Part) -> HubCorpus:
    return HubCorpus(
        repo="allenai/c4",
        revision="1588ec454efa1a09f29cd18ddd04fe05fc8653a2",
        train=Part("en/c4-train.00000-of-01024.json.gz", DOCUMENTS),
        heldout=heldout,
    )


def _pile(train: Part) -> HubCorpus:
    return HubCorpus(
        repo="mit-han-lab/pile-val-backup",
        revision="2f5e46ae6a69cf0dce4b12f78241c408936ca0e4",
        train=train,
        heldout=None,  # one file, which calibration reads
    )


_WIKITEXT_TRAIN = "wikitext-2-raw-v1/train-00000-of-00001.parquet"
_C4_VALIDATION = "en/c4-validation.00000-of-00008.json.gz"

HUB = {
    # GPTQ and its descendants: rows as they are, joined by a blank line.
    "wikitext2": _wikitext(Part(_WIKITEXT_TRAIN)),
    # FlatQuant strips the rows. Its code means to drop empty ones as well, but the filter counts
    # the columns of a row, not the characters of its text, so all of them stay.
    "wikitext2_flatquant": _wikitext(Part(_WIKITEXT_TRAIN, strip=True)),
    # "new": GPTQ --new-eval, QuaRot, FlatQuant.
    "c4": _c4(Part(_C4_VALIDATION, join=SPACE, documents=1100, windows=256)),
    # "old": GPTQ, OmniQuant, AffineQuant. Windows are drawn with seed 0.
    "c4_old": _c4(Part(_C4_VALIDATION, DOCUMENTS, windows=256)),
    # FlatQuant: the first 1000 documents.
    "pile": _pile(Part("val.jsonl.zst", documents=1000)),
    # SmoothQuant: the first 512 tokens of documents in shuffled order.
    "pile_smoothquant": _pile(Part("val.jsonl.zst", LEADING, shuffle_seed=42)),
    "tinystories": HubCorpus(
        repo="roneneldan/TinyStories",
        revision="f54c09fd23315a6f9c86f9dc80f725de7d8f9c64",
        # one of four files, and not all of it: a calibration set needs no more
        train=Part(
            "data/train-00000-of-00004-2d5a1467fff1081b.parquet", join=BOS, documents=20_000
        ),
        heldout=Part("data/validation-00000-of-00001-869c898b519ad725.parquet", join=BOS),
    ),
}

NAMES = ("pydocs", *HUB)


def check(
    where: str, corpus: str | None, path: str | None, join: str | None, field: str | None
) -> None:
    """Refuses what names no text, or two.

    Args:
        where: The configuration's key, for messages.
        corpus: Name of a corpus.
        path: A user's file.
        join: Of a user's file.
        field: Of a user's file.

    Raises:
        ConfigError: With the value, what is allowed and the fix.
    """
    if (corpus is None) == (path is None):
        raise ConfigError(
            f"{where} needs either a corpus ({', '.join(NAMES)}) or a path (FILE.txt, FILE.jsonl, "
            f"FILE.parquet or token windows in FILE.json), got corpus={corpus} path={path}"
        )
    if corpus is not None:
        one_of(f"{where}.corpus", corpus, NAMES)
    if join is not None:
        one_of(f"{where}.join", join, JOINS)
    if corpus is not None and (join or field):
        raise ConfigError(
            f"{where}: join={join} field={field} are for a user's file; corpus={corpus} has its "
            "own: leave them out"
        )
