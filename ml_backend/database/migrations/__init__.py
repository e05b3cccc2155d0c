"""The migrations of the database, run by Alembic.

``versions/`` holds a module for each layout; its revision is the layout's number with four digits. To change the
tables, edit ``tables.py``, write the module of the next layout, and raise :data:`~ml_backend.database.layout.LAYOUT`.
Tests compare the migrated database with the tables. A migration imports nothing of this package, since tables move on.
"""
