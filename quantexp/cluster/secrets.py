"""Finds what looks like a password, token or key in a text that is about to be stored."""

import os
import re
from collections.abc import Mapping

# Kind → what it looks like. A bare number of 40 hexadecimal digits is a commit; next to a word
# such as key it is an older W&B key.
_PATTERNS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "a W&B key": r"\bwandb_v1_\w{20,}|(?i:wandb|key|token|secret)\W[^\n]{0,40}?\b[0-9a-f]{40}\b",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|(?i:aws_?secret)[^\n]{0,40}?[A-Za-z0-9/+=]{40}",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password": r"(?i:passw(?:or)?d|secret|token|api_?key)['\"]?\s*[:=]\s*['\"][^'\"\s]{8,}['\"]",
}
_NAMES = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|CREDENTIAL")
_SHORTEST = 12  # characters: shorter values of the environment are words


def find(text: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The kinds of secrets that a text seems to hold, never the secrets.

    Args:
        text: For example a diff.
        environment: Values of its variables that are named like secrets count as such.
    """
    found = [kind for kind, pattern in _PATTERNS.items() if re.search(pattern, text)]
    found += [
        f"the value of ${name}"
        for name, value in environment.items()
        if _NAMES.search(name.upper()) and len(value) >= _SHORTEST and value in text
    ]
    return found
