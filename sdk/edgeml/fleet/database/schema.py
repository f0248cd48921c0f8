"""The tables of the fleet's database. A change here needs a migration, which a test compares with this module.

Messages of devices stand in the tables as they were sent, in JSON, with columns for the fields that queries select by.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, LargeBinary, MetaData, Table, Text

METADATA: Final = MetaData()
#: A name that ranges select by: in the order of its characters' numbers, as in Python, in every locale of a server.
NAME: Final = Text().with_variant(Text(collation="C"), "postgresql")

#: The hosts that serve the fleet, with the time of their last sign of life in seconds since 1970. `lock` is the number
#: of the advisory lock that a living host holds in PostgreSQL.
HOST: Final = Table(
    "host",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("seen_s", Double, nullable=False),
    Column("is_leader", Boolean, nullable=False),
    Column("lock", BigInteger, nullable=False),
)
#: One row: the number of the present leader's term, and the name of the session with the broker.
LEADER: Final = Table(
    "leader",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("term", BigInteger, nullable=False),
    Column("session", Text, nullable=False),
)
#: The last state of each device. `states` and `reports` count its changes in the history.
DEVICE: Final = Table(
    "device",
    METADATA,
    Column("id", NAME, primary_key=True),
    Column("seen_s", Double, nullable=False),
    Column("state", LargeBinary),
    Column("states", BigInteger, nullable=False),
    Column("reports", BigInteger, nullable=False),
)
#: The last report of each device about each deployment.
REPORT: Final = Table(
    "report",
    METADATA,
    Column("deployment", Text, primary_key=True),
    Column("device", NAME, primary_key=True),
    Column("seen_s", Double, nullable=False),
    Column("state", Text, nullable=False),
    Column("report", LargeBinary, nullable=False),
    Index("report_by_device", "device"),
    Index("report_by_state", "deployment", "state"),
)
#: The last changes of each device: change `number` overwrites the one that has its slot, so the table is bounded.
HISTORY: Final = Table(
    "history",
    METADATA,
    Column("device", NAME, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("seen_s", Double, nullable=False),
    Column("message", LargeBinary, nullable=False),
)
#: Rollouts, by the id of their deployment; a later one has a larger number. The controller looks at the open ones.
ROLLOUT: Final = Table(
    "rollout",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("rollout", LargeBinary, nullable=False),
    Index("rollout_by_number", "number", unique=True),
)
#: Conditions of devices and rollouts that rules have answered, by `Condition.key`.
CONDITION: Final = Table(
    "condition",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
#: Notices that wait for a target, the oldest with the least number.
NOTICE: Final = Table(
    "notice",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("target", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
#: Accounts of the dashboard. `secret` is a password's argon2 hash, or the SHA-256 of a token. Those of kind `token`
#: are found by it. `expires_s` is in seconds since 1970; 0 is never.
ACCOUNT: Final = Table(
    "account",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("made_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False),
    Index("account_by_secret", "secret", unique=True),
)
#: Sessions of browsers, each by the SHA-256 of its cookie. `csrf` is the token that its forms send.
SESSION: Final = Table(
    "session",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("csrf", Text, nullable=False),
    Column("began_s", Double, nullable=False),
    Column("seen_s", Double, nullable=False),
    Index("session_by_account", "account"),
)
