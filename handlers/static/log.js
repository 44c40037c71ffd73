/**
 * A box that fills with what an endless stream brings, until it is stopped; a lost connection is taken up again.
 *
 * It holds the last rows only, however long it runs. What a line means is up to who uses it: lines.js, channel.js.
 */

import { byId, onPress, setEnabled, Tail } from "./elements.js";
import { asProblem, request } from "./problem.js";
import { count } from "./quantities.js";

const SHOWN_ROWS = 200;
/** Characters of a line that are kept while its end has not come: an event may have 64 KiB, and more if so set. */
const LINE_LIMIT = 1_048_576;
const LONGEST_PAUSE_SECONDS = 15;

export class Log {
  #name;
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
   * @param {string} name - the box's id, and what the ids of the elements that belong to it begin with
   * @param {object} options
   * @param {import("./notices.js").Notices} options.notices
   * @param {(flowing: boolean) => void} options.onFlow - rows begin or cease to come
   * @param {() => void} [options.onStart] - it begins from the top
   * @param {() => string} options.open - called for each connection: the address to read
   * @param {(lines: string[]) => unknown[]} options.read - what lines that have come bring
   * @param {(item: unknown) => HTMLElement} options.row
   * @param {() => number} options.silenceSeconds - after which the connection counts as lost; 0: never
   * @param {() => number} options.pauseSeconds - before the first of several tries
   * @param {() => string} options.running - a sentence, while all is well
   * @param {string} options.noun - of a row, in the singular
   */
  constructor(name, options) {
    this.#name = name;
    this.#options = options;
    this.#section = byId(`${name}-section`);
    this.#box = byId(name);
    this.#tail = new Tail(this.#box);
    this.#state = byId(`${name}-state`);
    this.#count = byId(`${name}-count`);
    this.#start = byId(`${name}-start`);
    this.#stop = byId(`${name}-stop`);
    onPress(this.#start, () => this.start());
    onPress(this.#stop, () => this.stop());
  }

  /** Whether nothing comes and nothing is waited for. */
  get stopped() {
    return this.#section.dataset.state === "stopped";
  }

  /** Begins from the top, with an empty box. */
  start() {
    this.#run.abort();
    this.#run = new AbortController();
    this.#options.onStart?.();
    this.clear();
    this.#keepRunning(this.#run.signal);
  }

  /** Empties the box. */
  clear() {
    this.#options.notices.clear(this.#name);
    this.#box.replaceChildren();
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
      const problem = await this.#listen(signal, () => { failures = 0; });
      if (signal.aborted) return;
      if (!problem.passing) return this.#refused(problem);
      const first = this.#options.pauseSeconds();
      const seconds = Math.max(first, Math.min(first * 2 ** failures, LONGEST_PAUSE_SECONDS));
      failures += 1;
      this.#show("lost", `${problem.message} Trying again in ${Math.ceil(seconds)} s.`);
      await pause(seconds, signal);
    }
  }

  /**
   * Shows rows until the connection ends, which an endless stream never does by itself.
   *
   * @returns {Promise<import("./problem.js").Problem>} why it ended
   */
  async #listen(signal, onFirst) {
    const silence = new Silence();
    const all = AbortSignal.any([signal, silence.signal]);
    let running = false;
    try {
      silence.begin(this.#options.silenceSeconds());
      const response = await request(this.#options.open(), { signal: all });
      for await (const lines of linesOf(response.body)) {
        if (signal.aborted) break;
        const items = this.#options.read(lines);
        silence.begin(this.#options.silenceSeconds());
        if (!running) this.#show("running", this.#options.running());
        if (!running) onFirst();
        running = true;
        this.#append(items);
      }
      return asProblem(null, "The server ended the stream.");
    } catch (error) {
      return asProblem(error, running ? "Connection lost." : undefined);
    } finally {
      silence.end();
    }
  }

  #refused(problem) {
    this.#show("stopped", "Stopped");
    this.#options.notices.show(this.#name, `The ${this.#options.noun}s could not be started. ${problem.message}`, {
      reference: problem.instance,
      actions: [{ label: "Try again", act: () => this.start() }],
    });
  }

  #append(items) {
    if (items.length === 0) return;
    this.#total += items.length;
    this.#box.append(...items.slice(-SHOWN_ROWS).map(this.#options.row));
    while (this.#box.childElementCount > SHOWN_ROWS) this.#box.firstChild.remove();
    this.#tail.keep();
    const shown = this.#total > SHOWN_ROWS ? `last ${SHOWN_ROWS} of ` : "";
    this.#count.textContent = shown + count(this.#total, this.#options.noun);
  }

  #show(state, sentence) {
    this.#section.dataset.state = state;
    this.#state.textContent = sentence;
    setEnabled(this.#start, state === "stopped");
    setEnabled(this.#stop, state !== "stopped");
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
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop().slice(0, LINE_LIMIT);
      if (lines.length > 0) yield lines;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Resolves after some seconds, or as soon as the signal is aborted. */
function pause(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
