"""Writes the tables of Oban for Python, and a life as its client and a queue with one job at a time send it."""

from collections import defaultdict
from pathlib import Path

queries = Path("packages/oban/queries")


def query(name, **values):
    """The statement with these values; all other parameters are null."""
    return (queries / f"{name}.sql").read_text().strip().rstrip(";") % defaultdict(lambda: "NULL", values)


insert = query(
    "insert_job",
    args="""'{"worker": "w1"}'""",
    max_attempts="20",
    meta="'{}'",
    priority="0",
    queue="'default'",
    state="'available'",
    tags="'{}'",
    worker="'life'",
)
attempted_by = "ARRAY['node', '6e0f1e64-3c9a-4c55-9d2b-0d9a6c8a4f10']"
fetch = query("fetch_jobs", queue="'default'", demand="1", attempted_by=attempted_by)
ack = query("ack_job", state="'completed'", id=":id", attempted_at=":attempted_at")

Path("schema.sql").write_text((queries / "install.sql").read_text())
# The pool's connections are not in autocommit mode.
create = f"BEGIN;\n{insert};\nCOMMIT;\n"
Path("create.sql").write_text(create)
Path("life.sql").write_text(f"{create}BEGIN;\n{fetch} \\gset\nCOMMIT;\nBEGIN;\n{ack};\nCOMMIT;\n")
