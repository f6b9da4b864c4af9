"""The standard list filter of Vertex AI, with the fields that listing custom jobs supports."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from tests.loopback.vertex_rules import invalid

TOKEN = re.compile(r'\s*(\(|\)|!=|<=|>=|=|<|>|:|"(?:[^"\\]|\\.)*"|[^\s()=!<>:"]+)')


def matches(job: Any, text: str) -> bool:
    """Whether a job is of those that the filter asks for."""
    if not text.strip():
        return True
    tokens = tokenised(text)
    answer = _either(tokens, job)
    if tokens:
        invalid(f"Invalid filter: {text}")
    return answer


def tokenised(text: str) -> list[str]:
    tokens, place = [], 0
    while place < len(text.rstrip()):
        found = TOKEN.match(text, place)
        if not found:
            invalid(f"Invalid filter: {text}")
        tokens.append(found[1])
        place = found.end()
    return tokens


def _either(tokens: list[str], job: Any) -> bool:
    answer = _all(tokens, job)
    while tokens and tokens[0] == "OR":
        tokens.pop(0)
        answer = _all(tokens, job) or answer
    return answer


def _all(tokens: list[str], job: Any) -> bool:
    answer = _one(tokens, job)
    while tokens and tokens[0] == "AND":
        tokens.pop(0)
        answer = _one(tokens, job) and answer
    return answer


def _one(tokens: list[str], job: Any) -> bool:
    if not tokens:
        invalid("Invalid filter: it ends too early")
    if tokens[0] == "NOT":
        tokens.pop(0)
        return not _one(tokens, job)
    if tokens[0] == "(":
        tokens.pop(0)
        answer = _either(tokens, job)
        if not tokens or tokens.pop(0) != ")":
            invalid("Invalid filter: ) is missing")
        return answer
    if len(tokens) < 3:
        invalid(f"Invalid filter at {tokens}")
    field, sign, value = (tokens.pop(0) for _ in range(3))
    return _compare(job, field, sign, value.strip('"'))


def _compare(job: Any, field: str, sign: str, value: str) -> bool:
    if field.startswith("labels."):
        key = field.removeprefix("labels.")
        if sign == ":" and value == "*":
            return key in job.labels
        given: str | None = job.labels.get(key)
    elif field == "display_name":
        if sign == ":":
            return fnmatch.fnmatchcase(job.display_name, value)
        given = job.display_name
    elif field == "state":
        given = job.state.name
    elif field == "create_time":
        given = job.create_time.strftime("%Y-%m-%dT%H:%M:%SZ")
        if sign in ("<", "<=", ">", ">="):
            return bool({"<": given < value, "<=": given <= value, ">": given > value, ">=": given >= value}[sign])
    else:
        invalid(f"Invalid filter: unsupported field {field}")
    if sign not in ("=", "!="):
        invalid(f"Invalid filter: {field} does not support {sign}")
    return (given == value) == (sign == "=")
