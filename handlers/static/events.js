/**
 * Server-sent events, whatever their names are (HTML Living Standard §9.2.6).
 *
 * An EventSource gives an event only to who listens for its name, and a channel's publisher may use any; nor does
 * it tell of heartbeats, or when it will try again. So the page reads them by `fetch`, and goes on as one would.
 */

/** Silence that is nothing to worry about, when a server's heartbeats are closer together. */
const LEAST_SILENCE_SECONDS = 45;

/**
 * @typedef {object} StreamEvent
 * @property {string} name - empty for a plain message
 * @property {string} id
 * @property {string} data
 */

export class Events {
  /** What to say that was seen last; empty: nothing was. */
  lastId = "";
  /** Before a connection that was lost is taken up again; the server may say another time. */
  pauseSeconds = 3;
  /** Silence after which the connection counts as lost; 0: no heartbeat has come yet, so none may be sent. */
  silenceSeconds = 0;
  #id = "";
  #name = "";
  #data = [];
  #heardAt = 0;

  /** A connection begins: what the one before it left half is dropped. */
  begin() {
    this.#id = this.lastId;
    this.#name = "";
    this.#data = [];
    this.#heardAt = performance.now();
  }

  /** @param {string[]} lines @returns {StreamEvent[]} the events that these lines complete */
  read(lines) {
    const events = [];
    for (const line of lines) {
      if (line === "") this.#complete(events);
      else if (line.startsWith(":")) this.#heartbeat();
      else this.#field(...split(line));
    }
    this.#heardAt = performance.now();
    return events;
  }

  #complete(events) {
    this.lastId = this.#id;
    if (this.#data.length > 0) events.push({ name: this.#name, id: this.#id, data: this.#data.join("\n") });
    this.#name = "";
    this.#data = [];
  }

  #field(name, value) {
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#name = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.pauseSeconds = Number(value) / 1000;
  }

  /** One comes when nothing else did for a time, so the time before it is the one between two. */
  #heartbeat() {
    const quiet = (performance.now() - this.#heardAt) / 1000;
    this.silenceSeconds = Math.max(this.silenceSeconds, 3 * quiet, LEAST_SILENCE_SECONDS);
  }
}

/** @returns {[string, string]} name and value of a field */
function split(line) {
  const colon = line.indexOf(":");
  if (colon < 0) return [line, ""];
  return [line.slice(0, colon), line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1)];
}
