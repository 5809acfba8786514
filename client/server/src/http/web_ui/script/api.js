// Requests to the API.

/** A failed request. Status 0: no complete response; null: an error of the page. */
class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** The message for users, with a hint. */
  get words() {
    if (this.status === null) return `Page error: ${this.message}. Try reloading.`;
    if (this.status === 0) return "Cannot reach the server. Check that workflow-server is running and that this machine is online.";
    if (this.status === 503) return `Server unavailable: ${this.message}.`;
    if (this.status === 404) return `Not found: ${this.message}. It might have been deleted.`;
    if (this.status === 400) return `Invalid address: ${this.message}.`;
    return `Server error ${this.status}: ${this.message}. See the log of workflow-server.`;
  }
}

/** Sends a request. Paths are relative: a proxy can serve the page below a path of its own. */
async function request(path, parameters, signal, headers = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value));
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(`api/v1/${path}?${query}`, { headers, signal, cache: "no-store" });
    if (response.ok) return response;
  } catch {
    throw new Problem(0, "no response");
  }
  const body = await response.json().catch(() => ({}));
  throw new Problem(response.status, body.error?.message ?? response.statusText);
}

async function get(path, parameters, signal) {
  const response = await request(path, parameters, signal);
  return response.json().catch(() => {
    throw new Problem(0, "incomplete response");
  });
}

/** Fetches all pages of a list. */
async function all(path, parameters, signal) {
  const items = [];
  let cursor = null;
  do {
    const page = await get(path, { ...parameters, limit: 1000, cursor }, signal);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor);
  return items;
}

const RUN = "id,dag_id,execution_date,state,version,start_date,end_date";
const TASK = "id,dag_run_id,task_id,state,version,try_number,max_tries,start_date,end_date";

/** Fetches the tasks of a run in the order of creation, which is the order in the DAG. */
const tasksOf = (run, signal) => all("task-instances", { dag_run_id: run, order_by: "id", fields: TASK }, signal);

/** For rows that might have been deleted. */
function nullIfGone(problem) {
  if (problem.status === 404) return null;
  throw problem;
}

const dagNames = new Map();
async function dagName(id, signal) {
  if (!dagNames.has(id)) dagNames.set(id, (await get(`dags/${id}`, {}, signal)).name);
  return dagNames.get(id);
}
