"""Run by Alembic: migrates over the connection, and within the transaction, that it is handed."""

from alembic import context

from ml_backend.database.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
