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
import { pause } from "./refresh.js";
import { Rows } from "./rows.js";

/** Gathered before it becomes a Blob. */
const PART_BYTES = 4 * 1024 * 1024;
/** What is longer is left to the browser. */
const MOST_BYTES = 4 * 1024 ** 3;
const SHOWN_MILLISECONDS = 250;
/** One after the other that bring nothing; the pauses between them are 63 seconds in all. */
const MOST_TRIES = 6;

export class Download {
  #elements;
  #what;
  #onFlow;
  #run = new AbortController();
  #url = "";

  /**
   * @param {Record<"section" | "start" | "stop" | "state" | "amount" | "bar" | "again", HTMLElement>} elements
   * @param {object} options
   * @param {() => {url: URL, name: string, format: string, key: string} | null} options.what - to save, and as
   *   what; the format is empty where there are no rows, the key where it does not go on behind one; null: it
   *   cannot begin, and the person was told
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
    this.#run.abort();
    const run = (this.#run = new AbortController());
    this.#forget();
    this.#show("connecting", "Connecting");
    try {
      this.#save(await this.#gather(wanted, run.signal), wanted.name);
      this.#show("ended", "Saved");
    } catch (error) {
      if (run !== this.#run) return;
      if (isAbort(error)) this.#show("stopped", "Stopped; nothing was saved.");
      else this.#show("failed", this.#sentence(error));
    }
  }

  /** The whole stream; one that goes on behind a row is asked for the rest as often as it breaks off. */
  async #gather({ url, format, key }, signal) {
    const amount = new Amount(this.#elements, format);
    const parts = [];
    let failures = 0;
    for (;;) {
      const had = amount.bytes;
      try {
        const response = await request(url.href, { signal });
        amount.begin(response.headers);
        this.#show("running", "Saving");
        await receive(response.body, amount, parts, signal);
        amount.show();
        return new Blob(parts, { type: response.headers.get("Content-Type") ?? "" });
      } catch (error) {
        if (isAbort(error)) throw error;
        failures = amount.bytes > had ? 1 : failures + 1;
        const after = amount.count > 0 && key ? await amount.valueOfLast(key) : null;
        if (after === null || failures > MOST_TRIES || (error instanceof Problem && !error.passing)) throw error;
        const kept = new Blob(parts).slice(0, amount.goOn());
        parts.splice(0, parts.length, kept);
        url.searchParams.set("after", after);
        this.#show("lost", "The connection was lost. It goes on behind the last row.");
        await pause(2 ** failures / 2, signal);
      }
    }
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
    const runs = ["connecting", "running", "lost"].includes(state);
    section.dataset.state = state;
    this.#elements.state.textContent = sentence;
    setEnabled(start, !runs);
    setEnabled(stop, runs);
    bar.hidden = !runs;
    if (state === "connecting") bar.removeAttribute("value");
    this.#onFlow(state === "running");
  }
}

/**
 * Reads a body into parts, as far as it comes.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {Amount} amount
 * @param {Blob[]} parts
 */
async function receive(body, amount, parts, signal) {
  const reader = body.getReader();
  let chunks = [];
  let gathered = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      signal.throwIfAborted();
      if (done) return;
      amount.add(value);
      chunks.push(value);
      gathered += value.length;
      if (amount.bytes > MOST_BYTES) {
        const sentence = `More than ${size(MOST_BYTES)} is for the browser's own download: use the links.`;
        throw new Problem(sentence, { status: 200 });
      }
      if (gathered < PART_BYTES) continue;
      parts.push(new Blob(chunks));
      chunks = [];
      gathered = 0;
    }
  } finally {
    parts.push(new Blob(chunks));
    reader.cancel().catch(() => {});
  }
}

/** How much has come, and of how much. */
class Amount {
  bytes = 0;
  #bar;
  #amount;
  #rows;
  #total = 0;
  #length = 0;
  #shownAt = 0;

  constructor({ bar, amount }, format) {
    this.#bar = bar;
    this.#amount = amount;
    this.#rows = Rows.of(format);
  }

  /** Whole rows; 0 where there are none that can be told apart. */
  get count() {
    return this.#rows?.count ?? 0;
  }

  /** @param {Headers} headers - which say how much there will be */
  begin(headers) {
    if (this.#rows) this.#total = Number(headers.get("X-Total-Count"));
    // The length of what is compressed on the way is not that of what comes out of it.
    if (!headers.has("Content-Encoding")) this.#length = Number(headers.get("Content-Length"));
  }

  add(chunk) {
    this.bytes += chunk.length;
    this.#rows?.add(chunk);
    const now = performance.now();
    if (now - this.#shownAt < SHOWN_MILLISECONDS) return;
    this.#shownAt = now;
    this.show();
  }

  /** The value of a column in the last whole row. @returns {Promise<string | null>} */
  valueOfLast(column) {
    return this.#rows.value(column);
  }

  /** What comes next stands behind the last whole row. @returns {number} the bytes up to there */
  goOn() {
    this.#rows.goOn();
    this.bytes = this.#rows.whole;
    return this.bytes;
  }

  show() {
    const of = this.#total > 0 ? `${this.count.toLocaleString("en")} of ` : "";
    const rows = this.#rows ? `${of}${count(this.#total || this.count, "row")}, ` : "";
    this.#amount.textContent = rows + size(this.bytes);
    const [done, all] = this.#total > 0 ? [this.count, this.#total] : [this.bytes, this.#length];
    if (!(all > 0)) return;
    this.#bar.max = all;
    this.#bar.value = Math.min(done, all);
  }
}
