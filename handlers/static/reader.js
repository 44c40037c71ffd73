/**
 * The library's texts, and one of them shown while it arrives.
 *
 * A text may be of any length, so only its beginning is put into the page; the rest is a link.
 */

import { byId, element, quoted, Tail } from "./elements.js";
import { asProblem, isAbort, Problem, request, requestJson } from "./problem.js";
import { count, size } from "./quantities.js";

const SHOWN_BYTES = 1024 * 1024;
const SHOWN_LINES = 20_000;
const LISTED = 500;
/**
 * UTF-16 units after which a new block begins with the next line, so that new text does not lay out all of the
 * old. A line that goes on over twice as many is cut: a line of 900 kB in one block took a minute and more.
 */
const BLOCK = 8192;

/** @typedef {{name: string, length: number | null, modified: string, url: string}} TextFile */

export class Reader {
  #list = byId("text-list");
  #count = byId("text-count");
  #empty = byId("texts-empty");
  #pace = byId("text-pace");
  #article = byId("text-article");
  #state = byId("text-state");
  #progress = byId("text-progress");
  #stop = byId("text-stop");
  #limit = byId("text-limit");
  #text = byId("text");
  #tail = new Tail(this.#text);
  #notices;
  #onFlow;
  /** @type {Map<string, TextFile>} */
  #files = new Map();
  /** @type {TextFile | null} */
  #file = null;
  #listing = new AbortController();
  #arriving = new AbortController();

  /**
   * @param {object} options
   * @param {import("./notices.js").Notices} options.notices
   * @param {(flowing: boolean) => void} options.onFlow - a text begins or ceases to arrive
   */
  constructor({ notices, onFlow }) {
    this.#notices = notices;
    this.#onFlow = onFlow;
    this.#list.addEventListener("click", (event) => this.#choose(event));
    this.#stop.addEventListener("click", () => this.stop());
    this.#pace.addEventListener("change", () => this.#file && this.open(this.#file));
    byId("texts-again").addEventListener("click", () => this.load());
  }

  /** Lists the texts; resolves when they are shown or that has failed. */
  async load() {
    this.#listing.abort();
    const listing = (this.#listing = new AbortController());
    this.#notices.trying("texts");
    this.#list.setAttribute("aria-busy", "true");
    try {
      const { files } = await requestJson("/text", listing.signal);
      this.#showList(files);
      this.#notices.clear("texts");
    } catch (error) {
      if (isAbort(error)) return;
      this.#fail("texts", "The texts could not be listed.", error, () => this.load());
    }
    this.#list.setAttribute("aria-busy", "false");
  }

  /** Shows a text while it arrives, in place of the one shown. @param {TextFile} file */
  async open(file) {
    this.#arriving.abort();
    const arriving = (this.#arriving = new AbortController());
    this.#begin(file);
    try {
      const whole = await this.#receive(file, arriving);
      this.#end(whole ? "Complete" : "Cut off here");
    } catch (error) {
      if (arriving !== this.#arriving) return;
      if (isAbort(error)) return void this.#end("Stopped");
      // A Problem came in place of the text; anything else broke it off on the way.
      const refused = error instanceof Problem;
      this.#end(refused ? "Not here" : "Broken off");
      const sentence = refused ? "cannot be shown" : "did not arrive whole";
      this.#fail("text", `“${file.name}” ${sentence}.`, error, () => this.open(file));
    }
  }

  /** Lets the text that is arriving be; what has arrived stays. */
  stop() {
    this.#arriving.abort();
  }

  #showList(files) {
    this.#files = new Map(files.map((file) => [file.name, file]));
    this.#list.replaceChildren(...files.slice(0, LISTED).map(row));
    this.#empty.hidden = files.length > 0;
    byId("text-hint").hidden = files.length === 0 || this.#file !== null;
    this.#count.textContent = files.length > LISTED
      ? `first ${LISTED} of ${count(files.length, "text")}`
      : files.length > 0 ? count(files.length, "text") : "";
    this.#mark();
  }

  #choose(event) {
    const chosen = event.target.closest(".text-file");
    if (chosen) this.open(this.#files.get(chosen.dataset.name));
  }

  #mark() {
    for (const each of this.#list.querySelectorAll(".text-file")) {
      if (each.dataset.name === this.#file?.name) each.setAttribute("aria-current", "true");
      else each.removeAttribute("aria-current");
    }
  }

  #begin(file) {
    this.#file = file;
    this.#notices.clear("text");
    this.#mark();
    byId("text-hint").hidden = true;
    byId("text-name").textContent = file.name;
    byId("text-whole").href = file.url;
    this.#article.hidden = false;
    this.#article.setAttribute("aria-busy", "true");
    this.#text.replaceChildren();
    this.#text.scrollTop = 0;
    this.#limit.hidden = true;
    this.#stop.hidden = false;
    this.#state.textContent = "Arriving";
    this.#progress.textContent = "";
    this.#onFlow(true);
  }

  #end(state) {
    // Hiding the button that has the focus would drop it to the top of the page.
    if (document.activeElement === this.#stop) this.#text.focus({ preventScroll: true });
    this.#stop.hidden = true;
    this.#state.textContent = state;
    this.#article.setAttribute("aria-busy", "false");
    this.#onFlow(false);
  }

  /**
   * Puts the body into the page as it comes.
   *
   * @returns {Promise<boolean>} whether it is the whole text; false: it went over what is shown
   */
  async #receive(file, arriving) {
    const pace = this.#pace.value;
    const response = await request(withPace(file.url, pace), { signal: arriving.signal });
    const decoder = new TextDecoder();
    const page = new Page(this.#text);
    this.#tail.begin(pace !== "");
    const reader = response.body.getReader();
    let bytes = 0;
    for (;;) {
      const { done, value } = await reader.read();
      // What was read while another text took this one's place is nobody's any more.
      arriving.signal.throwIfAborted();
      const room = SHOWN_BYTES - bytes;
      const fitted = page.append(done ? decoder.decode() : decoder.decode(value.subarray(0, room), { stream: true }));
      this.#tail.keep();
      bytes += Math.min(value?.length ?? 0, room);
      this.#progress.textContent = `${size(bytes)}, ${count(page.lines, "line")}`;
      if (done && fitted) return true;
      if (!fitted || value.length > room) {
        reader.cancel().catch(() => {});
        this.#tellLimit(file, fitted ? size(bytes) : count(page.lines, "line"));
        return false;
      }
    }
  }

  #tellLimit(file, amount) {
    const link = element("a", { href: file.url }, "Open the whole file");
    this.#limit.replaceChildren(`Shown here: the first ${amount}. `, link);
    this.#limit.hidden = false;
  }

