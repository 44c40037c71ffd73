/** Values of JSON as they were sent, and texts of a bounded length. */

/** Characters of an event that are shown: 200 of 64 KiB each would be 13 million. */
export const SHOWN_CHARACTERS = 10_000;

/** A number as it was sent, for JSON.parse: JavaScript's own would round what is beyond 2^53. */
export function exact(key, value, { source } = {}) {
  return typeof value === "number" && JSON.rawJSON && source ? JSON.rawJSON(source) : value;
}

/** A text, cut where nobody would read on. */
export function cut(text, characters) {
  if (text.length <= characters) return text;
  return `${text.slice(0, characters)}… (${text.length.toLocaleString("en")} characters)`;
}
