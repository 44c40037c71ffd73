/**
 * A job: work that a POST starts, and that goes on when everybody has left.
 *
 * This browser remembers those it has started until they are over, so that a page that is loaded again comes back
 * to them.
 */

import { onPress, setEnabled } from "./elements.js";
import { asProblem, request, sentenceOf } from "./problem.js";

const ANSWER_SECONDS = 20;
const KEPT = "millrace.jobs";

/** The jobs that were begun in this browser, by stream; each is the query of its parameters. */
export const remembered = {
  /** @returns {Map<string, string>} */
  all() {
    try {
      return new Map(Object.entries(JSON.parse(localStorage.getItem(KEPT) ?? "{}")));
    } catch {
      return new Map(); // nothing may be kept, or somebody else has written there
    }
  },

  /** @param {string} name @param {string | null} query - null: it is over */
  keep(name, query) {
    const all = this.all();
    if (query === null) all.delete(name);
    else all.set(name, query);
    try {
      localStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(all)));
    } catch {
      // Then nobody comes back to it, and that is all.
    }
  },
};

export class Job {
  #elements;
  #options;
  #over = false;

  /**
   * @param {Record<"section" | "start" | "stop" | "state" | "bar", HTMLElement>} elements
   * @param {object} options
   * @param {string} options.name
   * @param {import("./watch.js").Watch} options.watch
   * @param {import("./parameters.js").Parameters} options.parameters
   * @param {() => URL} options.address
   */
  constructor(elements, options) {
    this.#elements = elements;
    this.#options = options;
    onPress(elements.start, () => this.#start());
    onPress(elements.stop, () => this.#cancel());
  }

  /** Watches it again, without starting it. */
  comeBack() {
    this.#show("running", "Started before");
    this.#options.watch.start();
  }

  /** The parameters are others: it is another job, of which nothing is known. */
  changed() {
    this.#over = false;
    this.#elements.bar.hidden = true;
    this.#show("stopped", "");
    setEnabled(this.#elements.stop, true);
  }

  /** Shows how far it is, if a record of its own says so: `done` of `total`, `percent`, or `progress` up to 1. */
  progress(record) {
    const [done, total, percent, progress] = ["done", "total", "percent", "progress"]
      .map((name) => numberOf(record[name]));
    const part = total > 0 ? done / total : percent >= 0 ? percent / 100 : progress;
    if (!(part >= 0)) return;
    const { bar } = this.#elements;
    bar.hidden = false;
    bar.value = Math.min(part, 1);
    // In tens: whoever listens to the page is told of each change.
    this.#show("running", `Running, ${10 * Math.floor(10 * bar.value)} %`);
  }

  /** Its stream is over, or was refused. @param {"ended" | "failed"} state */
  over(state, problem) {
    this.#over = problem.unanswered; // no answer but the stream itself has said so
    this.#elements.bar.hidden = true;
    if (this.#over || problem.status === 404) remembered.keep(this.#options.name, null);
    if (this.#over) this.#show(state, state === "ended" ? "Done" : "Failed");
    else this.#show("stopped", problem.status === 404 ? "Not started, or forgotten" : "");
  }

  async #start() {
    const { address, parameters, watch, name } = this.#options;
    if (!parameters.check()) return;
    const url = address();
    if (this.#over) url.searchParams.set("again", "1");
    this.#show("connecting", "Starting");
    try {
      await request(url.href, { method: "POST", signal: AbortSignal.timeout(ANSWER_SECONDS * 1000) });
      this.#over = false;
      remembered.keep(name, String(parameters.query));
      this.#show("running", "Started");
      watch.start();
    } catch (error) {
      this.#show("failed", sentenceOf(asProblem(error)));
    }
  }

  async #cancel() {
    const { address, name, watch } = this.#options;
    const watched = !watch.stopped;
    watch.stop();
    try {
      await request(address().href, { method: "DELETE", signal: AbortSignal.timeout(ANSWER_SECONDS * 1000) });
      remembered.keep(name, null);
      this.#over = false;
      this.#show("stopped", "Cancelled, and forgotten");
    } catch (error) {
      this.#show("failed", sentenceOf(asProblem(error)));
      if (watched) watch.start();
    }
  }

  #show(state, sentence) {
    const { section, start, stop, state: said } = this.#elements;
    section.dataset.state = state;
    if (said.textContent !== sentence) said.textContent = sentence;
    const runs = state === "connecting" || state === "running";
    start.textContent = this.#over ? "Start again" : "Start the job";
    setEnabled(start, !runs);
    setEnabled(stop, runs || this.#over);
  }
}

/** A number, also one that is kept as it was sent; NaN: it is none. */
function numberOf(value) {
  if (typeof value === "number") return value;
  return JSON.isRawJSON?.(value) ? Number(value.rawJSON) : NaN;
}
