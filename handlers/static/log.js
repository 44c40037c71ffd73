/**
 * A box that fills with what a stream brings, until it is stopped or over; a lost connection is taken up again.
 *
 * It holds the last rows only, however long it runs. What a line means is up to who uses it: lines.js, channel.js,
 * watch.js.
 */

import { byId, onPress, setEnabled, Tail } from "./elements.js";
import { asProblem, request } from "./problem.js";
import { count } from "./quantities.js";
import { pause } from "./refresh.js";

const SHOWN_ROWS = 200;
/** Characters of a line that are kept while its end has not come: an event may have 64 KiB, and more if so set. */
const LINE_LIMIT = 1_048_576;
const LONGEST_PAUSE_SECONDS = 15;

/**
 * What a log is made of; `section` has its state as `data-state`.
 *
 * @typedef {Record<"section" | "box" | "state" | "count" | "start" | "stop", HTMLElement>} LogElements
 */

/** A log of index.html. @param {string} name - the box's id, and what the ids of the other elements begin with */
export function logNamed(name) {
  const parts = ["section", "state", "count", "start", "stop"];
  return { box: byId(name), ...Object.fromEntries(parts.map((part) => [part, byId(`${name}-${part}`)])) };
}

/** A log's `over` for a stream that has no end: refused for good, it tells so in a notice. */
export function refusal(notices, key, sentence, again) {
  return (problem) => {
    if (problem.passing) return null;
    notices.show(key, `${sentence} ${problem.message}`, {
      reference: problem.instance,
      actions: [{ label: "Try again", act: again }],
    });
    return { state: "stopped", sentence: "Stopped" };
  };
}

export class Log {
  #section;
  #box;
  #tail;
  #state;
  #count;
  #start;
  #stop;
  #options;
  #total = 0;
  #run = new AbortController();

  /**
   * @param {LogElements} elements
   * @param {object} options
   * @param {(flowing: boolean) => void} options.onFlow - rows begin or cease to come
   * @param {() => boolean} [options.ready] - whether it can begin; if not, the person was told
   * @param {() => void} [options.onStart] - it begins from the top
   * @param {() => string} options.open - called for each connection: the address to read
   * @param {(lines: string[]) => unknown[]} options.read - what lines that have come bring
   * @param {(item: unknown) => HTMLElement} options.row
   * @param {() => HTMLElement} [options.rows] - what holds the rows, if it is not the box itself
   * @param {() => number} options.silenceSeconds - after which the connection counts as lost; 0: never
   * @param {() => number} options.pauseSeconds - before the first of several tries
   * @param {() => string} options.running - a sentence, while all is well
   * @param {string} options.noun - of a row, in the singular
   * @param {() => void} [options.onClear] - the box has become empty
   * @param {(problem: import("./problem.js").Problem, whole: boolean) => {state: string, sentence: string} | null}
   *   options.over - a connection has ended, its body whole or not: what is to be said; null: it is taken up again
   */
  constructor({ section, box, state, count, start, stop }, options) {
    this.#options = options;
    this.#section = section;
    this.#box = box;
    this.#tail = new Tail(box);
    this.#state = state;
    this.#count = count;
    this.#start = start;
    this.#stop = stop;
    onPress(this.#start, () => this.start());
    onPress(this.#stop, () => this.stop());
  }

  /** Whether nothing comes and nothing is waited for. */
  get stopped() {
    return !["connecting", "running", "lost"].includes(this.#section.dataset.state);
  }

  /** Begins from the top, with an empty box. */
  start() {
    if (this.#options.ready?.() === false) return;
    this.#run.abort();
    this.#run = new AbortController();
    this.#options.onStart?.();
    this.clear();
    this.#keepRunning(this.#run.signal);
  }

  /** Empties the box. */
  clear() {
    this.#box.replaceChildren();
    this.#options.onClear?.();
    this.#count.textContent = "";
    this.#tail.begin();
    this.#total = 0;
  }

  /** Ends the stream; the rows that have come stay. */
  stop() {
    this.#run.abort();
    this.#show("stopped", "Stopped");
  }

  /** Listens, again and again with a growing pause, until stopped or refused for good. */
  async #keepRunning(signal) {
    let failures = 0;
    while (!signal.aborted) {
      if (failures === 0) this.#show("connecting", "Connecting");
      const { problem, whole } = await this.#listen(signal, () => { failures = 0; });
      if (signal.aborted) return;
      const over = this.#options.over(problem, whole);
      if (over) return this.#show(over.state, over.sentence);
      const first = this.#options.pauseSeconds();
      const seconds = Math.max(first, Math.min(first * 2 ** failures, LONGEST_PAUSE_SECONDS));
      failures += 1;
      this.#show("lost", `${problem.message} Trying again in ${Math.ceil(seconds)} s.`);
      await pause(seconds, signal);
    }
  }

  /**
   * Shows rows until the connection ends, which that of an endless stream never does by itself.
   *
   * @returns {Promise<{problem: import("./problem.js").Problem, whole: boolean}>} why it ended
   */
  async #listen(signal, onFirst) {
    const silence = new Silence();
    const all = AbortSignal.any([signal, silence.signal]);
    let running = false;
    try {
      silence.begin(this.#options.silenceSeconds());
      const response = await request(this.#options.open(), { signal: all });
      // 204 is to whoever comes back and has everything.
      for await (const lines of response.body ? linesOf(response.body) : []) {
        if (signal.aborted) break;
        const items = this.#options.read(lines);
        silence.begin(this.#options.silenceSeconds());
        if (!running) this.#show("running", this.#options.running());
        if (!running) onFirst();
        running = true;
        this.#append(items);
      }
      return { problem: asProblem(null, "The server ended the stream."), whole: true };
    } catch (error) {
      return { problem: asProblem(error, running ? "Connection lost." : undefined), whole: false };
    } finally {
      silence.end();
    }
  }

  #append(items) {
    if (items.length === 0) return;
    this.#total += items.length;
    const made = items.slice(-SHOWN_ROWS).map(this.#options.row);
    const rows = this.#options.rows?.() ?? this.#box;
    rows.append(...made);
    while (rows.childElementCount > SHOWN_ROWS) rows.firstElementChild.remove();
    this.#tail.keep();
    const shown = this.#total > SHOWN_ROWS ? `last ${SHOWN_ROWS} of ` : "";
    this.#count.textContent = shown + count(this.#total, this.#options.noun);
  }

  #show(state, sentence) {
    this.#section.dataset.state = state;
    this.#state.textContent = sentence;
    setEnabled(this.#start, this.stopped);
    setEnabled(this.#stop, !this.stopped);
    this.#options.onFlow(state === "running");
  }
}

/** A signal that is aborted when nothing was heard for a time. */
class Silence {
  #controller = new AbortController();
  #timer = 0;

  get signal() {
    return this.#controller.signal;
  }

  /** Something was heard: the time begins anew. @param {number} seconds - 0: it never ends */
  begin(seconds) {
    clearTimeout(this.#timer);
    if (seconds > 0) this.#timer = setTimeout(() => this.#controller.abort(), seconds * 1000);
  }

  end() {
    clearTimeout(this.#timer);
  }
}

/**
 * The complete lines of a body as they come, without their ends; what comes together is one array.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string[]>}
 */
async function* linesOf(body) {
  // Not through a TextDecoderStream: when a body breaks off, what waits in a pipe is lost, and a stream says why
  // it failed in its last chunk.
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        if (rest) yield [rest];
        return;
      }
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
      rest = lines.pop().slice(0, LINE_LIMIT);
      if (lines.length > 0) yield lines;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
