// The event stream of the API.

/** Yields the messages of an event stream, which never ends normally. (EventSource cannot send the token.) */
async function* messages(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, id, data] = ["", null, []];
  for (;;) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) throw new Problem(0, "event stream ended");
    heard();
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((text) => text.replace(/\r$/, ""))) {
      const [, field, content] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "id") id = content;
      if (field === "data") data.push(content);
      if (line === "") {
        yield { id, data: data.join("\n") };
        data = [];
      }
    }
  }
}

/** Milliseconds without a heartbeat after which a stream is dead, whatever TCP reports. */
const SILENCE = 60_000;

/** Passes the messages of a stream to `take`, and fails if it ends or falls silent. */
async function read(body, attempt, take) {
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => attempt.abort(), SILENCE);
  };
  heard();
  try {
    for await (const { id, data } of messages(body, heard)) take(id, data && JSON.parse(data));
  } finally {
    clearTimeout(timer);
  }
}

/** Collects events and applies them once per frame; once per second in a background tab, which has no frames. */
class EventQueue {
  constructor(apply) {
    Object.assign(this, { apply, events: [], isOpen: false, scheduled: false });
  }

  add(event) {
    this.events.push(event);
    this.schedule();
  }

  open() {
    this.isOpen = true;
    this.schedule();
  }

  /** Applies the rest: the next attempt resumes after it. */
  close() {
    if (this.isOpen) this.apply(this.events.splice(0));
    this.isOpen = false;
  }

  schedule() {
    if (this.scheduled || !this.isOpen || !this.events.length) return;
    this.scheduled = true;
    const flush = () => {
      this.scheduled = false;
      if (this.isOpen) this.apply(this.events.splice(0));
    };
    if (document.hidden) setTimeout(flush, 1000);
    else requestAnimationFrame(flush);
  }
}
