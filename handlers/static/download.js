/**
 * A stream that has an end, gathered here and then saved as a file, with its progress: bytes, and rows where they
 * can be counted.
 *
 * A link would do it too, but the browser's own download knows neither how many rows there will be nor the server's
 * words for a failure. What is gathered are Blobs, which a browser puts on its disk.
 */

import { onPress, setEnabled } from "./elements.js";
import { asProblem, isAbort, Problem, request, sentenceOf } from "./problem.js";
import { count, size } from "./quantities.js";
import { RowCount } from "./rowcount.js";

/** Gathered before it becomes a Blob. */
const PART_BYTES = 4 * 1024 * 1024;
/** What is longer is left to the browser. */
const MOST_BYTES = 4 * 1024 ** 3;
const SHOWN_MILLISECONDS = 250;

export class Download {
  #elements;
  #what;
  #onFlow;
  #run = new AbortController();
  #url = "";

  /**
   * @param {Record<"section" | "start" | "stop" | "state" | "amount" | "bar" | "again", HTMLElement>} elements
   * @param {object} options
   * @param {() => {url: string, name: string, format: string} | null} options.what - to save, and as what; the
   *   format is empty where there are no rows; null: it cannot begin, and the person was told
   * @param {(flowing: boolean) => void} options.onFlow
   */
  constructor(elements, { what, onFlow }) {
    this.#elements = elements;
    this.#what = what;
    this.#onFlow = onFlow;
    onPress(elements.start, () => this.start());
    onPress(elements.stop, () => this.#run.abort());
    this.#show("stopped", "");
  }

  /** Begins from the top, in place of the one before. */
  async start() {
    const wanted = this.#what();
    if (!wanted) return;
    const { url, name, format } = wanted;
    this.#run.abort();
    const run = (this.#run = new AbortController());
    this.#forget();
    this.#show("connecting", "Connecting");
    try {
      const blob = await this.#gather(url, format, run.signal);
      this.#save(blob, name);
      this.#show("ended", "Saved");
    } catch (error) {
      if (run !== this.#run) return;
      if (isAbort(error)) this.#show("stopped", "Stopped; nothing was saved.");
      else this.#show("failed", this.#sentence(error));
    }
  }

  /** The whole body. */
  async #gather(url, format, signal) {
    const response = await request(url, { signal });
    const { headers } = response;
    // The length of what is compressed on the way is not that of what comes out of it.
    const length = headers.has("Content-Encoding") ? 0 : Number(headers.get("Content-Length"));
    const amount = new Amount(this.#elements, format, Number(headers.get("X-Total-Count")), length);
    this.#show("running", "Saving");
    const parts = [];
    let chunks = [];
    let gathered = 0;
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      signal.throwIfAborted();
      if (!done) {
        amount.add(value);
        chunks.push(value);
        gathered += value.length;
      }
      if (done || gathered > PART_BYTES) {
        parts.push(new Blob(chunks));
        chunks = [];
        gathered = 0;
      }
      if (done) break;
      if (amount.bytes > MOST_BYTES) {
        reader.cancel().catch(() => {});
        throw new Problem(`More than ${size(MOST_BYTES)} is for the browser's own download: use the links.`,
          { status: 200 });
      }
    }
    amount.end();
    return new Blob(parts, { type: headers.get("Content-Type") ?? "" });
  }

  #sentence(error) {
    if (error instanceof Problem) return sentenceOf(error);
    return `${asProblem(error, "Broken off: the connection was lost on the way.").message} Nothing was saved.`;
  }

  #save(blob, name) {
    this.#url = URL.createObjectURL(blob);
    const { again } = this.#elements;
    again.href = this.#url;
    again.download = name;
    again.hidden = false;
    again.click();
  }

  /** Lets go of what was gathered the last time. */
  #forget() {
    URL.revokeObjectURL(this.#url);
    this.#elements.again.hidden = true;
    this.#elements.amount.textContent = "";
  }

  #show(state, sentence) {
    const { section, start, stop, bar } = this.#elements;
    const runs = state === "connecting" || state === "running";
    section.dataset.state = state;
    this.#elements.state.textContent = sentence;
    setEnabled(start, !runs);
    setEnabled(stop, runs);
    bar.hidden = !runs;
    if (state === "connecting") bar.removeAttribute("value");
    this.#onFlow(state === "running");
  }
}

/** How much has come, and of how much. */
class Amount {
  bytes = 0;
  #bar;
  #amount;
  #rows;
  #total;
  #length;
  #shownAt = 0;

  constructor({ bar, amount }, format, total, length) {
    this.#bar = bar;
    this.#amount = amount;
    this.#rows = RowCount.of(format);
    this.#total = this.#rows ? total : 0;
    this.#length = length;
  }

  add(chunk) {
    this.bytes += chunk.length;
    this.#rows?.add(chunk);
    const now = performance.now();
    if (now - this.#shownAt < SHOWN_MILLISECONDS) return;
    this.#shownAt = now;
    this.#show();
  }

  end() {
    this.#show();
  }

  #show() {
    const of = this.#total > 0 ? `${this.#rows.rows.toLocaleString("en")} of ` : "";
    const rows = this.#rows ? `${of}${count(this.#total || this.#rows.rows, "row")}, ` : "";
    this.#amount.textContent = rows + size(this.bytes);
    const [done, all] = this.#total > 0 ? [this.#rows.rows, this.#total] : [this.bytes, this.#length];
    if (!(all > 0)) return;
    this.#bar.max = all;
    this.#bar.value = Math.min(done, all);
  }
}
