"""From older layouts of the database to today's."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

SCHEMA_VERSION = 6


def _add_processing_to_events(connection: Connection) -> None:
    # Events of the older layout were only kept: they are processed now.
    connection.exec_driver_sql("ALTER TABLE events ADD COLUMN processed_at DATETIME")
    connection.exec_driver_sql("ALTER TABLE events ADD COLUMN error TEXT")
    connection.exec_driver_sql("CREATE INDEX ix_events_processed_at ON events (processed_at)")


def _add_lineage_to_prompt_versions(connection: Connection) -> None:
    for column in (
        "digest VARCHAR NOT NULL DEFAULT ''",
        "model VARCHAR NOT NULL DEFAULT ''",
        "origin VARCHAR NOT NULL DEFAULT 'refined'",
        "refinement_id INTEGER REFERENCES refinements (id)",
        "data JSON NOT NULL DEFAULT '[]'",
        "curve JSON NOT NULL DEFAULT '[]'",
    ):
        connection.exec_driver_sql(f"ALTER TABLE prompt_versions ADD COLUMN {column}")
    connection.exec_driver_sql("ALTER TABLE proposals ADD COLUMN margin FLOAT")


def _add_training_to_projects(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE projects ADD COLUMN min_annotations INTEGER")
    connection.exec_driver_sql("ALTER TABLE projects ADD COLUMN repredicted VARCHAR")


def _add_subject_to_jobs(connection: Connection) -> None:
    for column in (
        "expression TEXT",
        "version VARCHAR",
        "frames INTEGER",
        "message TEXT NOT NULL DEFAULT ''",
    ):
        connection.exec_driver_sql(f"ALTER TABLE jobs ADD COLUMN {column}")


def _add_dispatching_to_events(connection: Connection) -> None:
    # What earlier layouts kept was dispatched before it was stored.
    connection.exec_driver_sql("ALTER TABLE events ADD COLUMN dispatched_at DATETIME")
    connection.exec_driver_sql("UPDATE events SET dispatched_at = received_at")
    connection.exec_driver_sql("CREATE INDEX ix_events_dispatched_at ON events (dispatched_at)")


# Upgrades from one layout to the next: `UPGRADES[n]` brings version n to n + 1. New tables need none.
UPGRADES: dict[int, Callable[[Connection], None]] = {
    1: _add_processing_to_events,
    2: _add_lineage_to_prompt_versions,
    3: _add_training_to_projects,
    4: _add_subject_to_jobs,
    5: _add_dispatching_to_events,
}
