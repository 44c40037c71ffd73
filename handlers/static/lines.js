/**
 * The endless stream `lines`: started, stopped, and taken up again when the connection is lost.
 *
 * The page holds the last lines only, however long it runs.
 */

import { byId, element, onPress, setEnabled, Tail } from "./elements.js";
import { asProblem, request } from "./problem.js";
import { count } from "./quantities.js";

const SHOWN_LINES = 200;
const LINE_LIMIT = 65_536;
const LONGEST_PAUSE_SECONDS = 15;
/** Seconds of silence beyond a few lines' time after which the connection counts as lost. */
const SILENCE_SECONDS = 10;

export class Lines {
  #section = byId("live");
  #box = byId("lines");
  #tail = new Tail(this.#box);
  #state = byId("lines-state");
  #count = byId("lines-count");
  #sleep = byId("lines-sleep");
  #start = byId("lines-start");
  #stop = byId("lines-stop");
  #notices;
  #onFlow;
  #total = 0;
  #run = new AbortController();

  /**
   * @param {object} options
   * @param {import("./notices.js").Notices} options.notices
   * @param {(flowing: boolean) => void} options.onFlow - lines begin or cease to come
   */
  constructor({ notices, onFlow }) {
    this.#notices = notices;
    this.#onFlow = onFlow;
    onPress(this.#start, () => this.start());
    onPress(this.#stop, () => this.stop());
    this.#sleep.addEventListener("change", () => {
      if (this.#section.dataset.state !== "stopped") this.start();
    });
  }

  /** Begins from the top, with an empty box. */
  start() {
    this.#run.abort();
    this.#run = new AbortController();
    this.#notices.clear("lines");
    this.#box.replaceChildren();
    this.#tail.begin();
    this.#total = 0;
    this.#keepRunning(this.#run.signal);
  }

  /** Ends the stream; the lines that have come stay. */
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
      const seconds = Math.min(2 ** failures, LONGEST_PAUSE_SECONDS);
      failures += 1;
      this.#show("lost", `${problem.message} Trying again in ${seconds} s.`);
      await pause(seconds, signal);
    }
  }

  /**
   * Shows lines until the connection ends, which an endless stream never does by itself.
   *
   * @returns {Promise<import("./problem.js").Problem>} why it ended
   */
  async #listen(signal, onFirst) {
    const silence = new Silence(SILENCE_SECONDS + 3 * Number(this.#sleep.value));
    const all = AbortSignal.any([signal, silence.signal]);
    let running = false;
    try {
      // Heartbeats are left out: a line that starts with spaces would look like one.
      const url = `/stream/lines?format=text&heartbeat=0&sleep=${this.#sleep.value}`;
      const response = await request(url, { signal: all });
      for await (const lines of linesOf(response.body)) {
        if (signal.aborted) break;
        silence.broken();
        if (!running) this.#show("running", "Running");
        if (!running) onFirst();
        running = true;
        this.#append(lines);
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
    this.#notices.show("lines", `The lines could not be started. ${problem.message}`, {
      reference: problem.instance,
      actions: [{ label: "Try again", act: () => this.start() }],
    });
  }

  #append(lines) {
    this.#total += lines.length;
    const fresh = lines.slice(-SHOWN_LINES).map((line) => element("p", {}, line));
    this.#box.append(...fresh);
    while (this.#box.childElementCount > SHOWN_LINES) this.#box.firstChild.remove();
    this.#tail.keep();
    const shown = this.#total > SHOWN_LINES ? `last ${SHOWN_LINES} of ` : "";
    this.#count.textContent = shown + count(this.#total, "line");
  }

  #show(state, sentence) {
    this.#section.dataset.state = state;
    this.#state.textContent = sentence;
    setEnabled(this.#start, state === "stopped");
    setEnabled(this.#stop, state !== "stopped");
    this.#onFlow(state === "running");
  }
}

/** A signal that is aborted when nothing was heard for a time. */
class Silence {
  #controller = new AbortController();
  #milliseconds;
  #timer = 0;

  constructor(seconds) {
    this.#milliseconds = seconds * 1000;
    this.broken();
  }

  get signal() {
    return this.#controller.signal;
  }

  /** Something was heard: the time begins anew. */
  broken() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(), this.#milliseconds);
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
