// States, times and durations as text.

const STATES = ["queued", "running", "success", "failed", "retrying", "upstream_failed", "skipped"];
const ENDS = new Set(["success", "failed", "skipped", "upstream_failed"]);
const MINUS = "–";

const words = (state) => (state ?? "deleted").replace("_", " ");

/** 2026-11-24 08:05:09 */
const stamp = (iso) => iso.slice(0, 19).replace("T", " ");
/** 2026-11-24 08:05, or with seconds if they are not 0 */
const minute = (iso) => stamp(iso).replace(/:00$/, "");
const local = (iso) => new Date(iso).toLocaleString(undefined, { timeZoneName: "short" });
const seconds = (from, to = null) => ((to ? Date.parse(to) : Date.now()) - Date.parse(from)) / 1000;

function duration(s) {
  if (s < 0.9995) return `${Math.max(0, Math.round(s * 1000))} ms`;
  if (s < 59.95) return `${s.toFixed(1).replace(/\.0$/, "")} s`;
  const two = (number) => String(number).padStart(2, "0");
  const [whole, minutes, hours] = [Math.round(s), Math.floor(Math.round(s) / 60), Math.floor(s / 3600)];
  if (minutes < 60) return `${minutes} min ${two(whole % 60)} s`;
  return hours < 48 ? `${hours} h ${two(minutes % 60)} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Seconds from start to end, or until now while running; null before the start. */
const elapsed = (row) => (row.start_date ? Math.max(0, seconds(row.start_date, row.end_date)) : null);
