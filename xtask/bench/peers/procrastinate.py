"""Writes the tables of Procrastinate, and a life as its psycopg connector sends it."""

import re
from pathlib import Path

sql = Path("packages/procrastinate/sql")
# -- name --, a comment, and the query
parts = re.split(r"^-- (\w+) --$", (sql / "queries.sql").read_text(), flags=re.MULTILINE)
queries = {name: query.strip().rstrip(";") for name, query in zip(parts[1::2], parts[2::2])}

job = """ARRAY[ROW('default', 'life', 0, NULL, NULL, '{"worker": "w1"}', NULL)]"""
defer = queries["defer_jobs"] % {"jobs": job}
fetch = queries["fetch_job"] % {"queues": "NULL", "worker_id": "1"}
finish = queries["finish_job"] % {"job_id": ":id", "status": "'succeeded'", "delete_job": "false"}

Path("schema.sql").write_text(f"{(sql / 'schema.sql').read_text()}\n{queries['register_worker']};\n")
# The pool's connections are not in autocommit mode.
create = f"BEGIN;\n{defer};\nCOMMIT;\n"
Path("create.sql").write_text(create)
Path("life.sql").write_text(f"{create}BEGIN;\n{fetch} \\gset\nCOMMIT;\nBEGIN;\n{finish};\nCOMMIT;\n")
