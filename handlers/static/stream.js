/**
 * One of the named streams: what it can be had as, the form of its parameters, and what it brings.
 *
 * What is in it is made when it is opened for the first time: there may be hundreds.
 */

import { Download } from "./download.js";
import { element, quoted } from "./elements.js";
import { Job } from "./job.js";
import { Parameters } from "./parameters.js";
import { asProblem, request, sentenceOf } from "./problem.js";
import { EVENTS, NDJSON, Watch } from "./watch.js";

/** By media type, as `?format=` names them. */
const FORMATS = new Map([
  ["text/plain", "text"],
  [EVENTS, "sse"],
  [NDJSON, "ndjson"],
  ["application/json", "json"],
  ["text/csv", "csv"],
]);
/** What a browser shows; the rest is saved. */
const SHOWN = ["text", "json"];
const EXTENSIONS = { text: "txt" };
let made = 0;

/**
 * @typedef {object} StreamFacts
 * @property {string} name
 * @property {string} title
 * @property {string[]} media_types - the default first; none: it is another server's, which decides
 * @property {boolean} live
 * @property {string} url
 * @property {import("./parameters.js").Parameter[]} [parameters]
 * @property {string} [key] - of its rows: `?after=` goes on behind a value of this column
 * @property {object} [channel]
 * @property {object} [shared]
 * @property {{publishing: boolean}} [job]
 */

export class Stream {
  #facts;
  #options;
  #id = `stream-${++made}`;
  /** @type {Parameters | null} */
  #parameters = null;
  #links = [];
  /** @type {Job | null} */
  #job = null;
  #audio = null;
  /** Its place in the list. */
  item;

  /**
   * @param {StreamFacts} facts
   * @param {object} options
   * @param {(part: string) => (flowing: boolean) => void} options.flow
   * @param {() => void} options.onSound - it is about to be heard
   */
  constructor(facts, options) {
    this.#facts = facts;
    this.#options = options;
    const details = element("details", {},
      element("summary", {},
        element("span", { class: "stream-heads" }, quoted("stream-title", facts.title || facts.name), " ",
          element("span", { class: "stream-name", lang: "" }, facts.name))));
    const kind = kindOf(facts);
    if (kind) details.firstChild.append(" ", element("span", { class: "badge" }, kind));
    details.addEventListener("toggle", () => {
      if (!details.open) return;
      this.#build();
      details.scrollIntoView({ block: "nearest" });
    });
    this.item = element("li", { class: "stream-item" }, details);
  }

  /** Whether all of these words are in its name or title. @param {string[]} words - in lower case */
  matches(words) {
    const text = `${this.#facts.name} ${this.#facts.title}`.normalize("NFC").toLowerCase();
    return words.every((word) => text.includes(word));
  }

