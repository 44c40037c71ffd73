/**
 * The library's tracks: search, the list as it is shown, and what comes before and after a track in it.
 *
 * Only the answer to the newest search is ever shown; the requests before it are aborted.
 */

import { byId, element, quoted } from "./elements.js";
import { asProblem, isAbort, requestJson } from "./problem.js";
import { count, duration } from "./quantities.js";

const PAGE = 100;
const DEBOUNCE_MS = 200;

/**
 * @typedef {object} Track
 * @property {number} id
 * @property {string} title
 * @property {string | null} artist
 * @property {string | null} album
 * @property {number | null} duration_seconds
 * @property {string} media_type
 * @property {string} url
 * @property {string | null} cover_url
 */

export class Tracks {
  #list = byId("track-list");
  #count = byId("track-count");
  #search = byId("search");
  #more = byId("more-tracks");
  #empty = byId("tracks-empty");
  #notices;
  #onChoose;
  #onChange;
  /** @type {Track[]} */
  #tracks = [];
  #next = null;
  #currentId = null;
  #timer = 0;
  #latest = new AbortController();
  /** @type {Promise<void> | null} */
  #loadingMore = null;

  /**
   * @param {object} options
   * @param {import("./notices.js").Notices} options.notices
   * @param {(track: Track) => void} options.onChoose - the person chose a track to hear
   * @param {() => void} options.onChange - the list is another now
   */
  constructor({ notices, onChoose, onChange }) {
    this.#notices = notices;
    this.#onChoose = onChoose;
    this.#onChange = onChange;
    this.#search.addEventListener("input", () => this.#searchSoon());
    this.#search.addEventListener("keydown", (event) => this.#searchKey(event));
    this.#list.addEventListener("click", (event) => this.#choose(event));
    // Error events do not bubble: a cover that cannot be had leaves its empty frame.
    this.#list.addEventListener("error", (event) => event.target.remove(), true);
    this.#more.addEventListener("click", () => this.#showMore());
    byId("tracks-again").addEventListener("click", () => this.load());
  }

  /** The tracks shown, in order. */
  get shown() {
    return this.#tracks;
  }

  /** Asks for what the search field says; resolves when it is shown, has failed or was overtaken. */
  async load() {
    clearTimeout(this.#timer);
    this.#latest.abort();
    const search = (this.#latest = new AbortController());
    this.#loadingMore = null;
    this.#notices.trying("tracks");
    this.#list.setAttribute("aria-busy", "true");
    try {
      const page = await requestJson(this.#url(), search.signal);
      if (search.signal.aborted) return;
      this.#tracks = [];
      this.#list.replaceChildren();
      this.#add(page);
      this.#notices.clear("tracks");
    } catch (error) {
      if (isAbort(error) || search.signal.aborted) return;
      this.#fail(error, () => this.load());
    }
    this.#list.setAttribute("aria-busy", "false");
  }

  /** Marks the row of the current track. @param {number} id */
  mark(id) {
    this.#currentId = String(id);
    for (const row of this.#list.querySelectorAll(".track")) this.#markRow(row);
  }

  /** @param {number} id @returns {Track | null} the track before it in the list as shown */
  before(id) {
    return this.#tracks[this.#index(id) - 1] ?? null;
  }

  /** Whether something follows a track. @param {number} id */
  hasAfter(id) {
    return this.#index(id) + 1 < this.#tracks.length || this.#next !== null;
  }

  /**
   * The track after another in the list as shown, fetching the next page if it stands there.
   * The first one if the other is not in the list (any more).
   *
   * @param {number} id
   * @returns {Promise<Track | null>}
   */
  async after(id) {
    if (this.#index(id) + 1 >= this.#tracks.length) await this.#loadMore();
    return this.#tracks[this.#index(id) + 1] ?? null;
  }

  #index(id) {
    return this.#tracks.findIndex((track) => track.id === id);
  }

  get #query() {
    return this.#search.value.trim();
  }

  #url() {
    // An empty parameter is malformed to the server, so an empty search is left out.
    const query = this.#query ? `q=${encodeURIComponent(this.#query)}&` : "";
    return `/audio?${query}limit=${PAGE}`;
  }

  #searchSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.load(), DEBOUNCE_MS);
  }

  #searchKey(event) {
    // The Escape or Enter that ends an input method's composition is not ours.
    if (event.isComposing) return;
    if (event.key === "Enter") this.load();
    if (event.key === "Escape" && this.#search.value) {
      event.preventDefault();
      this.#search.value = "";
      this.load();
    }
  }

  #choose(event) {
    const row = event.target.closest(".track");
    if (!row) return;
    this.#onChoose(this.#tracks.find((track) => String(track.id) === row.dataset.id));
  }

  async #showMore() {
    const firstNew = this.#tracks.length;
    await this.#loadMore();
    // The button has gone with the last page: the focus goes to what it brought.
    if (this.#more.hidden) this.#list.children[firstNew]?.firstChild.focus();
  }

  /** Appends the next page, if there is one; a second call meanwhile waits for the first. */
  #loadMore() {
    if (this.#next === null) return Promise.resolve();
    this.#loadingMore ??= this.#appendPage(this.#latest).finally(() => { this.#loadingMore = null; });
    return this.#loadingMore;
  }

  async #appendPage(search) {
    try {
      const page = await requestJson(this.#next, search.signal);
      if (search.signal.aborted) return;
      this.#add(page);
      this.#notices.clear("tracks");
    } catch (error) {
      if (!isAbort(error) && !search.signal.aborted) {
        // By itself the page moves no focus.
        this.#fail(error, () => this.#showMore(), () => this.#loadMore());
      }
    }
  }

  #add({ tracks, next }) {
    // The library may have changed between two pages: a track is shown once.
    const known = new Set(this.#tracks.map((track) => track.id));
    const fresh = tracks.filter((track) => !known.has(track.id));
    this.#tracks.push(...fresh);
    this.#next = next ?? null;
    this.#list.append(...fresh.map((track) => this.#row(track)));
    this.#more.hidden = this.#next === null;
    this.#empty.hidden = this.#tracks.length > 0 || this.#query !== "";
    this.#count.textContent = this.#countSentence();
    this.#onChange();
  }

  #countSentence() {
    const number = this.#tracks.length;
    if (number === 0) return this.#query ? `No track matches “${this.#query}”` : "";
    return this.#next === null ? count(number, "track") : `first ${count(number, "track")}`;
  }

  #row(track) {
    const cover = element("span", { class: "cover" });
    if (track.cover_url) {
      cover.append(element("img", { src: track.cover_url, alt: "", loading: "lazy", width: 44, height: 44 }));
    }
    const row = element("button", { type: "button", class: "track", "data-id": track.id },
      cover,
      quoted("track-title", track.title),
      quoted("track-by", byline(track)),
      element("span", { class: "track-duration" }, duration(track.duration_seconds)));
    this.#markRow(row);
    return element("li", {}, row);
  }

  #markRow(row) {
    if (row.dataset.id === this.#currentId) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }

  #fail(error, again, whenBack = again) {
    const problem = asProblem(error);
    this.#notices.show("tracks", `The tracks could not be listed. ${problem.message}`, {
      reference: problem.instance,
      actions: [{ label: "Try again", act: again }],
      whenBack: problem.unanswered ? whenBack : null,
    });
  }
}

/** @param {Track} track @returns {string} `artist · album`, as far as they are known */
export function byline(track) {
  return [track.artist, track.album].filter(Boolean).join(" · ");
}
