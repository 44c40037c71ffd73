/**
 * A stream watched as it comes: its records in a table, anything else in lines; how it is read is log.js's.
 *
 * It is read as events where it can be had so: they have ids to come back with, and an end and a failure of their
 * own. Who reads no further is not sent more.
 */

import { element, quoted } from "./elements.js";
import { Events } from "./events.js";
import { Log } from "./log.js";
import { sentenceOf } from "./problem.js";
import { cut, exact, SHOWN_CHARACTERS } from "./values.js";

/** A record with more is shown as a line of JSON. */
const MOST_COLUMNS = 16;
/** Characters of a value in the table. */
const CELL_CHARACTERS = 300;

export const EVENTS = "text/event-stream";
export const NDJSON = "application/x-ndjson";

export class Watch {
  #events = new Events();
  #asEvents;
  #live;
  #goesOn;
  /** The id to begin with. */
  #first;
  #onRecord;
  #records;
  #log;
  /** The columns of the table; null: there are lines, or nothing yet. @type {string[] | null} */
  #columns = null;
  #body = null;
  #box;
  /** The event that came last, if it is the stream's own word of its end or failure. */
  #ended = false;
  #failure = "";
  #missing = false;

  /**
   * @param {import("./log.js").LogElements} elements
   * @param {object} options
   * @param {import("./stream.js").StreamFacts} options.stream
   * @param {() => URL} options.address - with the parameters, without a format
   * @param {() => boolean} options.ready - whether it can begin
   * @param {(flowing: boolean) => void} options.onFlow
   * @param {(record: object) => void} [options.onRecord] - the last of those that came together
   * @param {(state: string, problem: import("./problem.js").Problem) => void} [options.onOver] - it is over:
   *   `ended`, `failed`
   */
  constructor(elements, { stream, address, ready, onFlow, onRecord, onOver }) {
    this.#asEvents = stream.media_types.includes(EVENTS);
    this.#live = stream.live;
    this.#goesOn = Boolean(stream.key);
    this.#first = stream.channel || stream.shared ? "earliest" : ""; // what they remember comes first
    this.#onRecord = onRecord;
    this.#records = this.#asEvents || stream.media_types[0] === NDJSON;
    this.#box = elements.box;
    this.#log = new Log(elements, {
      ready,
      onFlow,
      onStart: () => { this.#events = new Events(); this.#missing = false; },
      onClear: () => { this.#columns = this.#body = null; },
      open: () => this.#open(address()),
      read: (lines) => this.#read(lines),
      row: (item) => this.#row(item),
      rows: () => this.#body ?? this.#box,
      silenceSeconds: () => this.#events.silenceSeconds,
      pauseSeconds: () => this.#events.pauseSeconds,
      running: () => (this.#missing ? "Running. Some rows are missing." : "Running"),
      over: (problem, whole) => {
        const over = this.#over(problem, whole);
        if (over) onOver?.(over.state, problem);
        return over;
      },
      noun: this.#records ? "row" : "line",
    });
  }

  /** Whether nothing comes and nothing is waited for. */
  get stopped() {
    return this.#log.stopped;
  }

  /** Begins from the top. */
  start() {
    this.#log.start();
  }

  /** Lets go of the stream; what has come stays. */
  stop() {
    this.#log.stop();
  }

  #open(url) {
    this.#events.begin();
    this.#ended = false;
    this.#failure = "";
    if (!this.#asEvents) return url.href;
    url.searchParams.set("format", "sse");
    const lastId = this.#events.lastId || this.#first;
    if (lastId) url.searchParams.set("last_event_id", lastId);
    return url.href;
  }

  /** @returns {{name: string, data: string}[]} */
  #read(lines) {
    if (!this.#asEvents) {
      const kept = this.#records ? lines.filter(Boolean) : lines; // an empty one is a heartbeat of NDJSON
      return kept.map((data) => ({ name: "", data }));
    }
    const events = this.#events.read(lines);
    if (events.length === 0) return events;
    const last = events.at(-1);
    this.#ended = last.name === "end";
    this.#failure = last.name === "error" ? detailOf(last.data) : "";
    this.#missing ||= events.some((event) => event.name === "gap");
    const shown = this.#ended || this.#failure ? events.slice(0, -1) : events;
    const record = shown.length > 0 && recordOf(shown.at(-1).data);
    if (record) this.#onRecord?.(record);
    return shown;
  }

  /** What is to be said when a connection has ended; null: another one goes on where this one was. */
  #over(problem, whole) {
    if (this.#failure) return { state: "failed", sentence: `Failed. ${this.#failure}` };
    if (this.#ended || (whole && !this.#live)) return { state: "ended", sentence: "Complete" };
    if (!problem.passing) return { state: "failed", sentence: sentenceOf(problem) };
    // What is made for each client alone would begin anew.
    return this.#live || this.#goesOn ? null : { state: "failed", sentence: `Broken off. ${sentenceOf(problem)}` };
  }

  #row({ name, data }) {
    if (name === "gap") return this.#wide("gap", "Rows are missing here");
    const record = recordOf(data);
    if (this.#columns === null && !this.#box.firstChild && record) this.#beginTable(record);
    if (!this.#columns) return element("p", { lang: "", dir: "auto" }, cut(data, SHOWN_CHARACTERS));
    const names = record && Object.keys(record);
    if (!names || names.length > this.#columns.length || !names.every((each) => this.#columns.includes(each))) {
      return this.#wide("", cut(data, SHOWN_CHARACTERS));
    }
    return element("tr", {}, ...this.#columns.map((column) => cell(record[column])));
  }

  #beginTable(record) {
    const columns = Object.keys(record);
    if (columns.length === 0 || columns.length > MOST_COLUMNS) return;
    this.#columns = columns;
    const head = element("tr", {}, ...columns.map((column) => element("th", {
      scope: "col", lang: "", class: isNumber(record[column]) && "number",
    }, column)));
    this.#body = element("tbody");
    this.#box.append(element("table", {}, element("thead", {}, head), this.#body));
  }

  /** A row that is not of the table's columns. */
  #wide(className, text) {
    if (!this.#columns) return element("p", { class: className }, text);
    return element("tr", { class: className }, element("td", { colspan: this.#columns.length }, text));
  }
}

/** An event's data as the record that they are; null: they are none. */
function recordOf(data) {
  if (!data.startsWith("{")) return null;
  try {
    return JSON.parse(data, exact);
  } catch {
    return null;
  }
}

/** The sentence of a problem document (RFC 9457); empty: it is none. */
function detailOf(data) {
  const { title, detail, status, instance } = recordOf(data) ?? {};
  return title && status ? sentenceOf({ message: detail || title, instance }) : "";
}

function isNumber(value) {
  return typeof value === "number" || JSON.isRawJSON?.(value) === true;
}

function cell(value) {
  if (value === null || value === undefined) return element("td", { class: "null" }, value === null ? "null" : "");
  const isText = typeof value === "string";
  const text = cut(isText ? value : JSON.stringify(value), CELL_CHARACTERS);
  return element("td", { class: isNumber(value) && "number" }, isText ? quoted("", text) : text);
}
