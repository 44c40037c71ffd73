/**
 * What went wrong, told to the person: the page's alert region.
 *
 * Each part of the page has one key, so a new failure of a part takes the place of its last one. What failed
 * because the server could not be reached is tried again as soon as it answers, whoever asked it.
 */

import { element } from "./elements.js";
import { request, server } from "./problem.js";

const FIRST_PAUSE_SECONDS = 2;
const LONGEST_PAUSE_SECONDS = 15;
/** Seconds that the server has to say that it is there. */
const SIGN_SECONDS = 5;

export class Notices {
  #region;
  /** @type {Map<string, HTMLElement>} */
  #shown = new Map();
  /** What waits for the server, by key. @type {Map<string, () => void>} */
  #waiting = new Map();
  #timer = 0;

  /** @param {HTMLElement} region - with role="alert" */
  constructor(region) {
    this.#region = region;
    server.addEventListener("answer", () => this.#tryAgain());
  }

  /**
   * @param {string} key - the part of the page that failed
   * @param {string} message - a sentence
   * @param {object} [options]
   * @param {string} [options.detail] - a sentence that few need
   * @param {string} [options.reference] - the request id
   * @param {{label: string, act: () => void}[]} [options.actions] - buttons; pressing one takes the notice away
   * @param {(() => void) | null} [options.whenBack] - called once when the server answers again, even if the
   *   person has dismissed the notice; null if the server was not what was missing
   */
  show(key, message, { detail = "", reference = "", actions = [], whenBack = null } = {}) {
    this.clear(key);
    const before = document.activeElement;
    const leave = () => {
      this.#remove(key);
      if (before?.isConnected) before.focus({ preventScroll: true });
    };
    const notice = element("div", { class: "notice", "data-key": key }, element("p", {}, message));
    const small = [detail, reference && `Request ${reference}`].filter(Boolean).join(" ");
    if (small) notice.firstChild.append(" ", element("small", {}, small));
    for (const { label, act } of actions) {
      notice.append(button(label, "action", () => { leave(); act(); }));
    }
    const dismiss = button("Dismiss", "dismiss", leave);
    notice.append(dismiss);
    this.#shown.set(key, notice);
    this.#region.append(notice);
    if (!whenBack) return;
    this.#waiting.set(key, whenBack);
    this.#knock(FIRST_PAUSE_SECONDS);
  }

  /** Takes the notice of a part away, if there is one. */
  clear(key) {
    this.#remove(key);
    this.trying(key);
  }

  /** The part asks the server by itself: nothing of it waits any more. Its notice stays until that has ended. */
  trying(key) {
    this.#waiting.delete(key);
  }

  #remove(key) {
    this.#shown.get(key)?.remove();
    this.#shown.delete(key);
  }

  #tryAgain() {
    const acts = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const act of acts) act();
  }

  /** Asks after some seconds whether the server is there, and again until it is or nothing waits for it. */
  #knock(seconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      if (this.#waiting.size === 0) return;
      try {
        const response = await request("/healthz", { signal: AbortSignal.timeout(SIGN_SECONDS * 1000) });
        response.body?.cancel().catch(() => {});
      } catch {
        this.#knock(Math.min(2 * seconds, LONGEST_PAUSE_SECONDS));
      }
    }, seconds * 1000);
  }
}

function button(label, className, act) {
  const made = element("button", { type: "button", class: className }, label);
  made.addEventListener("click", act);
  return made;
}
