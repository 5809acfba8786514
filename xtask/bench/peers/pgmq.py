"""Writes the tables of pgmq, and a life as its Python client sends it: send(), read() and archive()."""

import sys
from pathlib import Path

sys.path.append("packages/pgmq")
# Not as pgmq._sql: the package itself imports a driver.
import _sql  # noqa: E402

queue = "'life'"
send = _sql.SEND % (queue, """'{"worker": "w1"}'""")
read = _sql.READ % (queue, 30, 1)
archive = _sql.ARCHIVE % (queue, ":msg_id")

schema = Path("packages/pgmq/sql/pgmq.sql").read_text()
Path("schema.sql").write_text(f"{schema}\n{_sql.CREATE_QUEUE % queue}\n")
# The pool's connections are not in autocommit mode.
create = f"BEGIN;\n{send}\nCOMMIT;\n"
Path("create.sql").write_text(create)
Path("life.sql").write_text(
    f"{create}BEGIN;\n{read.rstrip(';')} \\gset\nCOMMIT;\nBEGIN;\n{archive}\nCOMMIT;\n"
)
