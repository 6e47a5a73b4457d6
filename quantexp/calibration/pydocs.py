"""Text that every CPython ships: the language reference and standard-library docstrings.

The text is read from the running interpreter (``pydoc_data.topics`` and the source files of
a declared list of modules), so nothing is downloaded and nothing is stored in this package.
It therefore differs a little between Python versions; :func:`content_hash` says which text a
result was measured on.  Licence of the text: Python Software Foundation licence, version 2.
"""

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from quantexp.calibration import pydocs_cache

SPLITS = ("train", "heldout")

HELDOUT_ONE_IN = 10
"""One document in this many is held out."""

MIN_DOCUMENT_CHARS = 80
"""Shorter documents ("Return the name.") carry little context and are dropped."""

MIN_PARAGRAPH_CHARS = 30
"""Paragraphs below this many normalized characters ("For example:") may repeat."""

# Dense in prose, present on all platforms and in every supported Python; a module that some
# version lacks is skipped.  A package name stands for all modules directly inside it.
MODULES = (
    *("abc", "argparse", "ast", "asyncio", "base64", "bdb", "bz2", "calendar", "cmd", "code"),
    *("codecs", "codeop", "collections", "concurrent/futures", "configparser", "contextlib"),
    *("copy", "csv", "ctypes", "dataclasses", "datetime", "difflib", "dis", "doctest", "email"),
    *("enum", "fileinput", "fractions", "ftplib", "functools", "getopt", "gettext", "graphlib"),
    *("gzip", "heapq", "hmac", "http", "imaplib", "importlib/abc", "inspect", "ipaddress", "json"),
    *("logging", "lzma", "mimetypes", "numbers", "operator", "optparse", "os", "pathlib"),
    *("pkgutil", "platform", "poplib", "py_compile", "queue", "random", "re/__init__"),
    *("sched", "selectors", "shelve", "shutil", "site", "smtplib", "socket", "socketserver"),
    *("ssl", "statistics", "string", "subprocess", "sysconfig", "tempfile", "textwrap"),
    *("threading", "timeit", "trace", "traceback", "typing", "unittest", "urllib", "uuid"),
    *("venv", "warnings", "wave", "weakref", "wsgiref", "xml/etree", "xml/sax", "xmlrpc"),
    *("_collections_abc", "_pydatetime", "_pydecimal", "_pyio", "_strptime"),
)

# A heading of the language reference: a line underlined by punctuation.
_SECTION = re.compile(r"^(?=\S[^\n]*\n([*=\-~^\"])\1{2,}\n)", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n\s*\n")
_NOT_WORD = re.compile(r"[\W_]+")


def _normalized(text: str) -> str:
    """Words only, lower case: markup and line breaks do not make two texts different."""
    return _NOT_WORD.sub(" ", text).strip().casefold()


def _topics() -> Iterator[str]:
    """Yield the sections of the language reference that ``help()`` shows, by topic name."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield from _SECTION.split(topics[name])[::2]


def _source_files() -> Iterator[Path]:
    """Yield the source files of :data:`MODULES` in their declared order."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    for module in MODULES:
        if (stdlib / module).is_dir():
            yield from sorted((stdlib / module).glob("*.py"))
        elif (stdlib / f"{module}.py").is_file():
            yield stdlib / f"{module}.py"


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Yield the docstrings at and below ``node``, in source order."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield ast.get_docstring(node) or ""
        # Functions nested in functions are private helpers: not worth the walk.
        if isinstance(node, ast.Module | ast.ClassDef):
            for child in node.body:
                yield from _docstrings(child)


def _raw_documents() -> Iterator[str]:
    yield from _topics()
    for path in _source_files():
        yield from _docstrings(ast.parse(path.read_bytes()))


def _deduplicated(raw: Iterable[str]) -> Iterator[str]:
    """Drop every paragraph and every document seen before (compared by normalized text)."""
    seen: set[str] = set()
    for document in raw:
        kept = []
        for paragraph in _PARAGRAPH.split(document.expandtabs().strip()):
            key = _normalized(paragraph)
            if len(key) >= MIN_PARAGRAPH_CHARS:
                if key in seen:
                    continue
                seen.add(key)
            kept.append(paragraph.rstrip())
        text = "\n\n".join(kept).strip("\n")
        key = _normalized(text)
        # The prefix keeps one-paragraph documents apart from the paragraph just recorded.
        if len(text) >= MIN_DOCUMENT_CHARS and f"document {key}" not in seen:
            seen.add(f"document {key}")
            yield text


def _is_heldout(document: str) -> bool:
    """Decide by the opening paragraph alone: later edits then do not move a document."""
    opening = _normalized(_PARAGRAPH.split(document, maxsplit=1)[0])
    digest = hashlib.sha256(opening.encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELDOUT_ONE_IN == 0


@lru_cache(maxsize=1)
def _by_split() -> MappingProxyType[str, tuple[str, ...]]:
    found = pydocs_cache.kept(_decisive(), _read)
    return MappingProxyType({split: tuple(found[split]) for split in SPLITS})


def _read() -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for document in _deduplicated(_raw_documents()):
        parts["heldout" if _is_heldout(document) else "train"].append(document)
    return parts


def _decisive() -> Iterator[Path]:
    """All files that decide the documents: what is read, and how."""
    from pydoc_data import topics

    yield Path(__file__)
    yield Path(str(topics.__file__))
    yield from _source_files()


def documents(split: str) -> list[str]:
    """Return the documents of one split, in a fixed order.

    Documents are sections of the language reference and single docstrings.  They are
    deduplicated before the split, so no paragraph of the held-out text is in the train text.

    Args:
        split: ``"train"`` (about 90 % of the documents) or ``"heldout"`` (the others).

    Returns:
        The documents, each at least :data:`MIN_DOCUMENT_CHARS` characters long.

    Raises:
        ValueError: If ``split`` is neither.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")
    return list(_by_split()[split])


def text(split: str) -> str:
    """Return the documents of one split joined by empty lines.

    Args:
        split: As for :func:`documents`.

    Raises:
        ValueError: If ``split`` is unknown.
    """
    return "\n\n".join(documents(split))


def content_hash() -> str:
    """Return the SHA-256 (hex) of all documents of both splits.

    Two interpreters with the same value have the same text in the same order.
    """
    digest = hashlib.sha256()
    for split in SPLITS:
        for document in documents(split):
            digest.update(document.encode() + b"\0")
    return digest.hexdigest()