  /** Watches a job again that was begun in this browser. @param {string} query - of its parameters */
  comeBack(query) {
    this.#build();
    if (!this.#job) return;
    this.item.firstChild.open = true;
    this.#parameters.query = new URLSearchParams(query);
    this.#changed();
    this.#job.comeBack();
  }

  /** Is not heard any longer. */
  silence() {
    this.#audio?.pause();
  }

  #build() {
    if (this.#parameters) return;
    const { name, parameters = [], media_types: types, live, job } = this.#facts;
    this.#parameters = new Parameters(parameters, `${this.#id}-form`, name, () => this.#changed());
    const body = element("div", { class: "stream-body" });
    if (parameters.length > 0) body.append(this.#parameters.form);
    body.append(this.#formats());
    const first = types[0] ?? "";
    const kind = first.split("/")[0];
    const page = first.startsWith("text/html");
    const watched = types.includes(EVENTS) || (kind === "text" && !page) || first === NDJSON;
    if (kind === "audio" || kind === "video") body.append(this.#player());
    if (watched) body.append(...this.#watcher(job));
    if (!live && !page) body.append(this.#saver());
    this.#changed();
    this.item.firstChild.append(body);
  }

  /** With the parameters as they are in the form. */
  #address(format = "") {
    const url = new URL(this.#facts.url, location.href);
    for (const [name, value] of this.#parameters.query) url.searchParams.set(name, value);
    if (format) url.searchParams.set("format", format);
    return url;
  }

  #changed() {
    for (const { link, format } of this.#links) link.href = this.#address(format).href;
    this.#job?.changed();
  }

  #formats() {
    const { name, media_types: types } = this.#facts;
    const formats = types.map((type) => FORMATS.get(type.split(";")[0]) ?? "");
    this.#links = (types.length > 0 ? types : ["it comes"]).map((type, at) => {
      const format = types.length > 1 ? formats[at] : "";
      const label = format || type.split(";")[0];
      const saved = format && !SHOWN.includes(format);
      const link = element("a", { target: "_blank", rel: "noopener", "aria-label": `${name} as ${label}` }, label);
      if (saved) link.download = this.#fileName(format);
      return { link, format };
    });
    return element("p", { class: "formats" }, element("span", { class: "note" }, "Open as"), " ",
      ...this.#links.flatMap(({ link }) => [link, " "]));
  }

  #fileName(format) {
    const last = this.#facts.name.split("/").at(-1);
    if (!format) return last;
    const extension = `.${EXTENSIONS[format] ?? format}`;
    return last.endsWith(extension) ? last : last + extension;
  }

  #player() {
    const state = element("p", { class: "note failed", role: "status" });
    const audio = element("audio", { controls: true, preload: "none", "aria-label": this.#facts.name });
    const flow = this.#options.flow(`${this.#id} sound`);
    this.#audio = audio;
    // Not before it is wanted: with the parameters as they are then.
    const aim = () => { if (audio.paused) audio.src = this.#address().href; };
    this.#parameters.form.addEventListener("input", aim);
    aim();
    audio.addEventListener("play", () => { state.textContent = ""; this.#options.onSound(this); });
    audio.addEventListener("playing", () => flow(true));
    for (const end of ["pause", "ended", "emptied", "error"]) audio.addEventListener(end, () => flow(false));
    audio.addEventListener("error", async () => { state.textContent = await this.#reason(audio.src); });
    return element("div", { class: "stream-player" }, audio, state);
  }

  /** Why something cannot be heard: the element does not tell, so the server is asked. */
  async #reason(url) {
    const asking = new AbortController();
    try {
      await request(url, { signal: asking.signal });
      asking.abort();
      return `It broke off, or this browser cannot play it (${this.#facts.media_types[0]}).`;
    } catch (error) {
      return sentenceOf(asProblem(error));
    }
  }

  #watcher(job) {
    const { name } = this.#facts;
    const log = this.#controls("watch", "Watch", `Watch ${name}`, "Stop", `Stop watching ${name}`);
    const box = element("div", { class: "log", role: "log", "aria-live": "off", "aria-label": name, tabindex: 0 });
    const count = element("p", { class: "note" });
    const section = element("div", { class: "stream-part", "data-state": "stopped" }, log.row, box, count);
    const watch = new Watch({ section, box, count, ...log }, {
      stream: this.#facts,
      address: () => this.#address(),
      ready: () => this.#parameters.check(),
      onFlow: this.#options.flow(`${this.#id} watch`),
      onRecord: (record) => this.#job?.progress(record),
      onOver: (state, problem) => this.#job?.over(state, problem),
    });
    if (!job) return [section];
    const parts = this.#controls("job", "Start the job", `Start the job ${name}`, "Cancel", `Cancel the job ${name}`);
    const bar = element("progress", { "aria-label": `Progress of the job ${name}`, hidden: true });
    const panel = element("div", { class: "stream-part", "data-state": "stopped" }, parts.row, bar);
    if (job.publishing) log.start.classList.remove("start");
    else panel.prepend(element("p", { class: "note" }, "To start or cancel this job a token is needed."));
    if (!job.publishing) parts.row.hidden = true;
    this.#job = new Job({ section: panel, bar, ...parts }, {
      name,
      watch,
      address: () => this.#address(),
      parameters: this.#parameters,
    });
    return [panel, section];
  }

  #saver() {
    const { name, media_types: types } = this.#facts;
    const formats = types.map((type) => FORMATS.get(type.split(";")[0])).filter((each) => each && each !== "sse");
    const choice = element("select", { "aria-label": `File format of ${name}`, hidden: formats.length < 2 },
      ...formats.map((format) => element("option", { value: format }, format)));
    const parts = this.#controls("save", "Save", `Save ${name}`, "Stop", `Stop saving ${name}`);
    parts.start.classList.remove("start");
    parts.row.prepend(choice);
    const bar = element("progress", { "aria-label": `Progress of ${name}`, hidden: true });
    const amount = element("span");
    const again = element("a", { hidden: true }, "The file again");
    const section = element("div", { class: "stream-part" }, parts.row, bar,
      element("p", { class: "note" }, amount, " ", again));
    new Download({ section, bar, amount, again, ...parts }, {
      what: () => {
        if (!this.#parameters.check()) return null;
        const format = choice.hidden ? "" : choice.value;
        return { url: this.#address(format), name: this.#fileName(format), format, key: this.#facts.key };
      },
      onFlow: this.#options.flow(`${this.#id} save`),
    });
    return section;
  }

  /** A row with what starts, what stops, and what it is at. Enter in the form presses the first of its buttons. */
  #controls(part, start, startLabel, stop, stopLabel) {
    const id = `${this.#id}-${part}`;
    const button = (type, className, text, label, more) => element("button", {
      type, class: className, "aria-label": label, "aria-describedby": id, ...more,
    }, text);
    const parts = {
      start: button("submit", "start", start, startLabel, { form: this.#parameters.form.id }),
      stop: button("button", "", stop, stopLabel, { "aria-disabled": "true" }),
      state: element("span", { id, role: "status" }),
    };
    const dot = element("span", { class: "dot", "aria-hidden": "true" });
    const row = element("div", { class: "live-controls" }, parts.start, parts.stop,
      element("p", { class: "state" }, dot, parts.state));
    return { row, ...parts };
  }
}

/** One word for what it is; none for what comes to its end and that is all. */
function kindOf({ channel, job, shared, media_types: types, live }) {
  if (channel) return "channel";
  if (job) return "job";
  if (shared) return "shared";
  const [kind] = (types[0] ?? "").split("/");
  if (kind === "audio" || kind === "video") return kind;
  return live ? "live" : "";
}