  #fail(key, sentence, error, again) {
    const problem = asProblem(error, "The connection was lost on the way.");
    // What has arrived of a text is not taken away from under the reader's eyes.
    const arrived = !(error instanceof Problem);
    this.#notices.show(key, `${sentence} ${problem.message}`, {
      reference: problem.instance,
      actions: [{ label: "Try again", act: again }],
      whenBack: problem.unanswered && !arrived ? again : null,
    });
  }
}

/**
 * A long text in a box, in blocks of bounded size; the box's textContent is the text, and so is a copy of it.
 *
 * A block stands on lines of its own, but is inline to the document: a copy has no line end that the text has not.
 */
class Page {
  #box;
  /** @type {Text | null} */
  #block = null;
  #ends = 0;
  #midLine = false;

  constructor(box) {
    this.#box = box;
  }

  /** The lines that the box holds, one that has only begun included; at most SHOWN_LINES. */
  get lines() {
    return this.#ends + Number(this.#midLine);
  }

  /**
   * Appends text as far as the lines go.
   *
   * @param {string} text
   * @returns {boolean} whether all of it fitted
   */
  append(text) {
    let start = 0;
    while (start < text.length && this.#ends < SHOWN_LINES) {
      const stop = text.indexOf("\n", start) + 1 || text.length;
      this.#appendLine(text.slice(start, stop));
      this.#midLine = text[stop - 1] !== "\n";
      if (!this.#midLine) this.#endLine();
      start = stop;
    }
    return start >= text.length;
  }

  /** Appends a line or a part of one. */
  #appendLine(line) {
    let start = 0;
    while (start < line.length) {
      if (this.#block === null) this.#newBlock(document.createTextNode(""));
      const stop = start + 2 * BLOCK - this.#block.length;
      this.#block.appendData(line.slice(start, stop));
      if (stop < line.length) this.#newBlock(this.#block.splitText(cut(this.#block.data)));
      start = stop;
    }
  }

  #newBlock(text) {
    this.#block = text;
    this.#box.append(element("span", { class: "block" }, text));
  }

  #endLine() {
    this.#ends += 1;
    if (this.#block.length >= BLOCK) this.#block = null;
  }
}

/** Where a full block is cut: behind the last space of its second half, else before its last character. */
function cut(text) {
  const behind = Math.max(...[" ", "\t", "\n"].map((space) => text.lastIndexOf(space))) + 1;
  if (behind > text.length / 2) return behind;
  // A character as people see it may have many units, and more of it may be to come.
  return new Intl.Segmenter().segment(text).containing(text.length - 1).index || text.length;
}

function row(file) {
  return element("li", {},
    element("button", { type: "button", class: "text-file", "data-name": file.name },
      quoted("text-file-name", file.name),
      element("span", { class: "text-file-size" }, size(file.length))));
}

function withPace(url, pace) {
  const paced = new URL(url, location.href);
  if (pace) paced.searchParams.set("pace", pace);
  return paced.href;
}
