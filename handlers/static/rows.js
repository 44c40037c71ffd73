/** The rows of a body as its bytes come: how many there are, and what is needed to go on behind the last of them. */

import { exact } from "./values.js";

const LINE_END = 0x0a;
const QUOTE = 0x22;

export class Rows {
  /** Bytes up to the end of the last whole row. */
  whole = 0;
  #csv;
  #blanks;
  #ends = 0;
  #quoted = false;
  #last = LINE_END;
  /** CSV's line of names. @type {Uint8Array[]} */
  #head = [];
  /** The last whole row, and what has come of the next. @type {Uint8Array[]} */
  #row = [];
  #next = [];

  /** The rows of a format; null: it has none that can be told apart so. @param {string} format - as `?format=` has it */
  static of(format) {
    return ["csv", "ndjson", "text"].includes(format) ? new Rows(format) : null;
  }

  constructor(format) {
    this.#csv = format === "csv";
    this.#blanks = format !== "ndjson"; // there an empty line is a heartbeat
  }

  /** The rows that have come to their end. */
  get count() {
    return Math.max(0, this.#ends - Number(this.#csv));
  }

  /** @param {Uint8Array} bytes - the next of them */
  add(bytes) {
    let start = 0;
    let quoted = this.#quoted;
    let last = this.#last;
    for (let at = 0; at < bytes.length; at += 1) {
      const byte = bytes[at];
      if (byte === LINE_END && !quoted && (this.#blanks || last !== LINE_END)) {
        this.#end(bytes.subarray(start, at + 1));
        start = at + 1;
      } else if (byte === QUOTE && this.#csv) {
        quoted = !quoted; // a doubled one turns it twice
      }
      last = byte;
    }
    this.#quoted = quoted;
    this.#last = last;
    if (start < bytes.length) this.#next.push(bytes.subarray(start));
  }

  /** What comes next stands behind the last whole row; of what came behind it nothing is kept. */
  goOn() {
    this.#next = [];
    this.#quoted = false;
    this.#last = LINE_END;
  }

  /** The value of a column in the last whole row, as a query has it; null: it has none. @param {string} column */
  async value(column) {
    const row = await new Blob(this.#row).text();
    if (!this.#csv) return valueOf(row, column);
    const names = fields(await new Blob(this.#head).text());
    return fields(row)[names.indexOf(column)] ?? null;
  }

  #end(bytes) {
    this.#row = this.#next;
    this.#row.push(bytes);
    this.#next = [];
    this.whole += this.#row.reduce((sum, part) => sum + part.length, 0);
    this.#ends += 1;
    if (this.#csv && this.#ends === 1) this.#head = this.#row;
  }
}

/** The fields of one row of CSV (RFC 4180). */
function fields(row) {
  const found = row.replace(/\r?\n$/, "").matchAll(/(?<=^|,)(?:"([^"]*(?:""[^"]*)*)"|([^,]*))(?=,|$)/g);
  return [...found].map(([, quoted, plain]) => (quoted === undefined ? plain : quoted.replaceAll('""', '"')));
}

/** A member of a JSON object: text as it is, a number with each of its digits. */
function valueOf(line, name) {
  try {
    const value = JSON.parse(line, exact)[name];
    if (value === null || value === undefined) return null;
    return typeof value === "string" ? value : JSON.stringify(value);
  } catch {
    return null; // not a record
  }
}
