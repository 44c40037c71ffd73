/** Elements of the page: made from data without ever parsing it as HTML, found by id. */

/** Pixels from the end of a box that still count as there. */
const NEAR_END = 24;

/** @param {string} id - of an element that index.html has */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * A new element.
 *
 * @param {string} name
 * @param {Record<string, string | boolean | number>} attributes - `true` stands without a value, `false` is left out
 * @param {...(Node | string)} children - a string becomes a text node
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value !== false) made.setAttribute(attribute, value === true ? "" : String(value));
  }
  made.append(...children);
  return made;
}

/** A text out of the library: in no known language, in either direction. */
export function quoted(className, text) {
  return element("span", { class: className, lang: "", dir: "auto" }, text);
}

/**
 * Whether a button can be used now.
 *
 * `aria-disabled` and not `disabled`, which would take the focus away from under the person's finger.
 */
export function setEnabled(button, enabled) {
  button.setAttribute("aria-disabled", String(!enabled));
}

/** Calls `act` when the button is pressed while it is enabled. */
export function onPress(button, act) {
  button.addEventListener("click", () => {
    if (button.getAttribute("aria-disabled") !== "true") act();
  });
}

/**
 * Keeps the end of a scrolling box in view while it grows or takes another size.
 *
 * The person's own scrolling away ends that, and coming back to the end begins it again.
 */
export class Tail {
  #box;
  #wanted = true;
  #follows = true;
  #top = 0;
  #size = "";

  /** @param {HTMLElement} box */
  constructor(box) {
    this.#box = box;
    box.addEventListener("scroll", () => this.#scrolled());
    new ResizeObserver(() => {
      this.#size = this.#sizeNow;
      this.keep();
    }).observe(box);
  }

  /** For new contents: forgets where the person was. @param {boolean} wanted - whether the end is to be kept */
  begin(wanted = true) {
    this.#wanted = wanted;
    this.#follows = wanted;
    this.#top = 0;
  }

  /** Call it when the box has grown: brings the end into view, unless the person is elsewhere. */
  keep() {
    if (!this.#follows) return;
    this.#box.scrollTop = this.#box.scrollHeight;
    this.#top = this.#box.scrollTop;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#box;
    // In a frame that brings another size, scrolling is the browser's, and told before the size is.
    if (!this.#wanted || this.#size !== this.#sizeNow) return;
    const left = scrollHeight - scrollTop - clientHeight;
    this.#follows = scrollTop < this.#top ? left < 1 : this.#follows || left < NEAR_END;
    this.#top = scrollTop;
  }

  get #sizeNow() {
    return `${this.#box.clientWidth} ${this.#box.clientHeight}`;
  }
}
