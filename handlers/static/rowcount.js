/** How many rows a body has so far, of its bytes as they come. */

const LINE_END = 0x0a;
const QUOTE = 0x22;

export class RowCount {
  #ends = 0;
  #quotes;
  #blanks;
  #quoted = false;
  #last = LINE_END;
  #head;

  /** The rows of a format; null: it has none that can be counted so. @param {string} format - as `?format=` has it */
  static of(format) {
    switch (format) {
      case "csv": return new RowCount({ quotes: true, blanks: true, head: 1 });
      case "ndjson": return new RowCount({ quotes: false, blanks: false, head: 0 }); // a blank one is a heartbeat
      case "text": return new RowCount({ quotes: false, blanks: true, head: 0 });
      default: return null;
    }
  }

  /**
   * @param {object} options
   * @param {boolean} options.quotes - a line end between two quotes is none of a row's (RFC 4180)
   * @param {boolean} options.blanks - a line without anything is a row
   * @param {number} options.head - lines before the first row
   */
  constructor({ quotes, blanks, head }) {
    this.#quotes = quotes;
    this.#blanks = blanks;
    this.#head = head;
  }

  /** The rows that have come to their end. */
  get rows() {
    return Math.max(0, this.#ends - this.#head);
  }

  /** @param {Uint8Array} bytes - the next of them */
  add(bytes) {
    let ends = 0;
    let quoted = this.#quoted;
    let last = this.#last;
    for (const byte of bytes) {
      if (byte === LINE_END) ends += quoted || (last === LINE_END && !this.#blanks) ? 0 : 1;
      else if (byte === QUOTE && this.#quotes) quoted = !quoted; // a doubled one turns it twice
      last = byte;
    }
    this.#last = last;
    this.#ends += ends;
    this.#quoted = quoted;
  }
}
