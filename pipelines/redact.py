"""Secrets out of everything that is saved: run records, MLflow, reports, error texts."""

import itertools
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

MASK = "***"

# As whole words of a key, so that `max_tokens` and `tokenizer` stay readable and `hf_token` does not.
_SECRET_WORDS = frozenset(
    {"token", "secret", "secrets", "password", "passwd", "passphrase", "pwd", "credential", "credentials"}
    | {"apikey", "auth", "authorization", "bearer", "cookie", "signature", "sas"}
)
_KEY_KINDS = frozenset({"api", "access", "secret", "private", "account", "shared", "encryption", "signing"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# Every repetition has a bound: without one, a megabyte of letters takes minutes.
_SECRET_NAME = (
    r"(?:[\w.-]{0,64}(?:token|secret|passw(?:or)?d|passphrase|pwd|credentials?|api[_-]?key|access[_-]?key"
    r"|account[_-]?key|signature)|[\w-]{0,64}[_-]auth|auth|sig|sas|code|key)"
)
_USER_INFO = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]{0,40}://)[^/?#\s]*@")
_QUERY = re.compile(rf"(?P<name>[?&;]{_SECRET_NAME}=)[^&#\s'\"]+", re.IGNORECASE)
_ASSIGNMENT = re.compile(
    r"(?P<name>\b[\w.-]{0,64}(?:(?<![a-z])token|secret|passw(?:or)?d|api[_-]?key|access[_-]?key)"
    r"['\"]?\s*[=:]\s*['\"]?)(?!\$\{)[^&\s'\",]+",
    re.IGNORECASE,
)
_WELL_KNOWN = re.compile(
    r"\bsk-[\w-]{16,}|\bhf_[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bxox[abpr]-[\w-]{10,}|(?<=\bBearer )[\w.~+/-]+=*"
)
# Names of secrets, not secrets: `${oc.env:HF_TOKEN}` and OPENAI_API_KEY are what a config should hold.
_REFERENCE = re.compile(r"\$\{[^},]*\}|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")


def redact(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `config` without secrets, fit to be saved.

    Masked: every value whose key looks secret, `user:password@` in URIs, secrets in query strings and in
    `name=value` texts, and tokens of well-known shapes. Names of environment variables stay.
    """
    return {str(key): _redact(str(key), value) for key, value in config.items()}


def redact_text(text: str) -> str:
    """`text` with the secrets masked that can be recognised without a key."""
    text = _USER_INFO.sub(rf"\g<scheme>{MASK}@", text)
    text = _QUERY.sub(rf"\g<name>{MASK}", text)
    text = _ASSIGNMENT.sub(rf"\g<name>{MASK}", text)
    return _WELL_KNOWN.sub(MASK, text)


def looks_secret(key: str) -> bool:
    """Whether a value under this key has to be masked."""
    words = [word.lower() for word in _WORD.findall(key)]
    pairs = itertools.pairwise(words)
    named_key = any(kind in _KEY_KINDS and word in ("key", "keys") for kind, word in pairs)
    return named_key or (not _SECRET_WORDS.isdisjoint(words) and words[-1:] != ["id"])


def _redact(key: str, value: Any) -> Any:
    if looks_secret(key) and not _is_harmless(value):
        return MASK
    match value:
        case Mapping():
            return redact(value)
        case list() | tuple():
            return [_redact("", item) for item in value]
        case str() | PurePath():
            return redact_text(str(value))
        case _:
            return value


def _is_harmless(value: Any) -> bool:
    if isinstance(value, str):
        return not value or _REFERENCE.fullmatch(value) is not None
    return value is None or isinstance(value, bool)
