"""Writes the tables of Absurd, and a life by its functions as its Python SDK calls them."""

import sys
from pathlib import Path

sys.path.append("packages")
from absurdctl import BUNDLED_SCHEMA_SQL  # noqa: E402

Path("schema.sql").write_text(f"{BUNDLED_SCHEMA_SQL}\nSELECT absurd.create_queue('life');\n")
# Its connection is in autocommit mode.
create = """\
SELECT task_id, run_id, attempt
FROM absurd.spawn_task('life', 'life', '{"worker": "w1"}', '{"max_attempts": 5}');
"""
Path("create.sql").write_text(create)
Path("life.sql").write_text(
    create
    + """\
SELECT run_id, task_id, attempt, task_name, params, retry_strategy, max_attempts, headers, wake_event, event_payload
FROM absurd.claim_task('life', 'worker', 120, 1) \\gset
SELECT absurd.complete_run('life', :run_id, 'null');
"""
)
