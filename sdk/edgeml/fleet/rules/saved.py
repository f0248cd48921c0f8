"""The rules of a repository, in a file there. Without a file the default rules hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from edgeml.fleet.rules.answers import DEFAULT_RULES, POSSIBLE, SILENT_AFTER_S, Action, Event, EventRule, Rules
from edgeml.repository import RepositoryFolder
from edgeml_core import decoding
from edgeml_core.errors import UsageError
from edgeml_io import files

RULES_FILE: Final = "rules.json"
#: Seconds without a connection that count as silence, at least: an agent restarts within them.
SILENT_AFTER_MIN_S: Final = 60.0


def saved(repository: RepositoryFolder) -> Rules:
    """Return the rules by event.

    Raises:
        UsageError: `repo-invalid`, when their file can't be read.
    """
    path = repository.folder / RULES_FILE
    try:
        return decoding.from_json(path.read_bytes(), dict[Event, EventRule]) if path.exists() else DEFAULT_RULES
    except (OSError, msgspec.MsgspecError) as error:
        hint = "restore the file, or remove it for the default rules"
        raise UsageError("repo-invalid", f"{path} can't be read: {error}", hint) from error


def save(
    repository: RepositoryFolder,
    event: Event,
    actions: Sequence[Action],
    *,
    after_s: float | None = None,
    now: datetime,
) -> Rules:
    """Set the rule for an event; without actions, remove it. The audit log has it.

    Args:
        repository: opened.
        event: which the rule answers.
        actions: its answers.
        after_s: seconds without a connection, for `silent`; None is a day.
        now: the time of the entry in the audit log.

    Returns:
        All rules.

    Raises:
        UsageError: `usage`, for an action or time that the event doesn't have; `repo-invalid`.
    """
    if wrong := [it for it in actions if it not in POSSIBLE[event]]:
        possible = ", ".join(POSSIBLE[event])
        raise UsageError("usage", f"the event {event} can't be answered by {wrong[0]}", f"use {possible}")
    if after_s is not None and (event is not Event.SILENT or after_s < SILENT_AFTER_MIN_S):
        message = f"a time of {after_s:g} s for the event {event}"
        raise UsageError("usage", message, f"give a time for silent alone, of at least {SILENT_AFTER_MIN_S:g} s")
    with repository.locked():
        rules = dict(saved(repository))
        rules.pop(event, None)
        if actions:
            rules[event] = EventRule(actions=tuple(dict.fromkeys(actions)), after_s=after_s or SILENT_AFTER_S)
        repository.audit.append(
            "set rule" if actions else "remove rule", event, {"actions": ",".join(actions)}, now=now
        )
        files.write(repository.folder / RULES_FILE, msgspec.json.encode(rules, order="sorted"))
    return rules
